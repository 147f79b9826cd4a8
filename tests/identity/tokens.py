"""JSON Web Tokens that prove nothing, each with the reason that stands in the log."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable
from typing import Any

import jwt
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.identity.credentials import Case
from tests.identity.issuer import Issuer, encoded, private_key, public_jwk
from tests.identity.serving import bearer
from tests.identity.wire import Headers
from tests.identity.world import World
from tests.support.inside import PUBLIC


def made(name: str, reason: str, build: Callable[[Issuer], str]) -> Case:
    """Return a case whose token is `build`'s."""
    return Case(name, reason, lambda world: [bearer(world.secret(build(world.issuer)))])


def claims(name: str, reason: str, **given: Any) -> Case:
    """Return a case that is signed as it should be and says something else."""
    return made(name, reason, lambda issuer: issuer.signed(_HEADER, issuer.claims(**given)))


def headed(name: str, reason: str, **given: Any) -> Case:
    """Return a case whose header differs; None leaves a field out. The signature is right."""
    header = {field: value for field, value in ({**_HEADER} | given).items() if value is not None}
    return made(name, reason, lambda issuer: issuer.signed(header, issuer.claims()))


_HEADER = {"alg": "RS256", "kid": "first", "typ": "JWT"}
_DEEP = "[" * 3000 + "]" * 3000


def _now() -> int:
    return int(time.time())


def _parts(issuer: Issuer) -> tuple[str, str, str]:
    header, payload, signature = issuer.token().split(".")
    return header, payload, signature


def _replaced(issuer: Issuer, **given: Any) -> str:
    """Return a token whose parts were replaced after it was signed."""
    parts = dict(zip(("header", "payload", "signature"), _parts(issuer), strict=True))
    return ".".join((parts | given).values())


def _public_pem(issuer: Issuer) -> bytes:
    del issuer
    key = private_key("RS256", "first")
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _hmac(secret: bytes, payload: object, **header: Any) -> str:
    text = f"{encoded({**_HEADER, 'alg': 'HS256', **header})}.{encoded(payload)}"
    return f"{text}.{encoded(hmac.new(secret, text.encode(), hashlib.sha256).digest())}"


def _by_stranger(issuer: Issuer, **header: Any) -> str:
    """Return a token that an attacker signed and whose header says where the key is."""
    key = private_key("RS256", "stranger")
    return jwt.encode(issuer.claims(), key, "RS256", headers={"kid": "first", **header})


def _stranger_jwk() -> dict[str, Any]:
    return public_jwk(private_key("RS256", "stranger"), kid="first", alg="RS256")


def _published(key_id: str, algorithm: str = "RS256", **jwk: Any) -> Callable[[Issuer], str]:
    """Return a build that signs with a further key, published so."""

    def build(issuer: Issuer) -> str:
        issuer.add(key_id, algorithm, **jwk)
        return issuer.token(key_id)

    return build


def _symmetric(issuer: Issuer) -> str:
    issuer.jwks.append({"kty": "oct", "kid": "shared", "k": encoded(b"k" * 32), "alg": "RS256"})
    return _hmac(b"k" * 32, issuer.claims(), alg="RS256", kid="shared")


def _weak(issuer: Issuer) -> str:
    key = private_key("RS256", "weak", size=1024)
    issuer.jwks.append(public_jwk(key, kid="weak", alg="RS256"))
    text = f"{encoded({**_HEADER, 'kid': 'weak'})}.{encoded(issuer.claims())}"
    return f"{text}.{encoded(jwt.get_algorithm_by_name('RS256').sign(text.encode(), key))}"


STRUCTURE = [
    made("not a token", "malformed_token", lambda _: "not-a-token"),
    made("dots alone", "malformed_token", lambda _: ".."),
    made("two parts", "malformed_token", lambda issuer: ".".join(_parts(issuer)[:2])),
    made("four parts", "malformed_token", lambda issuer: issuer.token() + ".x"),
    made("encrypted form", "malformed_token", lambda issuer: issuer.token() + ".x.y"),
    made("header is not base64", "malformed_token", lambda issuer: _replaced(issuer, header="!!!!")),
    made("header is not JSON", "malformed_token", lambda issuer: _replaced(issuer, header=encoded("{alg"))),
    made("header is a list", "malformed_token", lambda issuer: _replaced(issuer, header=encoded(["RS256"]))),
    made("header is not UTF-8", "malformed_token", lambda issuer: _replaced(issuer, header=encoded(b'{"alg":"\xff"}'))),
    made("header nests deep", "malformed_token", lambda issuer: f"{encoded(_DEEP)}.e30.e30"),
    made("payload is not JSON", "malformed_token", lambda issuer: issuer.signed(_HEADER, "{sub")),
    made("payload is a list", "malformed_token", lambda issuer: issuer.signed(_HEADER, ["ann"])),
    made("payload nests deep", "malformed_token", lambda issuer: issuer.signed(_HEADER, _DEEP[:2000] + _DEEP[-2000:])),
    made("payload exchanged", "wrong_signature", lambda i: _replaced(i, payload=encoded(i.claims(sub="root")))),
    made("signature exchanged", "wrong_signature", lambda issuer: _replaced(issuer, signature=encoded(b"x" * 256))),
    made("no signature", "wrong_signature", lambda issuer: _replaced(issuer, signature="")),
    made("signed by a stranger", "wrong_signature", _by_stranger),
]

