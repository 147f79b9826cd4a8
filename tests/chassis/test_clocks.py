"""T7: nobody holds a connection, a call or a session by being slow, half gone or deaf."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from mcp_chassis import Server
from tests.chassis.client import DEADLINE, ERAS, JSON, Client, Connection, Era, connect, exchange, raw
from tests.chassis.serving import chassis, settings, talking
from tests.chassis.tools import Story, chassis_server

pytestmark = pytest.mark.anyio

SHORT = 0.3
"""Seconds of the clock under test; far below the deadline of a test, far above the jitter of a busy machine."""

HASTY = settings(receive_timeout=SHORT, send_timeout=SHORT)
POST = [("Content-Type", "application/json"), ("Accept", JSON)]


async def test_T7_connection_that_says_nothing_is_cut(story: Story) -> None:
    async with chassis(chassis_server(story), HASTY) as port, connect(port) as connection:
        started = time.monotonic()
        assert await connection.closed()

    assert SHORT * 0.9 < time.monotonic() - started < DEADLINE


async def trickle(connection: Connection, data: bytes) -> None:
    """Send a byte at a time, faster than the clock of a connection, slower than the whole may take."""
    for byte in data:
        await connection.send(bytes([byte]))
        await asyncio.sleep(SHORT / 10)


async def test_T7_headers_that_trickle_are_cut_though_each_byte_comes_in_time(story: Story) -> None:
    async with chassis(chassis_server(story), HASTY) as port, connect(port) as connection:
        sending = asyncio.create_task(trickle(connection, raw("POST", POST)))
        assert await connection.closed()
        sending.cancel()


async def test_T7_headers_that_trickle_on_a_connection_that_was_served_before_are_cut(story: Story) -> None:
    async with talking(chassis_server(story), "stateless", HASTY) as client, connect(client.port) as connection:
        await connection.send(client.request_bytes("tools/list"))
        assert (await connection.answer()).status == 200
        sending = asyncio.create_task(trickle(connection, raw("POST", POST)))
        assert await connection.closed()
        sending.cancel()


async def test_T7_body_that_trickles_is_refused_and_its_connection_closed(story: Story) -> None:
    async with chassis(chassis_server(story), HASTY) as port, connect(port) as connection:
        await connection.send(raw("POST", [*POST, ("Content-Length", "1000")]))
        sending = asyncio.create_task(trickle(connection, b" " * 1000))
        answer = await asyncio.wait_for(connection.answer(), DEADLINE / 2)
        closed = await connection.closed()
        sending.cancel()

    assert (answer.status, answer.error()["data"]["reason"]) == (408, "body_too_slow")
    assert answer.header("connection") == "close"
    assert closed


@pytest.mark.parametrize("era", ERAS)
async def test_T7_call_longer_than_both_clocks_is_answered(era: Era, story: Story) -> None:
    async with talking(chassis_server(story), era, HASTY) as client, connect(client.port) as connection:
        await connection.send(client.request_bytes("tools/call", {"name": "wait"}))
        await asyncio.wait_for(story.started.wait(), DEADLINE)
        asyncio.get_running_loop().call_later(SHORT * 3, story.release.set)
        answer = await connection.answer()

    assert answer.text() == "released"


def flood(story: Story) -> Server:
    """Return a server with a tool that sends more than any buffer on the way holds."""
    server = chassis_server(story)

    @server.tool()
    async def flood() -> str:
        """Answer with eight megabytes."""
        return "x" * 2**23

    return server


@pytest.mark.parametrize("era", ERAS)
async def test_T7_client_that_never_reads_is_cut_and_its_session_serves_on(era: Era, story: Story) -> None:
    async with talking(flood(story), era, HASTY) as client:
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.setblocking(False)
        await asyncio.get_running_loop().sock_connect(deaf, ("127.0.0.1", client.port))
        with deaf:
            await asyncio.get_running_loop().sock_sendall(deaf, client.request_bytes("tools/call", {"name": "flood"}))
            received = await asyncio.wait_for(drained_after_cut(deaf), DEADLINE)
        served = await client.call("add", {"a": 1, "b": 2})

    assert received < 2**23
    assert served.text() == "3"


async def drained_after_cut(deaf: socket.socket) -> int:
    """Read nothing until well after the clock, then all that is left; return how much it was."""
    await asyncio.sleep(SHORT * 4)
    received = 0
    try:
        while data := await asyncio.get_running_loop().sock_recv(deaf, 2**16):
            received += len(data)
    except ConnectionError:
        pass
    return received


async def test_T7_initialize_that_never_ends_takes_no_session(story: Story) -> None:
    given = settings(receive_timeout=SHORT, max_sessions=1)
    half = Client(0, "handshake").request_bytes("initialize", {})[:-10]

    async with chassis(chassis_server(story), given) as port, connect(port) as slow, connect(port) as gone:
        await slow.send(half)
        await gone.send(half)
        gone.writer.transport.abort()
        opened = await Client(port, "handshake").introduce()
        refused = await slow.answer()

    assert opened.status == 200
    assert refused.status == 408


async def test_T7_client_that_leaves_its_stream_lets_its_session_go_idle(story: Story) -> None:
    given = settings(session_idle_timeout=1, max_sessions=1)

    async with chassis(chassis_server(story), given) as port:
        client = Client(port, "handshake")
        await client.open()
        async with connect(port) as stream:
            await stream.send(raw("GET", client.head("", {})))
            assert (await stream.head()).status == 200
            assert (await Client(port, "handshake").introduce()).status == 503
            stream.writer.write_eof()
            assert await stream.closed()
        assert await until_admitted(port)


async def until_admitted(port: int) -> bool:
    """Try to open a session until one is free, at most until the deadline."""
    for _ in range(round(DEADLINE / 0.05)):
        if (await Client(port, "handshake").introduce()).status == 200:
            return True
        await asyncio.sleep(0.05)
    return False


@pytest.mark.parametrize("open_stream", [False, True])
async def test_T7_idle_session_ends_and_one_with_a_stream_does_not(open_stream: bool, story: Story) -> None:
    async with chassis(chassis_server(story), settings(session_idle_timeout=1, max_sessions=1)) as port:
        client = Client(port, "handshake")
        await client.open()
        async with connect(port) as stream:
            if open_stream:
                await stream.send(raw("GET", client.head("", {})))
                assert (await stream.head()).status == 200
                await asyncio.sleep(1.5)
                assert (await client.call("add", {"a": 1, "b": 2})).status == 200
                return
            assert await until_admitted(port)
        gone = await client.call("add", {"a": 1, "b": 2})

    assert (gone.status, gone.error()["data"]["reason"]) == (404, "unknown_session")


async def test_T7_full_table_refuses_with_the_time_to_come_back_and_a_delete_makes_room(story: Story) -> None:
    async with chassis(chassis_server(story), settings(max_sessions=2)) as port:
        clients = [Client(port, "handshake"), Client(port, "handshake")]
        for client in clients:
            await client.open()
        full = await Client(port, "handshake").introduce()
        stateless = await Client(port, "stateless").call("add", {"a": 1, "b": 2})
        ended = await exchange(port, raw("DELETE", clients[0].head("", {})))
        room = await Client(port, "handshake").introduce()

    assert (full.status, full.error()["data"]["reason"]) == (503, "too_many_sessions")
    assert int(full.header("retry-after") or 0) > 0
    assert stateless.text() == "3"
    assert (ended.status, room.status) == (200, 200)


async def test_T7_second_stream_of_a_session_is_refused(story: Story) -> None:
    async with talking(chassis_server(story), "handshake") as client, connect(client.port) as stream:
        get = raw("GET", client.head("", {}))
        await stream.send(get)
        assert (await stream.head()).status == 200
        second = await exchange(client.port, get)

    assert second.status == 409


@pytest.mark.parametrize("accept", [JSON, None])
async def test_E5_call_in_a_session_that_its_client_ends_is_answered(accept: str | None, story: Story) -> None:
    async with talking(chassis_server(story), "handshake") as client, connect(client.port) as connection:
        await connection.send(client.request_bytes("tools/call", {"name": "wait"}, accept=accept))
        await asyncio.wait_for(story.started.wait(), DEADLINE)
        await exchange(client.port, raw("DELETE", client.head("", {})))
        answer = await connection.answer()

    assert answer.error()["message"].startswith("The call ended without an answer")
    assert answer.error()["data"]["requestId"] == answer.header("x-request-id")


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_T7_without_sessions_there_is_nothing_to_get_or_delete(method: str, story: Story) -> None:
    async with chassis(chassis_server(story), settings(sessions="stateless")) as port:
        answer = await exchange(port, raw(method, [("Accept", "text/event-stream"), ("Mcp-Session-Id", "x")]))

    assert (answer.status, answer.header("allow")) == (405, "POST")


@pytest.mark.parametrize("era", ERAS)
async def test_T7_without_sessions_both_eras_are_served(era: Era, story: Story) -> None:
    async with talking(chassis_server(story), era, settings(sessions="stateless", max_sessions=1)) as client:
        answers = [await client.call("steps", token="token") for _ in range(3)]

    assert client.session is None
    assert [answer.text() for answer in answers] == ["done"] * 3
