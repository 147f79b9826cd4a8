"""A broken or lying issuer costs neither a key that was good nor the server (A5)."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import anyio
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.identity.issuer import CONFIGURATION, KEYS, Issuer, replying
from tests.identity.world import ask, server_of
from tests.support.inside import Log

pytestmark = pytest.mark.anyio


def endless() -> ASGIApp:
    """Return an issuer that sends a byte now and then, for ever."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b" ", "more_body": True})
            await anyio.sleep(0.02)

    return app


def silent() -> ASGIApp:
    """Return an issuer that takes the request and says nothing."""

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        await anyio.sleep_forever()

    return app


def bomb() -> ASGIApp:
    """Return an issuer whose small answer becomes a large one."""
    body = gzip.compress(b'{"keys": [' + b" " * 5_000_000 + b"]}")
    return replying(body, headers={"content-encoding": "gzip"})


def with_keys(*keys: object) -> ASGIApp:
    return replying({"keys": list(keys)})


BROKEN = {
    "not found": (replying({}, status=404), "wrong_status"),
    "crashed": (replying({}, status=500), "wrong_status"),
    "redirected": (replying({}, status=302, headers={"location": "/elsewhere"}), "wrong_status"),
    "not JSON": (replying(b"<html>"), "malformed"),
    "not UTF-8": (replying(b'{"keys": "\xff"}'), "malformed"),
    "a list": (replying([]), "malformed"),
    "deep": (replying(b"[" * 100_000), "malformed"),
    "empty": (replying(b""), "malformed"),
    "no keys": (replying({}), "no_keys"),
    "keys are no list": (replying({"keys": {"kid": "first"}}), "no_keys"),
    "keys are text": (with_keys("first", 7, None, []), "no_keys"),
    "kid is a list": (with_keys({"kty": "RSA", "kid": ["first"], "n": "AQAB", "e": "AQAB"}), "no_keys"),
    "key is incomplete": (with_keys({"kty": "RSA", "kid": "first"}), "no_keys"),
    "modulus is a number": (with_keys({"kty": "RSA", "kid": "first", "n": 5, "e": "AQAB"}), "no_keys"),
    "type is a list": (with_keys({"kty": ["RSA"], "kid": "first"}), "no_keys"),
    "algorithm is a list": (with_keys({"kty": "RSA", "kid": "first", "alg": ["RS256"], "n": "A", "e": "A"}), "no_keys"),
    "point off the curve": (with_keys({"kty": "EC", "crv": "P-256", "kid": "first", "x": "AA", "y": "AA"}), "no_keys"),
    "symmetric": (with_keys({"kty": "oct", "kid": "first", "k": "c2VjcmV0"}), "no_keys"),
    "huge": (replying(b'{"keys": [' + b" " * 300_000 + b"]}"), "too_large"),
    "bomb": (bomb(), "malformed"),
    "slow": (endless(), "too_slow"),
    "silent": (silent(), "too_slow"),
}


@pytest.mark.parametrize("place", [CONFIGURATION, KEYS])
@pytest.mark.parametrize("how", BROKEN)
async def test_A5_broken_issuer_costs_no_key_and_no_crash(
    how: str, place: str, issuer: Issuer, clock: list[float], log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, reason = BROKEN[how]
    monkeypatch.setattr("mcp_chassis.auth.tokens._FETCH_SECONDS", 0.3)
    async with server_of(issuer, jwt_refresh_floor=10) as served:
        # Given an issuer that is broken from the start
        issuer.instead = {place: app}
        with anyio.fail_after(5):
            assert (await ask(served, issuer.token())).status == 503

        # When it mends, then breaks again
        issuer.instead = {}
        clock[0] += 11
        assert (await ask(served, issuer.token())).status == 200
        issuer.instead = {place: app}
        clock[0] += 4000

        # Then its old keys serve
        assert (await ask(served, issuer.token())).status == 200

    expected = reason if place == KEYS or reason != "no_keys" else "another_issuer"
    assert {line["reason"] for line in log.lines("issuer_silent")} == {expected}
    assert not log.lines("crashed")
    assert issuer.fetches["/elsewhere"] == 0


async def test_A5_those_who_wait_for_a_slow_issuer_wait_once(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp_chassis.auth.tokens._FETCH_SECONDS", 0.3)
    issuer.instead = {CONFIGURATION: silent()}

    async with server_of(issuer, jwt_refresh_floor=1) as served:
        with anyio.fail_after(1.2):
            answers = await asyncio.gather(*(ask(served, issuer.token()) for _ in range(10)))

    assert {answer.status for answer in answers} == {503}
    assert issuer.fetches[CONFIGURATION] == 1


async def test_A5_while_one_waits_for_newer_keys_the_others_use_the_old(issuer: Issuer, clock: list[float]) -> None:
    asked = anyio.Event()

    async def stuck(_scope: Scope, _receive: Receive, _send: Send) -> None:
        asked.set()
        await anyio.sleep_forever()

    async with server_of(issuer, jwt_refresh_floor=10) as served:
        assert (await ask(served, issuer.token())).status == 200
        issuer.instead = {CONFIGURATION: stuck}
        clock[0] += 4000
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, served, issuer.token())
            with anyio.fail_after(5):
                await asked.wait()
            with anyio.fail_after(2):
                assert (await ask(served, issuer.token())).status == 200
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"issuer": "https://evil.example.com"}, "another_issuer"),
        ({"issuer": "SELF/"}, "another_issuer"),
        ({"issuer": ["SELF"]}, "another_issuer"),
        ({"issuer": None}, "another_issuer"),
        ({"jwks_uri": None}, "another_issuer"),
        ({"jwks_uri": 7}, "another_issuer"),
        ({"jwks_uri": "file:///etc/passwd"}, "unsafe_keys_url"),
        ({"jwks_uri": "ftp://127.0.0.1/keys"}, "unsafe_keys_url"),
        ({"jwks_uri": "/keys"}, "unsafe_keys_url"),
        ({"jwks_uri": "http://[::1"}, "malformed"),
        ({"jwks_uri": "http://127.0.0.1:99999/keys"}, "malformed"),
        ({"jwks_uri": "http://\x00/keys"}, "malformed"),
        ({"jwks_uri": "http:///keys"}, "unreachable"),
    ],
)
async def test_A5_metadata_that_lies_is_refused(
    metadata: dict[str, Any], reason: str, issuer: Issuer, log: Log
) -> None:
    good = {"issuer": issuer.url, "jwks_uri": f"{issuer.url}{KEYS}"}
    told = json.loads(json.dumps(good | metadata).replace("SELF", issuer.url))
    issuer.instead = {CONFIGURATION: replying(told)}

    async with server_of(issuer) as served:
        assert (await ask(served, issuer.token())).status == 503

    assert [line["reason"] for line in log.lines("issuer_silent")] == [reason]
    assert not log.lines("crashed")
    assert issuer.fetches[KEYS] == 0


async def test_A5_keys_by_address_need_no_metadata(issuer: Issuer) -> None:
    async with server_of(issuer, jwt_keys_url=f"{issuer.url}{KEYS}") as served:
        assert (await ask(served, issuer.token())).status == 200

    assert issuer.fetches == {KEYS: 1}
