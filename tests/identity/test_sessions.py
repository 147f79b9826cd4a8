"""The credential counts on every request, and a session belongs to who opened it (A2, A8)."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_chassis.auth import keys
from tests.identity.issuer import Issuer
from tests.identity.serving import TOOLS, bearer
from tests.identity.wire import ERAS, Era, Peer
from tests.identity.world import a_world, holder
from tests.support.inside import Log

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("kind", ["key", "token", "subject"])
async def test_A2_credential_revoked_between_two_calls_ends_the_session(
    kind: str, era: Era, issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    async with a_world(issuer, tmp_path, monkeypatch) as world:
        # Given a session that works
        credential = world.key("ann") if kind == "key" else world.token(sub="ann", jti="t-1")
        peer = await world.served.opened(era, holder(credential))
        before = await peer.call("whoami")
        handled = len(world.served.handled)

        # When the credential is taken back
        match kind:
            case "key":
                await world.revocations.revoke("key", keys.split(credential)[0], None)
            case "token":
                await world.revocations.revoke("token", "t-1", 60)
            case _:
                await world.revocations.revoke("subject", "ann", 60)
        after = [await peer.call("whoami")]
        if era == "handshake":
            after += [await peer.get(), await peer.delete()]

        # Then the very next request is refused, of whatever method
        assert before.status == 200
        assert [(answer.status, answer.reason()) for answer in after] == [(401, "revoked")] * len(after)
        assert len(world.served.handled) == handled
        assert log.reasons() == {"revoked"}


@pytest.mark.parametrize("era", ERAS)
async def test_A2_key_taken_out_of_the_file_stops_at_the_next_request(
    era: Era, issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world(issuer, tmp_path, monkeypatch) as world:
        peer = await world.served.opened(era, holder(world.key("ann")))
        assert (await peer.call("whoami")).status == 200

        world.file.write_text('{"version": 1, "keys": []}', encoding="utf-8")

        assert (await peer.call("whoami")).reason() == "unknown_key"


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
async def test_A8_session_of_another_caller_is_as_unknown_as_none(
    method: str, issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    async def ask(peer: Peer) -> object:
        match method:
            case "POST":
                return (await peer.call("whoami")).without_ids()
            case "GET":
                return (await peer.get()).without_ids()
            case _:
                return (await peer.delete()).without_ids()

    async with a_world(issuer, tmp_path, monkeypatch) as world:
        # Given ann's session
        owner = await world.served.opened("handshake", holder(world.key("ann")))
        handled = len(world.served.handled)

        # When bob uses it, and ann's namesake of another tenant, and ann one that never was
        bob = await ask(owner.claiming(bearer(world.key("bob"))))
        namesake = await ask(owner.claiming(bearer(world.key("ann", tenant="globex"))))
        never = await ask(Peer(owner.port, "handshake", owner.headers, "0" * len(owner.session or "")))

        # Then nobody can tell whether it exists
        assert bob == namesake == never
        assert isinstance(bob, tuple)
        assert bob[0] == 404
        assert bob[2]["error"]["data"] == {"reason": "unknown_session"}
        assert len(world.served.handled) == handled
        assert [line["caller_id"] for line in log.lines("request_refused")] == ["bob", "ann", "ann"]
        assert (await owner.call("whoami")).status == 200


async def test_A8_session_outlives_the_token_that_opened_it(
    issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world(issuer, tmp_path, monkeypatch) as world:
        # Given a session opened with few scopes
        peer = await world.served.opened("handshake", holder(world.token(scope="", jti="old")))
        assert (await peer.call("read")).status == 403

        # When the same caller comes with a newer token
        newer = peer.claiming(bearer(world.token(scope="notes:read notes:write", jti="new")))

        # Then the session goes on, with what the newer token allows
        assert (await newer.call("read")).text() == "a note"
        assert sorted(await newer.tools()) == TOOLS
        assert (await newer.delete()).status == 200
        assert world.served.sessions == 0


async def test_A8_bearer_goes_before_the_certificate_that_the_edge_saw(
    issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world(issuer, tmp_path, monkeypatch) as world:
        both = [bearer(world.key("ann")), ("X-Client-Subject", "CN=bob")]

        answer = await world.served.peer("stateless", both).call("whoami")

        assert answer.result()["structuredContent"]["id"] == "ann"
