"""Whatever holds a server that was asked to stop, it ends in time, and its exit code says how (S3)."""

from __future__ import annotations

import asyncio
import signal
import socket

import pytest

from tests.chassis.client import JSON, Era
from tests.live.draining import (
    BUSY,
    KINDS,
    LAST_RESORT,
    NEVER,
    SHAPES,
    SHORT,
    STOPPING,
    Visitor,
    counts,
    drain,
    ended,
    eras,
    events,
    in_time,
    interrupted,
    site,
    tell,
    told,
    ways,
)
from tests.live.gate import gate
from tests.live.project import DEADLINE, Project

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("drain")]

HURRIES = [
    (signal.SIGTERM, signal.SIGTERM),
    (signal.SIGINT, signal.SIGINT),
    (signal.SIGTERM, signal.SIGINT),
]
LARGE = 4_000_000
"""Words in an answer that no buffer between two programs holds."""


# --- the deadline -------------------------------------------------------------------------------------------------


@ways
async def test_S3_calls_past_the_deadline_are_answered_before_the_socket_closes(way: str, extended: Project) -> None:
    with site(way, extended, **STOPPING) as here:
        async with gate() as held:
            calls = await here.hold(held)
            async with in_time():
                tell(here.server)
                answers = await asyncio.gather(*calls)
                code = await ended(here.server)

    assert [interrupted(answer) for answer in answers] == [True] * len(KINDS), answers
    assert [answer.shape for answer in answers] == [SHAPES.get(kind, kind[1]) for kind in KINDS]
    assert code == 1
    drained = await told(here.server, "drained")
    assert counts(drained) == {"calls": len(KINDS), "interrupted": len(KINDS), "cut": 0}
    assert drained["seconds"] >= SHORT
    assert events(here.server, "drain_started", "drained", "server_stopped", "stop_forced") == [
        "drain_started",
        "drained",
        "server_stopped",
    ]
    called = [line for line in here.server.lines if line["event"] == "tool_called"]
    assert {(line["status"], line["error_code"]) for line in called} == {("cancelled", "interrupted")}


@pytest.mark.parametrize("numbers", HURRIES, ids=lambda numbers: "-".join(number.name for number in numbers))
async def test_S3_second_signal_ends_the_calls_at_once(numbers: tuple[signal.Signals, ...], extended: Project) -> None:
    with site("direct", extended) as here:
        async with gate() as held:
            calls = await here.hold(held)
            async with in_time():
                tell(here.server, numbers[0])
                started = await told(here.server, "drain_started")
                tell(here.server, numbers[1])
                answers = await asyncio.gather(*calls)
                await told(here.server, "drained")
                code = await ended(here.server)

    assert [interrupted(answer) for answer in answers] == [True] * len(KINDS), answers
    assert code == 1
    assert started["seconds"] == 125


@eras
async def test_S3_tool_that_ignores_its_cancellation_is_answered_for(era: Era, extended: Project) -> None:
    with site("direct", extended, **STOPPING) as here:
        async with gate() as held:
            visitor = await here.visitor(era)
            arguments = {"port": held.port, "seconds": NEVER}
            call = asyncio.create_task(visitor.call("hold_and_ignore", arguments))
            await held.holds(1)
            async with in_time():
                tell(here.server)
                answer = await call
                code = await ended(here.server)

    assert interrupted(answer), answer
    assert code == 1


async def test_S3_second_signal_does_not_wait_for_a_tool_that_ignores_it(extended: Project) -> None:
    with site("direct", extended) as here:
        async with gate() as held:
            visitor = await here.visitor("handshake")
            call = asyncio.create_task(visitor.call("hold_and_ignore", {"port": held.port, "seconds": NEVER}))
            await held.holds(1)
            await drain(here.server)
            async with in_time(LAST_RESORT + BUSY):
                tell(here.server)
                answer = await call
                code = await ended(here.server)

    assert interrupted(answer), answer
    assert code == 1


# --- clients that do not read -------------------------------------------------------------------------------------


def deaf(port: int, era: Era) -> socket.socket:
    """Return a connection that has asked for a large answer, and on which the answer has begun."""
    visitor = Visitor(port, era)
    asyncio.run(visitor.begin())
    connection = socket.create_connection(("127.0.0.1", port), DEADLINE)
    call = {"name": "stock_text", "arguments": {"word": "w", "times": LARGE}}
    connection.sendall(visitor.request_bytes("tools/call", call, accept=JSON))
    assert connection.recv(12) == b"HTTP/1.1 200"
    return connection


@eras
async def test_S3_client_that_does_not_read_its_answer_does_not_keep_the_process(era: Era, extended: Project) -> None:
    with site("direct", extended, **STOPPING) as here, await asyncio.to_thread(deaf, here.port, era):
        async with in_time():
            tell(here.server)
            code = await ended(here.server)

    assert code == 1
    assert counts(await told(here.server, "drained"))["cut"] == 1


@eras
async def test_S3_client_that_reads_slowly_gets_its_whole_answer(era: Era, extended: Project) -> None:
    with site("direct", extended) as here:
        with await asyncio.to_thread(deaf, here.port, era) as connection:
            await here.answered()
            await drain(here.server)
            # Longer than idle connections get in the end.
            read = 12
            for _ in range(15):
                await asyncio.sleep(0.2)
                read += len(await asyncio.to_thread(connection.recv, 65536))
            while part := await asyncio.to_thread(connection.recv, 1 << 20):
                read += len(part)
        code = await ended(here.server)

    assert read > 2 * LARGE
    assert code == 0
    assert counts(await told(here.server, "drained")) == {"calls": 1, "interrupted": 0, "cut": 0}
