"""The arithmetic of the measurements of servers, and a clocked server that serves (issue 9)."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from starlette.types import Message, Receive, Scope, Send

from bench import clocked, layers, lifecycle, sessions, streams, tools
from bench.client import Client
from bench.clocked import EMPTY, ROUTING, WHOLE, Border
from bench.figures import Batches, Invalid
from bench.running import CALLER, ROOT, Running, generated
from tests.live.curl import ERAS
from tests.live.fleet import Keys
from tests.live.project import Project
from tests.support.ports import free_port

SERVER = """\
from mcp_chassis import Server, settings

# In this tree the answers are expressions.
settings.answer = {"public_url": "https://tiny.example.com", "tool_timeout": "30"}.__getitem__
server = Server("tiny")


@server.tool()
async def search_notes(query: str, limit: int) -> list[str]:
    \"\"\"Find nothing.\"\"\"
    return []
"""


@pytest.fixture
def anyio_backend() -> str:
    """Run async tests on asyncio, as the server does."""
    return "asyncio"


class Hands:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


class Layer:
    """Works, calls what is below, works again; and works on what is sent."""

    def __init__(self, hands: Hands, app: Border, *, work: int, sending: int) -> None:
        self._hands, self._app, self._work, self._sending = hands, app, work, sending

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def passing(message: Message) -> None:
            self._hands.now += self._sending
            await send(message)

        self._hands.now += self._work
        await self._app(scope, receive, passing)
        self._hands.now += self._work


async def test_a_layer_is_charged_with_its_own_work_alone_also_where_another_task_sends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hands, record = Hands(), clocked.Record()
    monkeypatch.setattr(clocked, "perf_counter_ns", hands)

    async def server(_scope: Scope, _receive: Receive, send: Send) -> None:
        hands.now += 1000
        await asyncio.create_task(send({}))  # type: ignore[arg-type]

    async def connection(_message: Message) -> None:
        hands.now += 5000

    async def receive() -> Message:
        return {}

    inner = Layer(hands, Border("inner", "server", server), work=10, sending=3)
    outer = Layer(hands, Border("outer", "inner", inner), work=200, sending=40)
    clocked._frame.set(clocked._Frame(record))
    await Border("connection", "outer", outer)({}, receive, connection)

    assert record == {"outer": 440, "inner": 23, "server": 1000, "connection": 5000}


def of(batches: Sequence[Sequence[dict[str, int]]], name: str) -> Batches:
    return layers.of_layer(batches, name)


def test_added_is_the_sum_of_the_layers_and_the_rest_is_what_no_layer_took() -> None:
    call = {WHOLE: 9000, ROUTING: 1000, EMPTY: 500, "Boundary": 2000, "CORS": 3000}

    assert layers.added([[call]]) == [[5.0]]
    assert of([[call]], layers.REST) == [[2.5]]
    assert of([[call]], "Boundary") == [[2.0]]
    shown = {figure.what: figure.value for figure in layers.figures("an era", [[call]])}
    assert shown["an era: added by the chassis: median"] == 5.0
    assert shown["an era: of that, the clock itself: 2 times an empty layer"] == 1.0


def test_first_batch_is_a_warm_up_and_a_lost_call_is_no_number() -> None:
    calls = [{WHOLE: place} for place in range(6)]

    assert layers.batched(calls, 2) == [calls[2:4], calls[4:]]
    with pytest.raises(Invalid, match="5 calls"):
        layers.batched(calls[1:], 2)


def test_growth_is_what_the_servers_did_not_differ_by_before() -> None:
    value, spread = sessions.growth([[2.0, 2.0, 2.0], [3.0, 3.0, 3.0]], [[2.0, 2.0, 2.0], [3.3, 3.6, 3.3]])

    assert value == pytest.approx(10)
    assert spread == pytest.approx((10, 20))


def test_memory_of_a_session_is_that_of_those_opened_after_the_first_ones() -> None:
    server = Running([], {}, Path("log"), 0)
    crowded = sessions.Crowded("a server", server, {}, kilobytes={100: 5000.0, 300: 13_000.0})

    assert crowded.each(100, 300) == 40


def test_stream_tells_how_late_events_were_and_how_much_a_gap_changed() -> None:
    seen = streams.Seen()

    seen.add(9.0, [10.0, 10.05, 10.1], [10.001, 10.056, 10.1])

    assert seen.first == pytest.approx([1001])
    assert seen.late[0] == pytest.approx([1, 6, 0])
    assert seen.gaps == pytest.approx([6])


def test_calls_with_many_tools_are_compared_round_by_round() -> None:
    seen = tools.Seen()
    seen.calls[10] += [[1.0, 2.0, 3.0], [4.0]]
    seen.calls[1000] += [[1.0, 2.2, 9.0], [4.0]]

    assert seen.dearer == pytest.approx([10, 0])


def test_size_leaves_out_what_it_is_told_at_any_depth(tmp_path: Path) -> None:
    for name in ("one", "folder/two", "folder/left-out/three", "left-out/four"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "one")

    assert lifecycle.size(tmp_path, "left-out") == 10


def test_server_that_does_not_start_is_told_with_its_last_words(tmp_path: Path) -> None:
    server = Running([sys.executable, "-c", "raise SystemExit('no port')"], {}, tmp_path / "log", free_port())

    with pytest.raises(Invalid, match="no port"), server:
        pass


async def test_every_layer_of_a_real_server_has_its_time_in_both_eras(tmp_path: Path) -> None:
    (tmp_path / "tiny.py").write_text(SERVER, encoding="utf-8")
    keys, file = Keys(tmp_path), tmp_path / "calls.json"
    project = Project(tmp_path, "tiny")
    given = {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    command = [sys.executable, "-m", "bench.clocked", "tiny", str(file)]

    with generated(project, keys, tmp_path, command=command, given=given) as server:
        await layers.driven(server.url, keys.headers(CALLER), 1, 2)
        with pytest.raises(Invalid):
            await Client(server.url, ERAS[1], {}).call()
        server.stop()

    found = layers.by_era(json.loads(file.read_text(encoding="utf-8")), 2)
    for batches in found.values():
        (batch,) = batches
        names = {"Boundary", "Identity", "Envelope", "Draining", "Admission", "Ownership", "Negotiation"}
        assert all(names | {"Messages", "the call boundary", "the log", EMPTY, ROUTING} < {*call} for call in batch)
        assert all(took > 0 for call in batch for took in call.values())
        assert all(rest[0] > 0 for rest in of(batches, layers.REST))
