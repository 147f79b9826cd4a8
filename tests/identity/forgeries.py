"""What replicas say of a request, and everything that somebody else may say in their place (S5)."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Callable
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.utils import base64url_encode

HERE: Final = "http://127.0.0.1:9443"
OLD, NEW, OTHER = (letter * 32 for letter in "onx")
HEADER: Final = "X-Peer-Assertion"
CLAIMS: Final = (
    *("iss", "aud", "iat", "exp", "jti", "sub", "tenant"),
    *("scopes", "way", "revocations", "method", "session", "body"),
)
Claims = dict[str, Any]
Forgery = Callable[[Claims], str]


def body_of(tool: str = "whoami", padding: int = 0) -> bytes:
    """Return a call; white space makes it as long as wanted."""
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": {}}}
    return json.dumps(message).encode() + b" " * padding


def claims_of(session: str | None, body: bytes, **changes: Any) -> Claims:
    """Return what a replica would say of this body."""
    now = int(time.time())
    said = {
        **{"iss": "notes", "aud": HERE, "iat": now, "exp": now + 10, "jti": secrets.token_hex(16)},
        **{"sub": "agent-7", "tenant": "acme", "scopes": ["notes:read"], "way": "key", "revocations": []},
        **{"method": "POST", "session": session, "body": hashlib.sha256(body).hexdigest()},
    }
    return said | changes


def sign(claims: Claims, secret: str = NEW, algorithm: str = "HS256", **header: Any) -> str:
    """Return the assertion."""
    return jwt.encode(claims, secret, algorithm, headers=header)


def with_alg(algorithm: str) -> Forgery:
    """Name another algorithm over a signature that is right for HS256."""

    def forge(claims: Claims) -> str:
        _, payload, _ = sign(claims).split(".")
        signed = base64url_encode(json.dumps({"alg": algorithm, "typ": "JWT"}).encode()).decode() + "." + payload
        mac = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
        return f"{signed}.{base64url_encode(mac.sign(signed.encode(), NEW.encode())).decode()}"

    return forge


def without(name: str) -> Forgery:
    return lambda claims: sign({key: value for key, value in claims.items() if key != name})


def changed(**changes: Any) -> Forgery:
    return lambda claims: sign(claims | changes)


def by_rsa(claims: Claims) -> str:
    return jwt.encode(claims, rsa.generate_private_key(65537, 2048), "RS256")


def flipped(claims: Claims) -> str:
    head, payload, signature = sign(claims).split(".")
    return ".".join((head, payload, ("B" if signature[0] == "A" else "A") + signature[1:]))


def richer(claims: Claims) -> str:
    head, _, signature = sign(claims).split(".")
    return ".".join((head, sign(claims | {"scopes": ["*"]}).split(".")[1], signature))


FORGERIES: dict[str, Forgery] = {
    "another secret": lambda claims: sign(claims, OTHER),
    "no algorithm": lambda claims: jwt.encode(claims, "", "none"),
    "no signature": lambda claims: sign(claims).rpartition(".")[0] + ".",
    "an asymmetric key": by_rsa,
    "RS256 over HMAC": with_alg("RS256"),
    "none over HMAC": with_alg("none"),
    "another hash": lambda claims: sign(claims, NEW, "HS512"),
    "a critical header": lambda claims: sign(claims, NEW, crit=["b64"], b64=False),
    "a flipped signature": flipped,
    "a better payload": richer,
    "expired": lambda claims: sign(claims | {"iat": claims["iat"] - 16, "exp": claims["exp"] - 16}),
    "from the future": lambda claims: sign(claims | {"iat": claims["iat"] + 7, "exp": claims["exp"] + 7}),
    "not yet": lambda claims: sign(claims | {"nbf": claims["iat"] + 7}),
    "another audience": changed(aud="http://127.0.0.1:9444"),
    "another spelling": changed(aud=HERE + "/"),
    "another server": changed(iss="ledger"),
    "another method": changed(method="DELETE"),
    "another session": changed(session="0" * 32),
    "another body": changed(body=hashlib.sha256(body_of("read")).hexdigest()),
    "no digest": changed(body=""),
    "a session that is none": changed(session=None),
    "scopes in one text": changed(scopes="notes:read notes:write"),
    "an unknown way": changed(way="root"),
    "a number as name": changed(sub=7),
    "an end in words": changed(exp="soon"),
    "an endless life": changed(exp=1e400),
    "nothing": lambda _: "",
    "rubbish": lambda _: "let me in",
    "three dots": lambda _: "...",
    "a deep header": lambda _: base64url_encode(b"[" * 6000).decode() + ".e30.e30",
    "very long": lambda _: "a" * 12_000,
    **{f"without {name}": without(name) for name in CLAIMS},
}
