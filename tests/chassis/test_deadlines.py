"""E5: every call ends in time, whatever its tool does, and its caller is told."""

from __future__ import annotations

import asyncio
import time

import pytest

from mcp_chassis import Server, calls
from mcp_chassis.environment import ConfigurationError
from tests.chassis.client import DEADLINE, ERAS, EVENTS, JSON, Era
from tests.chassis.serving import settings, talking
from tests.chassis.tools import Story, chassis_server
from tests.support.inside import Log

pytestmark = pytest.mark.anyio

TOLD = "{tool} was stopped after 0.2 s, the longest it may take; ask for less"


@pytest.mark.parametrize("accept", [JSON, EVENTS])
@pytest.mark.parametrize("era", ERAS)
async def test_E5_async_tool_is_cancelled_and_its_caller_told(era: Era, accept: str, log: Log, story: Story) -> None:
    async with talking(chassis_server(story), era) as client:
        started = time.monotonic()
        answer = await client.call("slow", accept=accept)
        took = time.monotonic() - started
        afterwards = await client.call("ping", accept=accept)

    assert answer.result()["isError"]
    assert answer.text() == TOLD.format(tool="slow")
    assert answer.result()["_meta"]["errorCode"] == "timeout"
    assert story.cancelled.is_set()
    assert 0.2 <= took < DEADLINE / 2
    assert [line["status"] for line in log.lines("tool_called")] == ["timeout", "ok"]
    assert afterwards.text() == "pong"


@pytest.mark.parametrize("era", ERAS)
async def test_E5_sync_tool_is_left_behind_in_its_thread(era: Era, story: Story) -> None:
    async with talking(chassis_server(story), era) as client:
        started = time.monotonic()
        answer = await client.call("blocking", {"seconds": 1.0})
        took = time.monotonic() - started
        afterwards = await client.call("blocking", {"seconds": 0})

    assert answer.text() == TOLD.format(tool="blocking")
    assert took < 0.9
    assert afterwards.text() == "woke up"


@pytest.mark.parametrize("accept", [JSON, EVENTS])
@pytest.mark.parametrize("era", ERAS)
async def test_E5_progress_does_not_move_the_deadline(era: Era, accept: str, story: Story) -> None:
    async with talking(chassis_server(story), era) as client:
        answer = await client.call("chatty", accept=accept, token="token")

    assert answer.text() == TOLD.format(tool="chatty")
    assert (len(answer.events()) > 5) == (accept == EVENTS)


@pytest.mark.parametrize("accept", [JSON, EVENTS])
@pytest.mark.parametrize("era", ERAS)
async def test_E5_tool_that_ignores_its_cancellation_is_answered_for(
    era: Era, accept: str, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "_GRACE", 0.1)

    async with talking(chassis_server(story), era) as client:
        answer = await client.call("stubborn", accept=accept)
        afterwards = await client.call("ping", accept=accept)
        assert story.cancelled.is_set()
        story.release.set()

    assert answer.text() == TOLD.format(tool="stubborn")
    assert afterwards.text() == "pong"


@pytest.mark.parametrize("era", ERAS)
async def test_E5_tool_without_a_deadline_of_its_own_has_the_servers(era: Era, story: Story) -> None:
    async with talking(chassis_server(story), era, settings(tool_timeout=0.3)) as client:
        answer = await client.call("wait")

    assert answer.text() == "wait was stopped after 0.3 s, the longest it may take; ask for less"
    assert story.cancelled.is_set()


async def test_T8_tool_that_may_take_longer_than_the_server_stops_the_start() -> None:
    server = Server("tests")

    @server.tool(timeout=45.5)
    async def long() -> str:
        return "done"

    with pytest.raises(ConfigurationError) as refused:
        server.prepare(settings(tool_timeout=30))

    assert str(refused.value) == (
        "1 problem stops this server:\n  MCP_TOOL_TIMEOUT=30  must be at least 45.5, which the tool long declares: "
        "raise it everywhere at once with copier update --data tool_timeout=46"
    )


@pytest.mark.parametrize("timeout", [0, -1])
def test_E5_deadline_must_lie_ahead(timeout: float) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        Server("tests").add_tool(lambda: "done", "instant", timeout=timeout)


@pytest.mark.parametrize("era", ERAS)
async def test_E5_calls_do_not_wait_for_each_other(era: Era, story: Story) -> None:
    async with talking(chassis_server(story), era) as client:
        waiting = asyncio.create_task(client.call("wait", id="first"))
        await asyncio.wait_for(story.started.wait(), DEADLINE)
        assert (await client.call("add", {"a": 1, "b": 2}, id="second")).text() == "3"
        story.release.set()
        assert (await waiting).text() == "released"