ALGORITHMS = [
    made("alg none", "algorithm_not_allowed", lambda i: f"{encoded({**_HEADER, 'alg': 'none'})}.{_parts(i)[1]}."),
    made("alg nOnE", "algorithm_not_allowed", lambda i: f"{encoded({**_HEADER, 'alg': 'nOnE'})}.{_parts(i)[1]}."),
    made("HMAC with the public key", "algorithm_not_allowed", lambda i: _hmac(_public_pem(i), i.claims())),
    made("HMAC with nothing", "algorithm_not_allowed", lambda i: _hmac(b"", i.claims())),
    made("RS512 is not on the list", "algorithm_not_allowed", _published("rs", "RS512")),
    made("PS256 is not on the list", "algorithm_not_allowed", _published("ps", "PS256")),
    headed("no alg", "algorithm_not_allowed", alg=None),
    headed("alg in small letters", "algorithm_not_allowed", alg="rs256"),
    headed("alg is a list", "algorithm_not_allowed", alg=["RS256"]),
    headed("alg of another type of key", "algorithm_not_allowed", alg="ES256"),
]

KEY_IDS = [
    headed("no kid", "no_key_id", kid=None),
    headed("empty kid", "no_key_id", kid=""),
    headed("kid is a number", "malformed_token", kid=7),
    headed("kid too long", "no_key_id", kid="k" * 257),
    headed("unknown kid", "unknown_key", kid="second"),
    headed("kid is a path", "unknown_key", kid="../../dev/null"),
    headed("kid is an injection", "unknown_key", kid="x' UNION SELECT 'key"),
    made("symmetric key published", "unknown_key", _symmetric),
    made("key for encryption", "unknown_key", _published("enc", use="enc")),
    made("weak key", "unknown_key", _weak),
]

EMBEDDED = [
    made("key in the header", "wrong_signature", lambda issuer: _by_stranger(issuer, jwk=_stranger_jwk())),
    made("key set by address", "wrong_signature", lambda i: _by_stranger(i, jku=f"{i.url}/stranger")),
    made("certificate by address", "wrong_signature", lambda i: _by_stranger(i, x5u=f"{i.url}/stranger")),
    made("certificate in the header", "wrong_signature", lambda issuer: _by_stranger(issuer, x5c=["MIIB"])),
    headed("critical extension", "malformed_token", crit=["exp"], exp=1),
    headed("crit is no list", "malformed_token", crit="b64"),
    headed("payload outside", "malformed_token", crit=["b64"], b64=False),
    headed("logout token", "wrong_type", typ="logout+jwt"),
    headed("event token", "wrong_type", typ="secevent+jwt"),
    headed("type is a list", "wrong_type", typ=["JWT"]),
]

CLAIMS = [
    claims("expired", "expired", exp=1_000_000_000),
    made("expired beyond the leeway", "expired", lambda issuer: issuer.token(exp=_now() - 31)),
    made("not yet valid", "not_yet_valid", lambda issuer: issuer.token(nbf=_now() + 60)),
    made("issued tomorrow", "not_yet_valid", lambda issuer: issuer.token(iat=_now() + 86_400)),
    claims("wrong audience", "wrong_audience", aud="https://other.example.com/mcp"),
    claims("audience without path", "wrong_audience", aud=PUBLIC),
    claims("audience with a slash more", "wrong_audience", aud=f"{PUBLIC}/mcp/"),
    claims("audience in capitals", "wrong_audience", aud=f"{PUBLIC}/mcp".upper()),
    claims("audiences without ours", "wrong_audience", aud=["a", "b"]),
    claims("no audience in the list", "missing_claim", aud=[]),
    claims("audience is a number", "wrong_audience", aud=7),
    claims("audience is an object", "wrong_audience", aud={f"{PUBLIC}/mcp": 1}),
    claims("ID token of a client", "wrong_audience", aud="client-1", nonce="n", at_hash="h"),
    claims("wrong issuer", "wrong_issuer", iss="https://evil.example.com"),
    made("issuer with a slash more", "wrong_issuer", lambda issuer: issuer.token(iss=issuer.url + "/")),
    made("issuer is a list", "wrong_issuer", lambda i: i.signed(_HEADER, i.claims(iss=[i.url]))),
    *(claims(f"no {name}", "missing_claim", **{name: None}) for name in ("iss", "aud", "exp", "nbf", "sub")),
    claims("exp is text", "malformed_token", exp="tomorrow"),
    claims("exp is a list", "malformed_token", exp=[9_999_999_999]),
    claims("exp without end", "malformed_token", exp=float("inf")),
    claims("nbf is an object", "malformed_token", nbf={}),
    claims("iat is text", "invalid_token", iat="now"),
    claims("sub is a number", "invalid_token", sub=7),
    claims("sub is empty", "bad_subject", sub=""),
    claims("sub breaks lines", "bad_subject", sub="ann\r\nroot"),
    claims("sub too long", "bad_subject", sub="a" * 257),
    claims("sub is half a character", "bad_subject", sub="\ud800"),
    claims("jti is a number", "invalid_token", jti=7),
]


async def _revoked_token(world: World) -> Headers:
    await world.revocations.revoke("token", "token-9", 60)
    return [bearer(world.token(jti="token-9"))]


async def _revoked_subject(world: World) -> Headers:
    await world.revocations.revoke("subject", "leaver", 60)
    return [bearer(world.token(sub="leaver"))]


REVOKED = [
    Case("revoked token", "revoked", _revoked_token, "ann"),
    Case("revoked subject", "revoked", _revoked_subject, "leaver"),
]
TOKENS = [*STRUCTURE, *ALGORITHMS, *KEY_IDS, *EMBEDDED, *CLAIMS, *REVOKED]
