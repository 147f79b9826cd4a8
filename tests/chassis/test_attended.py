"""T1, T4, E5: a call without a stream is pinged all the same, and ends with its client where the protocol says so."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any, cast

import pytest
from mcp.server.mcpserver import Context
from mcp_types import CallToolResult, InputRequiredResult

from mcp_chassis import Server, calls
from mcp_chassis.http import negotiation
from tests.chassis.client import BOTH, DEADLINE, ERAS, EVENTS, JSON, Connection, Era, connect, exchange, raw
from tests.chassis.serving import settings, talking
from tests.chassis.tools import Story, chassis_server

pytestmark = pytest.mark.anyio

PING = b": ping\r\n\r\n"
SHORT = 0.2


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(negotiation, "_PING", SHORT)


async def last_event(connection: Connection) -> dict[str, dict[str, object]]:
    """Return the message after the pings."""
    async with asyncio.timeout(DEADLINE):
        while (chunk := await connection.chunk()) == PING:
            pass
    message: dict[str, dict[str, object]] = json.loads(chunk.split(b"data: ")[1])
    return message


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("accept", [BOTH, EVENTS, "*/*"])
async def test_T4_call_that_has_nothing_to_tell_is_pinged_until_it_is_answered(
    accept: str, era: Era, story: Story
) -> None:
    async with talking(chassis_server(story), era) as client, connect(client.port) as connection:
        await connection.send(client.request_bytes("tools/call", {"name": "wait"}, accept=accept))
        head = await connection.head()
        pings = [await connection.chunk() for _ in range(2)]
        story.release.set()
        message = await last_event(connection)
        end = await connection.chunk()

    assert (head.status, head.shape, head.header("connection")) == (200, EVENTS, "keep-alive")
    assert (pings, end) == ([PING] * 2, b"")
    assert message["result"]["content"] == [{"type": "text", "text": "released"}]


@pytest.mark.parametrize("era", ERAS)
async def test_T2_client_of_json_alone_waits_in_silence(era: Era, story: Story) -> None:
    async with talking(chassis_server(story), era) as client, connect(client.port) as connection:
        await connection.send(client.request_bytes("tools/call", {"name": "wait"}, accept=JSON))
        asyncio.get_running_loop().call_later(SHORT * 3, story.release.set)
        answer = await connection.answer()

    assert (answer.shape, answer.text()) == (JSON, "released")


async def test_E1_call_that_was_pinged_is_answered_when_its_session_ends(story: Story) -> None:
    async with talking(chassis_server(story), "handshake") as client, connect(client.port) as connection:
        await connection.send(client.request_bytes("tools/call", {"name": "wait"}))
        head = await connection.head()
        assert await connection.chunk() == PING
        await exchange(client.port, raw("DELETE", client.head("", {})))
        message = await last_event(connection)

    assert message["error"]["message"] == (
        f"The call ended without an answer; quote request {head.header('x-request-id')} when you report it"
    )


@pytest.mark.parametrize("accept", [BOTH, JSON, EVENTS])
async def test_E5_call_of_the_stateless_era_ends_when_its_client_leaves(accept: str, story: Story) -> None:
    async with talking(chassis_server(story), "stateless") as client:
        async with connect(client.port) as connection:
            await connection.send(client.request_bytes("tools/call", {"name": "wait"}, accept=accept))
            await asyncio.wait_for(story.started.wait(), DEADLINE)

        await asyncio.wait_for(story.cancelled.wait(), DEADLINE)


async def test_E5_call_of_a_session_goes_on_when_its_client_leaves(story: Story) -> None:
    async with talking(chassis_server(story), "handshake") as client:
        async with connect(client.port) as connection:
            await connection.send(client.request_bytes("tools/call", {"name": "wait"}))
            await asyncio.wait_for(story.started.wait(), DEADLINE)

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(story.cancelled.wait(), SHORT * 3)
        story.release.set()


def tidy(story: Story) -> Server:
    """Return a server with a tool that cleans up for as long as the test says, once it is stopped."""
    server = chassis_server(story)

    @server.tool(timeout=SHORT)
    async def tidy() -> str:
        """Take too long, then clean up."""
        try:
            await asyncio.sleep(DEADLINE)
        finally:
            story.started.set()
            await story.release.wait()
        return "tidy"

    return server


@pytest.mark.parametrize("era", ERAS)
async def test_E5_call_counts_until_it_has_cleaned_up_though_its_client_left_meanwhile(era: Era, story: Story) -> None:
    async with talking(tidy(story), era, settings(max_calls=1)) as client:
        async with connect(client.port) as connection:
            await connection.send(client.request_bytes("tools/call", {"name": "tidy"}))
            await asyncio.wait_for(story.started.wait(), DEADLINE)
        await asyncio.sleep(SHORT)  # the server has seen by now that the client left
        meanwhile, refused = calls.running(), await client.call("add", {"a": 1, "b": 2})
        story.release.set()
        async with asyncio.timeout(DEADLINE):
            while calls.running():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        served = await client.call("add", {"a": 1, "b": 2})

    assert (meanwhile, refused.status, served.text()) == (1, 503, "3")


@pytest.mark.parametrize("era", ERAS)
async def test_E1_answer_arrives_though_a_ping_waited_for_its_client_to_read(era: Era, story: Story) -> None:
    async with talking(chassis_server(story), era) as client:
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.setblocking(False)
        await asyncio.get_running_loop().sock_connect(deaf, ("127.0.0.1", client.port))
        reader, writer = await asyncio.open_connection(sock=deaf, limit=2**24)
        cast("asyncio.Transport", writer.transport).pause_reading()
        connection = Connection(reader, writer)
        large = {"name": "large", "arguments": {"size": 3_000_000}}
        await connection.send(client.request_bytes("tools/call", large, accept=JSON))
        await connection.send(client.request_bytes("tools/call", {"name": "wait"}, id=2))
        await asyncio.wait_for(story.started.wait(), DEADLINE)
        await asyncio.sleep(SHORT * 3)  # a ping is due, and waits
        story.release.set()
        await asyncio.sleep(SHORT)
        cast("asyncio.Transport", writer.transport).resume_reading()
        first, second = await connection.answer(), await connection.answer()
        writer.transport.abort()

    assert first.text() == "x" * 3_000_000
    assert (second.status, second.text()) == (200, "released")


class Telling(Server):
    """A server whose author reports on every call."""

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Report, then call."""
        assert context is not None
        await context.report_progress(1)
        return await super().call_tool(name, arguments, context)


@pytest.mark.parametrize("era", ERAS)
async def test_E1_server_that_overrides_the_call_may_notify(era: Era) -> None:
    server = Telling("telling")

    @server.tool()
    async def silent() -> str:
        """Say nothing but the answer."""
        return "said"

    async with talking(server, era) as client:
        answer = await client.call("silent", token="token")
        alone = await client.call("silent", token="token", accept=JSON)

    assert [event.get("method") for event in answer.events()] == ["notifications/progress", None]
    assert (answer.text(), alone.text()) == ("said", "said")


@pytest.mark.parametrize("era", ERAS)
async def test_T9_nobody_in_between_keeps_an_answer(era: Era, story: Story) -> None:
    async with talking(chassis_server(story), era) as client:
        answers = [await client.call("add", {"a": 1, "b": 2}, accept=accept) for accept in (BOTH, JSON)]
        refused = await exchange(client.port, raw("PUT", []))

    assert [answer.header("cache-control") for answer in (*answers, refused)] == ["no-store"] * 3
