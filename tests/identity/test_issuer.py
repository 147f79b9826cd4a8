"""The issuer's keys: fetched seldom, refreshed when it rotates, kept when it is down, never taken from a liar (A5)."""

from __future__ import annotations

import asyncio

import pytest

from tests.identity.issuer import CONFIGURATION, KEYS, Issuer
from tests.identity.serving import bearer
from tests.identity.wire import ERAS, Era
from tests.identity.world import ask, server_of
from tests.support.inside import Log

pytestmark = pytest.mark.anyio


@pytest.fixture
def no_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every unknown key be asked for."""
    monkeypatch.setattr("mcp_chassis.auth.tokens.Issuer._may_try", lambda _self: True)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("algorithm", ["RS256", "RS512", "PS256", "ES256", "ES384", "ES512", "EdDSA"])
@pytest.mark.parametrize("declared", [True, False], ids=["declared", "undeclared"])
async def test_A5_token_is_verified_with_any_algorithm_on_the_list(
    declared: bool, algorithm: str, era: Era, issuer: Issuer
) -> None:
    issuer.add("second", algorithm)
    if not declared:
        # RFC 7517, 4.4: a key need not say its algorithm.
        del issuer.jwks[-1]["alg"]

    async with server_of(issuer, jwt_algorithms=("RS256", algorithm)) as served:
        peer = await served.opened(era, [bearer(issuer.token("second"))])
        answer = await peer.call("whoami")

    assert answer.result()["structuredContent"] == {"id": "ann", "tenant": "default", "scopes": ["notes:read"]}


async def test_A5_undeclared_key_verifies_only_its_own_type_and_the_list(issuer: Issuer, log: Log) -> None:
    del issuer.jwks[0]["alg"]
    header = {"alg": "ES256", "kid": "first"}

    async with server_of(issuer, jwt_algorithms=("RS512", "ES256")) as served:
        assert (await ask(served, issuer.token())).reason() == "algorithm_not_allowed"
        assert (await ask(served, issuer.signed(header, issuer.claims()))).reason() == "algorithm_not_allowed"
    assert not log.lines("crashed")


async def test_A5_keys_are_fetched_once_for_many_concurrent_requests(issuer: Issuer) -> None:
    async with server_of(issuer) as served:
        answers = await asyncio.gather(*(ask(served, issuer.token(sub=f"ann-{n}")) for n in range(50)))

    assert {answer.status for answer in answers} == {200}
    assert issuer.fetches == {CONFIGURATION: 1, KEYS: 1}


async def test_A5_flood_of_unknown_keys_does_not_reach_the_issuer(issuer: Issuer) -> None:
    issuer.add("lost")
    issuer.withdraw("lost")

    async with server_of(issuer) as served:
        assert (await ask(served, issuer.token())).status == 200
        forged = [issuer.token("lost", header={"kid": f"made-up-{n}"}) for n in range(100)]
        answers = await asyncio.gather(*(ask(served, token) for token in forged))
        good = await ask(served, issuer.token())

    assert {answer.reason() for answer in answers} == {"unknown_key"}
    assert good.status == 200
    assert issuer.fetches == {CONFIGURATION: 1, KEYS: 1}


async def test_A5_token_that_cannot_be_good_asks_the_issuer_nothing(issuer: Issuer) -> None:
    async with server_of(issuer) as served:
        for header in ({"alg": "none"}, {"alg": "HS256"}, {"typ": "logout+jwt"}, {"kid": ""}):
            forged = issuer.signed({"alg": "RS256", "kid": "first", **header}, issuer.claims())
            assert (await ask(served, forged)).status == 401

    assert not issuer.fetches


async def test_A5_floor_lets_one_fetch_through_when_it_has_passed(issuer: Issuer, clock: list[float]) -> None:
    async with server_of(issuer, jwt_refresh_floor=10) as served:
        await ask(served, issuer.token())
        issuer.add("second")

        clock[0] += 9.9
        assert (await ask(served, issuer.token("second"))).reason() == "unknown_key"
        clock[0] += 0.2
        both = await asyncio.gather(*(ask(served, issuer.token("second")) for _ in range(20)))

    assert {answer.status for answer in both} == {200}
    assert issuer.fetches[KEYS] == 2


@pytest.mark.usefixtures("no_floor")
async def test_A5_rotation_admits_the_new_key_at_once_and_keeps_the_old_while_published(issuer: Issuer) -> None:
    async with server_of(issuer, jwt_algorithms=("RS256", "ES256")) as served:
        old = issuer.token()
        assert (await ask(served, old)).status == 200

        issuer.add("second", "ES256")
        assert (await ask(served, issuer.token("second"))).status == 200
        assert (await ask(served, old)).status == 200

        issuer.withdraw("first")
        issuer.add("third")
        assert (await ask(served, issuer.token("third"))).status == 200
        assert (await ask(served, old)).reason() == "unknown_key"


async def test_A5_withdrawn_key_stops_after_the_maximal_age(issuer: Issuer, clock: list[float]) -> None:
    async with server_of(issuer, jwt_refresh_floor=10) as served:
        token = issuer.token()
        assert (await ask(served, token)).status == 200
        issuer.withdraw("first")
        issuer.add("second")

        clock[0] += 3599
        assert (await ask(served, token)).status == 200
        clock[0] += 2
        assert (await ask(served, token)).reason() == "unknown_key"
        assert (await ask(served, issuer.token("second"))).status == 200


@pytest.mark.parametrize("age", [11.0, 7200.0], ids=["fresh", "stale"])
async def test_A5_outage_keeps_the_old_keys(age: float, issuer: Issuer, clock: list[float], log: Log) -> None:
    async with server_of(issuer, jwt_refresh_floor=10) as served:
        assert (await ask(served, issuer.token())).status == 200
        await issuer.stop()
        clock[0] += age

        assert (await ask(served, issuer.token())).status == 200
        assert (await ask(served, issuer.token(header={"kid": "new"}))).reason() == "issuer_unavailable"
        clock[0] += 11
        assert (await ask(served, issuer.token(header={"kid": "new"}))).reason() == "issuer_unavailable"
        await issuer.start()
        issuer.add("second")
        clock[0] += 11
        assert (await ask(served, issuer.token("second"))).status == 200

    # One line per change, however many requests saw it.
    assert [line["reason"] for line in log.lines("issuer_silent")] == ["unreachable"]
    assert len(log.lines("issuer_answers")) == 1


@pytest.mark.parametrize("era", ERAS)
async def test_A5_issuer_never_reached_is_503_and_no_reason_to_drop_a_token(
    era: Era, issuer: Issuer, clock: list[float], log: Log
) -> None:
    await issuer.stop()
    async with server_of(issuer, jwt_refresh_floor=10) as served:
        peer = served.peer(era, [bearer(issuer.token())])
        refused = [await peer.introduce(), await peer.call("whoami")]

        assert {(answer.status, answer.reason()) for answer in refused} == {(503, "issuer_unavailable")}
        assert {answer.header("retry-after") for answer in refused} == {"5"}
        assert {answer.header("www-authenticate") for answer in refused} == {None}
        assert served.handled == []
        assert served.sessions == 0

        await issuer.start()
        clock[0] += 11
        await peer.open()
        assert (await peer.call("whoami")).status == 200
    assert len(log.lines("issuer_silent")) == 1
