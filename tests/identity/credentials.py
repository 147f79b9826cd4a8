"""Credentials that prove nothing, each with the reason that stands in the log: headers and keys."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from mcp_chassis.auth import keys
from tests.identity.serving import bearer
from tests.identity.wire import Headers
from tests.identity.world import World, yesterday

Build = Callable[[World], Headers | Awaitable[Headers]]


@dataclass(frozen=True)
class Case:
    """One bad credential."""

    name: str
    reason: str
    build: Build
    caller: str = "unknown"
    """Whom the log names: a revoked credential proved who sent it."""


def header(name: str, reason: str, value: str | bytes) -> Case:
    """Return a case that is one `Authorization` header."""
    return Case(name, reason, lambda _: [("Authorization", value)])


def around(name: str, reason: str, change: Callable[[str], str | bytes]) -> Case:
    """Return a case that spoils the header of a good key."""
    return Case(name, reason, lambda world: [("Authorization", change(world.key()))])


def spoiled_key(name: str, reason: str, change: Callable[[str], str]) -> Case:
    """Return a case that spoils a good key."""
    return Case(name, reason, lambda world: [bearer(world.secret(change(world.key())))])


HEADERS = [
    Case("nothing", "no_credential", lambda _: []),
    Case("key in another header", "no_credential", lambda world: [("X-Api-Key", world.key())]),
    Case("key in a cookie", "no_credential", lambda world: [("Cookie", f"access_token={world.key()}")]),
    Case("key as a proxy's", "no_credential", lambda world: [("Proxy-Authorization", f"Bearer {world.key()}")]),
    header("empty header", "wrong_scheme", ""),
    header("scheme alone", "malformed_credential", "Bearer"),
    header("basic", "wrong_scheme", "Basic dXNlcjpwYXNz"),
    header("digest", "wrong_scheme", 'Digest username="ann", realm="notes"'),
    around("key without scheme", "wrong_scheme", lambda key: key),
    around("other scheme", "wrong_scheme", lambda key: f"Token {key}"),
    around("dpop scheme", "wrong_scheme", lambda key: f"DPoP {key}"),
    around("no space", "wrong_scheme", lambda key: f"Bearer{key}"),
    around("colon", "wrong_scheme", lambda key: f"Bearer: {key}"),
    around("tab", "wrong_scheme", lambda key: f"Bearer\t{key}"),
    around("no-break space", "wrong_scheme", lambda key: f"Bearer\xa0{key}"),
    around(
        "full-width scheme", "wrong_scheme", lambda key: f"\N{FULLWIDTH LATIN CAPITAL LETTER B}earer {key}".encode()
    ),
    around("two spaces", "malformed_credential", lambda key: f"Bearer  {key}"),
    around("two keys in one header", "malformed_credential", lambda key: f"Bearer {key}, Bearer {key}"),
    around("parameters behind", "malformed_credential", lambda key: f'Bearer {key} realm="notes"'),
    around("UTF-8", "malformed_credential", lambda key: f"Bearer {key}ü".encode()),
    around("Latin-1", "malformed_credential", lambda key: f"Bearer {key}ü"),
    around("zero-width space", "malformed_credential", lambda key: f"Bearer \u200b{key}".encode()),
    around("quoted", "malformed_token", lambda key: f'Bearer "{key}"'),
    header("oversized", "oversized_credential", "Bearer " + "a" * 8193),
    Case("twice the same", "duplicate_credential", lambda world: [bearer(world.key())] * 2),
    Case("good and bad", "duplicate_credential", lambda world: [bearer(world.key()), bearer("bad")]),
    Case(
        "good and another spelling",
        "duplicate_credential",
        lambda world: [bearer(world.key()), ("AUTHORIZATION", f"Bearer {world.key()}")],
    ),
]


def _flipped(key: str) -> str:
    """Return a key whose secret differs in one letter, with a checksum that is right."""
    body = key[:-6]
    changed = body[:-1] + ("a" if body[-1] != "a" else "b")
    return changed + keys._checksum(changed)


def _of_another_server(_world: World) -> Headers:
    return [bearer(keys.create("agent-7", tenant="acme")[0])]


async def _revoked_key(world: World) -> Headers:
    key = world.key("leaver")
    await world.revocations.revoke("key", keys.split(key)[0], None)
    return [bearer(key)]


async def _revoked_caller(world: World) -> Headers:
    key = world.key("leaver")
    await world.revocations.revoke("subject", "leaver", 60)
    return [bearer(key)]


def _hash_for_secret(world: World) -> Headers:
    key = world.key()
    key_id, secret = keys.split(key)
    body = f"{keys.PREFIX}_{key_id}_{keys.digest(secret)[:43]}"
    return [bearer(body + keys._checksum(body))]


KEYS = [
    spoiled_key("key cut short", "malformed_key", lambda key: key[:-1]),
    spoiled_key("key too long", "malformed_key", lambda key: key + "0"),
    spoiled_key("prefix alone", "malformed_key", lambda _: "mcpkey_"),
    spoiled_key("wrong checksum", "malformed_key", lambda key: key[:-1] + ("0" if key[-1] != "0" else "1")),
    spoiled_key("case of the secret", "malformed_key", lambda key: key[:20] + key[20:].swapcase()),
    spoiled_key("punctuation in the secret", "malformed_key", lambda key: key[:30] + "-" + key[31:]),
    spoiled_key("case of the prefix", "malformed_token", lambda key: "MCPKEY" + key[6:]),
    spoiled_key("wrong secret", "unknown_key", _flipped),
    Case("key of another server", "unknown_key", _of_another_server),
    Case("hash in place of the secret", "unknown_key", _hash_for_secret),
    Case("expired key", "expired", lambda world: [bearer(world.key("late", expires=yesterday()))]),
    Case("revoked key", "revoked", _revoked_key, "leaver"),
    Case("key of a revoked caller", "revoked", _revoked_caller, "leaver"),
]


def subject(name: str, reason: str, *values: str | bytes) -> Case:
    """Return a case of what an edge might say about a certificate."""
    return Case(name, reason, lambda _: [("X-Client-Subject", value) for value in values])


CERTIFICATES = [
    subject("empty subject", "malformed_subject", ""),
    subject("subject without name", "malformed_subject", "O=acme"),
    subject("two names", "malformed_subject", "CN=ann,CN=operator"),
    subject("subject is not UTF-8", "malformed_subject", b"CN=\xff"),
    subject("old notation", "malformed_subject", "/O=acme/CN=ann"),
    subject("two subjects", "duplicate_credential", "CN=ann", "CN=operator"),
    Case(
        "bad key before a good certificate",
        "malformed_key",
        lambda _: [bearer("mcpkey_x"), ("X-Client-Subject", "CN=ann")],
    ),
]
