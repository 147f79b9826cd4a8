"""What one replica says to another is believed once, by the one it is meant for, of one request (S5)."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest

from mcp_chassis.auth import keys
from mcp_chassis.auth.assertions import Assertions
from mcp_chassis.auth.keys import FileKeyring
from mcp_chassis.http import Refused
from mcp_chassis.request import Caller, Request
from mcp_chassis.state.store import MemoryStore
from tests.identity.forgeries import FORGERIES, HEADER, HERE, NEW, OLD, OTHER, body_of, claims_of, sign
from tests.identity.serving import Served, bearer, serving, settings
from tests.identity.wire import HANDSHAKE_VERSION, Answer, Headers, Peer, exchange, raw
from tests.support.inside import Log

pytestmark = pytest.mark.anyio

REFUSED: Final = (403, "bad_peer_assertion")


@asynccontextmanager
async def replica(folder: Path, **given: Any) -> AsyncIterator[tuple[Served, Peer]]:
    """Serve as one of several replicas; yield it and the session of a client with a key."""
    key, record = keys.create("agent-7", tenant="acme", scopes=("notes:read",))
    with FileKeyring(folder / "keys.json").editing() as kept:
        kept[record.id] = record
    peers = {"peer_url": HERE, "peer_secret": f"{NEW}\n{OLD}\n"}
    async with serving(settings(**({"auth": ("keys",), "api_keys_file": folder / "keys.json"} | peers | given))) as one:
        yield one, await one.opened("handshake", [bearer(key)])


async def send(peer: Peer, body: bytes, *headers: tuple[str, str | bytes], method: str = "POST") -> Answer:
    """Send a request into the session of `peer` with these headers instead of its credential."""
    own = [("Content-Type", "application/json"), ("Accept", "application/json")]
    own += [("MCP-Protocol-Version", HANDSHAKE_VERSION)]
    own += [] if peer.session is None else [("Mcp-Session-Id", peer.session)]
    return await exchange(peer.port, raw(method, [*own, *headers], body))


def refusal(answer: Answer) -> tuple[int, str]:
    """Return status and reason."""
    return answer.status, answer.reason()


async def test_S5_what_a_replica_vouches_for_reaches_the_tool(tmp_path: Path) -> None:
    async with replica(tmp_path) as (_, peer):
        body = body_of()

        answer = await send(peer, body, (HEADER, sign(claims_of(peer.session, body))))

    assert json.loads(answer.text()) == {"id": "agent-7", "tenant": "acme", "scopes": ["notes:read"]}


async def test_S5_no_forgery_is_believed_and_nothing_runs(tmp_path: Path, log: Log) -> None:
    body = body_of()
    async with replica(tmp_path) as (served, peer):
        handled = len(served.handled)

        told = {
            name: refusal(await send(peer, body, (HEADER, forge(claims_of(peer.session, body)))))
            for name, forge in FORGERIES.items()
        }

        assert told == dict.fromkeys(FORGERIES, REFUSED)
        assert len(served.handled) == handled
        assert (await peer.call("read")).text() == "a note"
    assert log.lines("crashed") == []
    assert log.reasons() == {"bad_peer_assertion"}


async def test_S5_bytes_that_are_no_text_are_refused_too(tmp_path: Path, log: Log) -> None:
    body = body_of()
    async with replica(tmp_path) as (_, peer):
        assertion = sign(claims_of(peer.session, body)).encode()

        told = [refusal(await send(peer, body, (HEADER, junk))) for junk in (b"\xff\xfe", assertion + b"\xe9")]

    assert told == [REFUSED] * 2
    assert log.lines("crashed") == []


async def test_S5_assertion_is_good_once_and_for_one_body(tmp_path: Path) -> None:
    body = body_of()
    async with replica(tmp_path) as (served, peer):
        assertion = (HEADER, sign(claims_of(peer.session, body)))
        assert (await send(peer, body, assertion)).status == 200
        handled = len(served.handled)

        again = await send(peer, body, assertion)
        fresh = (HEADER, sign(claims_of(peer.session, body)))
        padded = await send(peer, body + b" ", fresh)
        after_that = await send(peer, body, fresh)

        assert [refusal(answer) for answer in (again, padded, after_that)] == [REFUSED] * 3
        assert len(served.handled) == handled


@pytest.mark.parametrize("credential", ["valid", "invalid", "none"])
@pytest.mark.parametrize("peers", [True, False], ids=["with peers", "without peers"])
async def test_S5_client_that_sends_the_header_itself_is_refused(credential: str, peers: bool, tmp_path: Path) -> None:
    given: Mapping[str, Any] = {} if peers else {"peer_url": None, "peer_secret": None}
    body = body_of()
    async with replica(tmp_path, **given) as (served, peer):
        handled, sessions = len(served.handled), served.sessions
        choices: dict[str, Headers] = {"valid": peer.headers, "invalid": [bearer("mcp_nobody")], "none": ()}
        headers = choices[credential]
        # Where nobody has peers, even one that is signed well
        assertion = sign(claims_of(peer.session, body), OTHER if peers else NEW)

        posted = await send(peer, body, *headers, (HEADER, assertion))
        ended = await send(peer, b"", *headers, (HEADER, assertion), method="DELETE")
        opened = await send(replace(peer, session=None), body, *headers, (HEADER, assertion))

        assert [refusal(answer) for answer in (posted, ended, opened)] == [REFUSED] * 3
        assert (len(served.handled), served.sessions) == (handled, sessions)


async def test_S5_two_assertions_are_none(tmp_path: Path) -> None:
    body = body_of()
    async with replica(tmp_path) as (served, peer):
        handled = len(served.handled)
        good, better = (sign(claims_of(peer.session, body)) for _ in range(2))

        told = [
            await send(peer, body, (HEADER, good), (HEADER, better)),
            await send(peer, body, (HEADER, good), (HEADER, "forged")),
            await send(peer, body, (HEADER, f"{good}, {better}")),
        ]

        assert [refusal(answer) for answer in told] == [REFUSED] * 3
        assert len(served.handled) == handled


async def test_S5_assertion_says_nothing_of_requests_without_a_session(tmp_path: Path) -> None:
    body = body_of()
    async with replica(tmp_path) as (served, peer):
        handled, outside = len(served.handled), replace(peer, session=None)

        told = [await send(outside, body, (HEADER, sign(claims_of(said, body)))) for said in (peer.session, "")]

        assert [refusal(answer) for answer in told] == [REFUSED] * 2
        assert len(served.handled) == handled


async def test_S5_clocks_may_differ_by_some_seconds(tmp_path: Path) -> None:
    body = body_of()
    async with replica(tmp_path) as (_, peer):
        now = int(time.time())

        slow = sign(claims_of(peer.session, body, iat=now - 13, exp=now - 3))
        fast = sign(claims_of(peer.session, body, iat=now + 3, exp=now + 13))

        assert [(await send(peer, body, (HEADER, one))).status for one in (slow, fast)] == [200, 200]


async def test_A8_session_is_not_opened_to_whom_another_replica_vouches_for(tmp_path: Path) -> None:
    body = body_of()
    async with replica(tmp_path) as (_, peer):
        unknown = "0" * 32
        others = [{"sub": "agent-8"}, {"tenant": "rival"}, {"way": "token"}]

        foreign = [await send(peer, body, (HEADER, sign(claims_of(peer.session, body, **one)))) for one in others]
        missing = await send(replace(peer, session=unknown), body, (HEADER, sign(claims_of(unknown, body))))

        assert missing.status == 404
        assert [answer.without_ids() for answer in foreign] == [missing.without_ids()] * len(others)


async def test_A11_scopes_are_those_that_the_replica_vouches_for(tmp_path: Path) -> None:
    body = body_of("discard")
    async with replica(tmp_path) as (_, peer):
        poor = await send(peer, body, (HEADER, sign(claims_of(peer.session, body))))
        rich = sign(claims_of(peer.session, body, scopes=["notes:read", "notes:write"]))
        allowed = await send(peer, body, (HEADER, rich))

    assert (poor.status, poor.reason()) == (403, "insufficient_scope")
    assert allowed.text() == "thrown away"


async def test_A3_what_was_taken_back_on_the_way_is_refused_by_the_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()
    monkeypatch.setattr("mcp_chassis.app.open_store", lambda *_args, **_named: store)
    body = body_of()
    async with replica(tmp_path) as (served, peer):
        named = {"revocations": ["revoked:first", "revoked:second"]}
        before = await send(peer, body, (HEADER, sign(claims_of(peer.session, body, **named))))
        await store.write("revoked:second", "1")
        handled = len(served.handled)

        after = await send(peer, body, (HEADER, sign(claims_of(peer.session, body, **named))))

        assert (before.status, after.status, after.reason()) == (200, 401, "revoked")
        assert len(served.handled) == handled


@pytest.mark.parametrize("padding", [0, 100_000], ids=["small", "large"])
async def test_L3_forwarded_call_is_not_counted_again(padding: int, tmp_path: Path) -> None:
    body = body_of(padding=padding)
    async with replica(tmp_path, caller_limit="0.01/1") as (_, peer):
        forwarded = [await send(peer, body, (HEADER, sign(claims_of(peer.session, body)))) for _ in range(5)]

        assert [answer.status for answer in forwarded] == [200] * 5
        # Opening the session took two of three.
        assert [(await peer.call("read")).status for _ in range(2)] == [200, 429]


@pytest.mark.parametrize(
    ("signing", "judging"),
    [((OLD,), (OLD,)), ((OLD, NEW), (OLD,)), ((OLD,), (OLD, NEW)), ((OLD, NEW), (NEW, OLD)), ((NEW, OLD), (OLD, NEW))],
    ids=lambda secrets: "+".join({OLD: "old", NEW: "new"}[one] for one in secrets),
)
def test_S5_secrets_rotate_while_replicas_differ(signing: tuple[str, ...], judging: tuple[str, ...]) -> None:
    here, there = Assertions(signing, server="notes", url="http://a:1"), Assertions(judging, server="notes", url=HERE)
    request = Request(id="1", caller=Caller("agent-7", "acme", frozenset({"notes:read"}), "key"))

    token = here.sign(request, method="GET", session="s", body=b"", audience=HERE)

    assert there.judge(token, method="GET", session="s").caller == request.caller


def test_S5_secret_that_was_rotated_out_is_no_longer_believed() -> None:
    here, there = (Assertions((one,), server="notes", url=HERE) for one in (OLD, NEW))
    token = here.sign(Request(id="1"), method="GET", session="s", body=b"", audience=HERE)

    with pytest.raises(Refused):
        there.judge(token, method="GET", session="s")


def test_S5_what_was_used_is_remembered_no_longer_than_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [time.time()]
    monkeypatch.setattr("mcp_chassis.auth.assertions.time", SimpleNamespace(time=lambda: now[0]))
    one = Assertions((NEW,), server="notes", url=HERE)
    monkeypatch.setattr("jwt.api_jwt.datetime", clock(now))

    def use() -> int:
        token = one.sign(Request(id="1"), method="GET", session="s", body=b"", audience=HERE)
        one.judge(token, method="GET", session="s")
        return len(vars(one)["_used"])

    assert [use() for _ in range(3)] == [1, 2, 3]
    now[0] += 14
    assert use() == 4
    now[0] += 2
    assert use() == 2


def clock(now: list[float]) -> Any:
    """Return what the library takes for `datetime`, with our time."""
    return type("Clock", (datetime,), {"now": classmethod(lambda cls, tz=None: datetime.fromtimestamp(now[0], tz))})
