"""A credential that proves nothing is refused with 401 before any MCP code runs, in every way (A1, A2, A5)."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from tests.identity.credentials import CERTIFICATES, HEADERS, KEYS, Case
from tests.identity.issuer import Issuer
from tests.identity.serving import challenge
from tests.identity.tokens import TOKENS
from tests.identity.wire import ERAS, Era, Headers
from tests.identity.world import World, a_world, holder
from tests.support.inside import Log

pytestmark = pytest.mark.anyio

CASES = [*HEADERS, *KEYS, *CERTIFICATES, *TOKENS]
UNKNOWN_TO_RFC_6750 = ("no_credential", "wrong_scheme")
"""RFC 6750, 3.1: who did not try to authenticate is told of no error."""


async def built(case: Case, world: World) -> Headers:
    found = case.build(world)
    return await found if inspect.isawaitable(found) else found


@pytest.mark.parametrize("letter", ["\x00", "\x01", "\x1f", "\x7f"])
@pytest.mark.parametrize("era", ERAS)
async def test_A1_header_value_that_http_forbids_ends_the_connection(
    letter: str, era: Era, issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world(issuer, tmp_path, monkeypatch) as world:
        key = world.key("owner")
        owner = await world.served.opened(era, holder(key))
        handled = len(world.served.handled)

        answer = await owner.claiming(*holder(key + letter)).call("whoami")

        assert (answer.status, answer.header("connection")) == (400, "close")
        assert len(world.served.handled) == handled


def test_A1_table_is_long_enough() -> None:
    assert len(CASES) >= 100
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "_"))
async def test_A1_bad_credential_sees_401_before_any_mcp_code_runs(
    case: Case, era: Era, issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    async with a_world(issuer, tmp_path, monkeypatch) as world:
        # Given a session of somebody else
        owner = await world.served.opened(era, holder(world.key("owner")))
        handled, sessions, lines = len(world.served.handled), world.served.sessions, len(log.lines())

        # When the credential comes with every kind of request
        stranger = owner.claiming(*await built(case, world))
        answers = [await stranger.introduce(), await stranger.call("whoami"), await stranger.call("nobody")]
        if era == "handshake":
            answers += [await stranger.get(), await stranger.delete()]

        # Then each is refused alike, and nothing else happened
        error = {} if case.reason in UNKNOWN_TO_RFC_6750 else {"error": "invalid_token"}
        for answer in answers:
            assert (answer.status, answer.reason()) == (401, case.reason)
            assert answer.header("www-authenticate") == challenge(**error)
            assert answer.header("mcp-session-id") is None
            assert answer.header("cache-control") == "no-store"
        assert (len(world.served.handled), world.served.sessions) == (handled, sessions)
        written = log.lines()[lines:]
        assert [(line["event"], line["http_status"], line["reason"], line["caller_id"]) for line in written] == [
            ("request_refused", 401, case.reason, case.caller)
        ] * len(answers)
        shown = log.text() + "".join(answer.body.decode() + str(answer.headers) for answer in answers)
        assert not [secret for secret in world.secrets if secret in shown]
        assert (await owner.call("whoami")).status == 200


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_A1_scheme_is_read_in_any_case(
    scheme: str, era: Era, issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world(issuer, tmp_path, monkeypatch) as world:
        peer = await world.served.opened(era, [("authorization", f"{scheme} {world.key('agent-7')}")])

        answer = await peer.call("whoami")

    assert answer.result()["structuredContent"] == {"id": "agent-7", "tenant": "acme", "scopes": []}
