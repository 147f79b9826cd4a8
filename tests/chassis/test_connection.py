"""T7: on a connection, what is no body is bounded wherever it comes, and no body is taken for a request."""

from __future__ import annotations

import asyncio

import pytest

from tests.chassis.client import DEADLINE, JSON, connect, exchange, raw
from tests.chassis.serving import chassis, talking
from tests.chassis.tools import Story, chassis_server

pytestmark = pytest.mark.anyio
POST = [("Content-Type", "application/json"), ("Accept", JSON)]
PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
HEALTH = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
UPGRADE = [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABkAAQAAP__")]
MUCH = 3_000_000
"""Bytes; a head has some 24,000."""


@pytest.mark.parametrize("cut", [1, 40, 120, -60, 10_000])
async def test_T7_request_that_would_upgrade_is_served_and_its_body_is_no_request(cut: int, story: Story) -> None:
    async with talking(chassis_server(story), "stateless") as client, connect(client.port) as connection:
        plain = client.request_bytes("tools/call", {"name": "echo", "arguments": {"text": HEALTH.decode()}})
        lines = "".join(f"{name}: {value}\r\n" for name, value in UPGRADE)
        request = plain.replace(b"\r\n", b"\r\n" + lines.encode(), 1)
        for piece in (request[:cut], request[cut:], client.request_bytes("tools/list")):
            await connection.send(piece)
            await asyncio.sleep(0.01)  # or they would arrive as one

        echoed, listed = await connection.answer(), await connection.answer()

    assert echoed.text() == HEALTH.decode()
    assert (listed.status, "tools" in listed.message()["result"]) == (200, True)


async def test_T7_tunnel_is_refused(story: Story) -> None:
    async with chassis(chassis_server(story)) as port:
        assert (await exchange(port, raw("CONNECT", POST, path="localhost:80"))).status == 400


@pytest.mark.parametrize(
    "piece", [b"X-Long: " + b"x" * 50_000, b"X-A: b\r\n" * 5_000, b"0;" + b"x" * 50_000], ids=["one", "many", "zero"]
)
async def test_T7_trailers_are_bounded(piece: bytes, story: Story) -> None:
    async with chassis(chassis_server(story)) as port, connect(port) as connection:
        await connection.send(raw("POST", [*POST, ("Transfer-Encoding", "chunked")]))
        await connection.send(b"%x\r\n%b\r\n" % (len(PING), PING) + (b"" if piece.startswith(b"0;") else b"0\r\n"))
        for _ in range(MUCH // len(piece)):
            await connection.send(piece)
        try:
            said = await asyncio.wait_for(connection.reader.read(), DEADLINE)
        except ConnectionError:
            said = b""  # what it said is lost where it closes before everything was read

    assert said.startswith(b"HTTP/1.1 400") or not said


async def test_T7_head_behind_an_open_stream_is_bounded(story: Story) -> None:
    async with talking(chassis_server(story), "handshake") as client, connect(client.port) as connection:
        await connection.send(raw("GET", client.head("GET", {}, "text/event-stream")))
        assert (await connection.head()).status == 200
        await connection.send(b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nX-Long: ")
        for _ in range(20):
            await connection.send(b"x" * 10_000)

        assert await connection.closed()


async def test_T7_rest_of_a_refused_body_is_no_head(story: Story) -> None:
    async with chassis(chassis_server(story)) as port, connect(port) as connection:
        await connection.send(raw("POST", [("Content-Type", "text/plain"), ("Content-Length", "100000")]))
        refused = await connection.answer()
        await connection.send(b" " * 100_000 + HEALTH)
        served = await connection.answer()

    assert (refused.status, served.status) == (415, 200)


@pytest.mark.parametrize(
    "head",
    [
        b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nHost: example.com\r\n",
        b"POST http://example.com/mcp HTTP/1.1\r\nHost: localhost\r\n",
        b"POST /mcp HTTP/2.0\r\nHost: localhost\r\n",
        b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n",
        b"POST /mcp HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n",
    ],
    ids=["two hosts", "absolute", "HTTP/2", "gzip", "chunks in 1.0"],
)
async def test_T7_what_two_readers_could_read_in_two_ways_ends_the_connection(head: bytes, story: Story) -> None:
    async with chassis(chassis_server(story)) as port, connect(port) as connection:
        await connection.send(head + b"Content-Type: application/json\r\n\r\n")
        answer = await connection.answer()

    assert (answer.status, answer.header("connection")) == (400, "close")


async def test_T7_http_without_chunks_is_told_what_to_use(story: Story) -> None:
    async with chassis(chassis_server(story)) as port:
        old = await exchange(port, raw("POST", POST, PING).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
        health = await exchange(port, HEALTH.replace(b"HTTP/1.1", b"HTTP/1.0", 1))

    assert (old.status, old.error()["data"]["reason"]) == (505, "http_too_old")
    assert (health.status, health.header("connection")) == (200, "close")


async def test_T7_nothing_is_written_into_a_stream_that_runs(story: Story) -> None:
    async with talking(chassis_server(story), "handshake") as client, connect(client.port) as connection:
        await connection.send(raw("GET", client.head("GET", {}, "text/event-stream")))
        assert (await connection.head()).status == 200
        await connection.send(b"no HTTP at all\r\n\r\n")
        said = await asyncio.wait_for(connection.reader.read(), DEADLINE)

    assert b"HTTP/1.1" not in said
