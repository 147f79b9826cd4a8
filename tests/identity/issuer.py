"""An OAuth issuer on loopback: it signs, rotates, goes down, comes back, and lies on demand."""

from __future__ import annotations

import base64
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.support.inside import PUBLIC, listening

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
CONFIGURATION = "/.well-known/openid-configuration"
KEYS = "/keys"
_CURVES: Mapping[str, ec.EllipticCurve] = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}


@cache
def private_key(algorithm: str, name: str = "first", *, size: int = 2048) -> PrivateKey:
    """Return the same key for the same name: making one is slow."""
    del name
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    if algorithm in _CURVES:
        return ec.generate_private_key(_CURVES[algorithm])
    return rsa.generate_private_key(public_exponent=65_537, key_size=size)


def public_jwk(key: PrivateKey, **fields: Any) -> dict[str, Any]:
    """Return the public half as an issuer publishes it."""
    if isinstance(key, rsa.RSAPrivateKey):
        found = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        found = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    else:
        found = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    found.pop("key_ops", None)
    return {**found, **fields}


def encoded(part: object) -> str:
    """Return a part of a JWT; text and bytes go in as they are."""
    data = part if isinstance(part, bytes) else part.encode() if isinstance(part, str) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """The issuer; as an ASGI application it publishes its metadata and its keys."""

    def __init__(self) -> None:
        self.port = 0
        self.fetches: Counter[str] = Counter()
        self.instead: dict[str, ASGIApp] = {}
        """What answers in place of a path."""
        self.issuer: str | None = None
        """What the metadata says the issuer is, if not the truth."""
        self.jwks: list[dict[str, Any]] = []
        self._signing: dict[str, tuple[PrivateKey, str]] = {}
        self._listening = AsyncExitStack()
        self.add("first")

    @property
    def url(self) -> str:
        """The issuer as its tokens name it."""
        return f"http://127.0.0.1:{self.port}"

    def add(self, key_id: str, algorithm: str = "RS256", **fields: Any) -> None:
        """Publish a further key; `fields` change its JWK."""
        key = private_key(algorithm, key_id)
        self._signing[key_id] = key, algorithm
        self.jwks.append(public_jwk(key, **({"kid": key_id, "alg": algorithm, "use": "sig"} | fields)))

    def withdraw(self, key_id: str) -> None:
        """Publish a key no more; its holder can still sign."""
        self.jwks = [key for key in self.jwks if key["kid"] != key_id]

    def claims(self, **given: Any) -> dict[str, Any]:
        """Return the claims of a good token, changed by `given`; None leaves a claim out."""
        now = int(time.time())
        good = {"iss": self.url, "aud": f"{PUBLIC}/mcp", "sub": "ann", "iat": now, "nbf": now, "exp": now + 300}
        good |= {"scope": "notes:read", "jti": "token-1"}
        return {name: value for name, value in (good | given).items() if value is not None}

    def token(self, key_id: str = "first", *, header: Mapping[str, Any] | None = None, **claims: Any) -> str:
        """Return a signed token."""
        key, algorithm = self._signing[key_id]
        return jwt.encode(self.claims(**claims), key, algorithm, headers={"kid": key_id, **(header or {})})

    def signed(self, header: object, payload: object, key_id: str = "first") -> str:
        """Return a token with a valid signature over any header and payload."""
        key, algorithm = self._signing[key_id]
        text = f"{encoded(header)}.{encoded(payload)}"
        return f"{text}.{encoded(jwt.get_algorithm_by_name(algorithm).sign(text.encode(), key))}"

    async def start(self) -> None:
        """Listen, on the same port as before."""
        self.port = await self._listening.enter_async_context(listening(self, port=self.port, lifespan="off"))

    async def stop(self) -> None:
        """Refuse connections."""
        await self._listening.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        self.fetches[path] += 1
        if path in self.instead:
            await self.instead[path](scope, receive, send)
        elif path == CONFIGURATION:
            await reply(send, {"issuer": self.issuer or self.url, "jwks_uri": f"{self.url}{KEYS}"})
        elif path == KEYS:
            await reply(send, {"keys": self.jwks})
        else:
            await reply(send, {}, status=404)


async def reply(send: Send, value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
    """Answer with JSON, or with bytes as they are."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    given = {"content-type": "application/json", "content-length": str(len(body))} | dict(headers or {})
    pairs = [(name.encode(), text.encode()) for name, text in given.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


def replying(value: object, **how: Any) -> ASGIApp:
    """Return an application that always answers the same."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await reply(send, value, **how)

    return app


@asynccontextmanager
async def issuing() -> AsyncIterator[Issuer]:
    """Run an issuer."""
    issuer = Issuer()
    await issuer.start()
    try:
        yield issuer
    finally:
        await issuer.stop()
