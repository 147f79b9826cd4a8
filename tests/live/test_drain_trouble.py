"""Threads, event loops, logs and stores that do not let go, signals at any moment: it ends all the same (S3)."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.chassis.client import EVENTS
from tests.live import data
from tests.live.draining import (
    BUSY,
    KINDS,
    LAST_RESORT,
    NEVER,
    SHORT,
    STOPPING,
    Visitor,
    counts,
    drain,
    ended,
    events,
    in_time,
    interrupted,
    port_of,
    site,
    tell,
    told,
)
from tests.live.gate import gate
from tests.live.project import DEADLINE, Project, ServerProcess, environment
from tests.support.limits import VARIABLES
from tests.support.redis import running

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("drain")]

often = pytest.mark.parametrize("numbers", [(signal.SIGTERM,), (signal.SIGTERM, signal.SIGTERM)], ids=["once", "twice"])

# --- the last resort ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", ["block_a_thread", "block_a_thread_of_the_pool", "block_a_worker"])
async def test_S3_thread_that_never_ends_does_not_keep_the_process(tool: str, extended: Project) -> None:
    with site("direct", extended, **STOPPING) as here:
        async with gate() as held:
            visitor = await here.visitor("handshake")
            call = asyncio.create_task(visitor.call(tool, {"port": held.port, "seconds": NEVER}))
            await held.holds(1)
            async with in_time():
                tell(here.server)
                answer = await call
                code = await ended(here.server)

    assert interrupted(answer), answer
    assert code == 1
    forced = await told(here.server, "stop_forced", level="error")
    assert forced["seconds"] == SHORT + LAST_RESORT
    assert here.server.lines[-1] == forced


async def test_S3_blocked_event_loop_does_not_keep_the_process(extended: Project) -> None:
    with site("direct", extended, **STOPPING) as here:
        async with gate() as held:
            visitor = await here.visitor("stateless")
            async with visitor.connected() as connection:
                arguments = {"port": held.port, "seconds": NEVER}
                call = {"name": "block_everything", "arguments": arguments}
                await connection.send(visitor.request_bytes("tools/call", call))
                await held.holds(1)
                async with in_time():
                    tell(here.server)
                    code = await ended(here.server)

    assert code == 1
    assert here.server.lines[-1]["event"] == "stop_forced"


def unread(project: Project) -> subprocess.Popen[str]:
    """Start a server whose log nobody reads."""
    given = environment({**VARIABLES, **STOPPING, "MCP_PORT": "0"})
    command = [str(project.command), "serve"]
    return subprocess.Popen(command, cwd=project.root, env=given, stdout=subprocess.PIPE, text=True)


async def answers(visitor: Visitor) -> bool:
    """Tell whether a call is answered soon."""
    try:
        async with asyncio.timeout(2):
            return (await visitor.call("ping")).status == 200
    except TimeoutError:
        return False


async def test_S3_log_that_nobody_reads_does_not_keep_the_process(extended: Project) -> None:
    with unread(extended) as process:
        assert process.stdout is not None
        started = json.loads(await asyncio.to_thread(process.stdout.readline))
        visitor = Visitor(urlsplit(started["url"]).port or 0, "stateless")
        # Each call is a line; in the end one of them blocks the server.
        while await answers(visitor):
            pass
        try:
            async with in_time():
                process.send_signal(signal.SIGTERM)
                code = await asyncio.to_thread(process.wait, DEADLINE)
        finally:
            process.kill()

    assert code == 1


# --- Redis --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["before", "while"])
@pytest.mark.parametrize("harm", ["killed", "frozen"])
async def test_S3_dead_redis_costs_no_call_and_no_time(
    harm: str, moment: str, extended: Project, tmp_path: Path
) -> None:
    peers = {"MCP_PEER_URL": "https://127.0.0.1:9443", "MCP_PEER_SECRET": "p" * 40}
    with running(tmp_path / "redis") as redis, site("direct", extended, MCP_STATE_URL=redis.url, **peers) as here:
        async with gate() as held:
            calls = await here.hold(held)
            for _ in range(20):
                await here.visitor("handshake")
            if moment == "before":
                redis.kill() if harm == "killed" else redis.freeze()
            started = await drain(here.server)
            if moment == "while":
                redis.kill() if harm == "killed" else redis.freeze()
            await held.open()
            answers = await asyncio.gather(*calls)
            async with in_time(LAST_RESORT + BUSY):
                code = await ended(here.server)

    assert [answer.text() for answer in answers] == ["held"] * len(KINDS)
    assert code == 0, here.server.output
    assert counts(started) == {"calls": len(KINDS)}
    assert "stop_forced" not in events(here.server, "stop_forced")


async def test_S3_silence_of_redis_is_part_of_the_drain_not_added_to_it(extended: Project, tmp_path: Path) -> None:
    peers = {"MCP_PEER_URL": "https://127.0.0.1:9443", "MCP_PEER_SECRET": "p" * 40, "MCP_STATE_TIMEOUT": "5"}
    patience = 4.0
    with running(tmp_path / "redis") as redis:
        given = {"MCP_STATE_URL": redis.url, **peers, "MCP_DRAIN_TIMEOUT": f"{patience:g}"}
        with site("direct", extended, **given) as here:
            async with gate() as held:
                calls = await here.hold(held)
                await here.visitor("handshake")
                redis.freeze()
                tell(here.server)
                answers = await asyncio.gather(*calls)
                code = await ended(here.server)

    assert [interrupted(answer) for answer in answers] == [True] * len(KINDS), answers
    assert code == 1
    assert (await told(here.server, "drained"))["seconds"] < patience + LAST_RESORT
    assert here.server.lines[-1]["event"] == "server_stopped", here.server.output


# --- before it serves, and without HTTP ---------------------------------------------------------------------------


@often
async def test_S3_signal_while_the_start_waits_for_redis_ends_it(
    numbers: tuple[signal.Signals, ...], extended: Project
) -> None:
    # Somebody who takes a connection and says nothing.
    async with gate() as mute:
        given = {"MCP_STATE_URL": f"redis://127.0.0.1:{mute.port}/0"}
        with ServerProcess(extended, given=given) as server:
            end = time.monotonic() + DEADLINE
            while not mute.running:
                assert time.monotonic() < end, server.output
                await asyncio.sleep(0.01)
            assert not events(server, "server_started")
            async with in_time():
                for number in numbers:
                    tell(server, number)
                code = await ended(server)

    assert code == 0, server.output
    assert server.lines[-1]["event"] == "server_stopped"
    assert "crashed" not in events(server, "crashed")


@often
def test_S3_signal_at_any_moment_of_the_start_ends_it(numbers: tuple[signal.Signals, ...], extended: Project) -> None:
    begun = time.monotonic()
    with ServerProcess(extended) as server:
        assert server.url
        started = time.monotonic() - begun
        assert server.stop() == 0

    steps = 4
    codes = []
    for step in range(1, steps + 1):
        with ServerProcess(extended) as server:
            time.sleep(started * step / steps)
            tell(server, *numbers)
            codes.append(server.wait())
        assert "crashed" not in events(server, "crashed"), server.output
        if codes[-1] == 0:
            assert server.lines[-1]["event"] == "server_stopped", server.output

    # Until Python has loaded the server, a signal ends it as it ends any program.
    assert set(codes) <= {0, -signal.SIGTERM}, codes


def test_S3_T6_signal_ends_stdio_at_once(extended: Project) -> None:
    with subprocess.Popen(
        [str(extended.command), "stdio"],
        cwd=extended.root,
        env=environment(VARIABLES),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        visitor = Visitor(0, "stateless")
        for tool, arguments in (("ping", {}), ("dawdle", {"seconds": NEVER})):
            request = visitor.request_bytes("tools/call", {"name": tool, "arguments": arguments}, accept=EVENTS)
            print(request.rpartition(b"\r\n")[2].decode(), file=process.stdin, flush=True)
        assert '"pong"' in process.stdout.readline()

        process.send_signal(signal.SIGTERM)

        assert process.wait(DEADLINE) == -signal.SIGTERM


async def test_S3_S6_call_in_the_database_is_finished_before_its_connections_are_closed() -> None:
    postgres = await asyncio.to_thread(data.shared_postgres)
    with ServerProcess(data.stored_project(), given=data.variables(postgres)) as server:
        visitor = Visitor(port_of(server), "stateless")
        call = asyncio.create_task(visitor.call("hold", {"seconds": 2}))
        await asyncio.to_thread(data.until, lambda: data.busy(postgres) == 1, "the call is in the database")
        await drain(server)
        answer = await call
        code = await ended(server)

    assert (answer.text(), code) == ("held", 0)
    assert "crashed" not in events(server, "crashed")
    await asyncio.to_thread(data.until, lambda: data.connections(postgres) == 0, "connections are closed")
    assert "unexpected EOF" not in postgres.log
