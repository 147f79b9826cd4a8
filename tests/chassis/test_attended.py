"""T1, T4, E5: a call without a stream is pinged all the same, and ends with its client where the protocol says so."""

from __future__ import annotations

import asyncio
import json

import pytest

from mcp_chassis.http import negotiation
from tests.chassis.client import BOTH, DEADLINE, ERAS, EVENTS, JSON, Connection, Era, connect, exchange, raw
from tests.chassis.serving import talking
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
