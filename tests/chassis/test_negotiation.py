"""T1, T2, T9: each request is answered in the shape that it asked for, whatever its session was opened with."""

from __future__ import annotations

import json
from typing import Any

import pytest
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext

from mcp_chassis.request import Wish, wish
from tests.chassis.client import BOTH, ERAS, EVENTS, JSON, Client, Era, Response, connect
from tests.chassis.serving import chassis, settings, talking
from tests.chassis.tools import Story, chassis_server

pytestmark = pytest.mark.anyio

ACCEPTS: dict[str | None, Wish] = {
    None: "either",
    "": "either",
    BOTH: "either",
    "*/*": "either",
    "text/html": "either",
    "application/json;q=0.1, text/event-stream;q=0.9": "either",
    JSON: "json",
    "application/*": "json",
    "Application/JSON; charset=utf-8": "json",
    "application/json, text/event-stream;q=0": "json",
    "*/*;q=0, application/json;q=0.001": "json",
    EVENTS: "events",
    "text/*": "events",
    "TEXT/Event-Stream;q=0.5, text/html": "events",
    "text/event-stream, application/*; q=0.000": "events",
}
"""What a client says it accepts, and what it can read by RFC 9110, 12.5.1."""

CALLS: dict[str, tuple[str, dict[str, Any], str | None]] = {
    "silent": ("add", {"a": 1, "b": 2}, None),
    "progress": ("steps", {"count": 2}, "token"),
    "failure": ("crash", {}, None),
}


def shape(wanted: Wish, *, progress: bool = False) -> str:
    """Return the content type of a good answer; where both will do, it is a stream if there is more to tell."""
    if wanted == "either":
        return EVENTS if progress else JSON
    return JSON if wanted == "json" else EVENTS


@pytest.mark.parametrize(("accept", "wanted"), ACCEPTS.items())
def test_T2_accept_is_read_as_http_says(accept: str | None, wanted: Wish) -> None:
    assert wish((accept or "").encode("ascii")) == wanted


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(("accept", "wanted"), ACCEPTS.items())
async def test_T2_the_first_message_is_answered_in_the_accepted_shape(
    accept: str | None, wanted: Wish, era: Era, story: Story
) -> None:
    async with chassis(chassis_server(story)) as port:
        introduced = await Client(port, era).introduce(accept=accept)

    assert introduced.status == 200
    assert introduced.shape == shape(wanted, progress=era == "handshake")
    assert "capabilities" in introduced.result()
    assert (introduced.header("mcp-session-id") is not None) == (era == "handshake")


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(("accept", "wanted"), ACCEPTS.items())
@pytest.mark.parametrize("kind", CALLS)
async def test_T2_a_call_is_answered_in_the_accepted_shape(
    kind: str, accept: str | None, wanted: Wish, era: Era, story: Story
) -> None:
    tool, arguments, token = CALLS[kind]

    async with talking(chassis_server(story), era) as client:
        answer = await client.call(tool, arguments, accept=accept, token=token)

    assert answer.status == 200
    assert answer.shape == shape(wanted, progress=kind == "progress")
    assert answer.result().get("isError", False) == (kind == "failure")
    progress = [event for event in answer.events() if event.get("method") == "notifications/progress"]
    assert len(progress) == (2 if kind == "progress" and answer.shape == EVENTS else 0)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(("accept", "wanted"), ACCEPTS.items())
async def test_T2_an_error_is_answered_in_the_accepted_shape_and_as_json_from_status_400(
    accept: str | None, wanted: Wish, era: Era, story: Story
) -> None:
    async with talking(chassis_server(story), era) as client:
        unknown = await client.call("nobody", accept=accept)

    assert unknown.error()["code"] == -32602
    assert unknown.status == (200 if era == "handshake" else 400)
    assert unknown.shape == (shape(wanted) if era == "handshake" else JSON)


@pytest.mark.parametrize("opened_with", [JSON, EVENTS, None])
async def test_T2_a_session_answers_every_request_by_that_requests_accept(
    opened_with: str | None, story: Story
) -> None:
    async with chassis(chassis_server(story)) as port:
        client = Client(port, "handshake")
        await client.open(accept=opened_with)

        shapes = [(await client.call("add", {"a": 1, "b": 2}, accept=accept)).shape for accept in (EVENTS, JSON, BOTH)]

    assert shapes == [EVENTS, JSON, JSON]


async def test_T1_a_session_streams_what_may_tell_more_than_its_answer_and_nothing_else(story: Story) -> None:
    async with talking(chassis_server(story), "handshake") as client:
        answers = [
            await client.call(tool, arguments, token=token)
            for tool, arguments, token in [CALLS["silent"], CALLS["progress"]] * 2
        ]

    assert [answer.shape for answer in answers] == [JSON, EVENTS] * 2
    assert [len(answer.events()) for answer in answers[1::2]] == [3, 3]


async def test_T1_a_session_streams_everything_once_its_server_has_a_middleware_that_may_notify(story: Story) -> None:
    server = chassis_server(story)

    async def notifying(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        await ctx.session.report_progress(1)
        return await call_next(ctx)

    server.middleware.append(notifying)

    async with talking(server, "handshake") as client:
        answer = await client.call("add", {"a": 1, "b": 2}, token="token")

    assert [event.get("method") for event in answer.events()] == ["notifications/progress", None]


@pytest.mark.parametrize("era", ERAS)
async def test_T2_accept_may_come_in_several_lines(era: Era, story: Story) -> None:
    async with talking(chassis_server(story), era) as client:
        answer = await client.call("steps", accept=JSON, token="token", extra=[("Accept", EVENTS)])

    assert answer.shape == EVENTS


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("accept", [JSON, EVENTS])
async def test_T2_text_of_any_kind_survives_the_change_of_shape(accept: str, era: Era, story: Story) -> None:
    text = "data: x\r\n\r\nevent: y\n\n\u2028 Zürich 🎉 \x00"

    async with talking(chassis_server(story), era) as client:
        echoed = await client.call("echo", {"text": text}, accept=accept)
        large = await client.call("large", {"size": 300_000}, accept=accept)

    assert echoed.text() == text
    assert large.text() == "x" * 300_000


def is_stream(answer: Response) -> bool:
    cache = (answer.header("cache-control") or "").split(", ")
    return (
        answer.shape == EVENTS
        and "no-cache" in cache
        and answer.header("connection") == "keep-alive"
        and answer.header("content-length") is None
    )


@pytest.mark.parametrize("era", ERAS)
async def test_T1_streams_carry_the_headers_that_keep_them_streams(era: Era, story: Story) -> None:
    async with talking(chassis_server(story), era) as client:
        answers = [
            await client.introduce(accept=EVENTS),
            await client.call("add", {"a": 1, "b": 2}, accept=EVENTS),
            await client.call("steps", accept=EVENTS, token="token"),
            await client.call("crash", accept=EVENTS),
        ]

    assert [is_stream(answer) for answer in answers] == [True] * len(answers)


@pytest.mark.parametrize("era", ERAS)
async def test_T1_an_event_arrives_while_its_tool_still_runs(era: Era, story: Story) -> None:
    async with talking(chassis_server(story), era) as client, connect(client.port) as connection:
        await connection.send(client.request_bytes("tools/call", {"name": "held"}, accept=EVENTS, token="token"))
        started = await connection.head()
        first = await connection.chunk()
        assert not story.release.is_set()
        story.release.set()
        second = await connection.chunk()

    assert is_stream(started)
    assert json.loads(first.split(b"data: ")[1])["method"] == "notifications/progress"
    assert json.loads(second.split(b"data: ")[1])["result"]["content"][0]["text"] == "released"


@pytest.mark.parametrize(("seconds", "told"), [(60, 60_000), (0, 0), (1.5, 1500)])
@pytest.mark.parametrize("method", ["tools/list", "prompts/list", "resources/list", "resources/templates/list"])
async def test_T9_lists_of_the_stateless_era_say_how_long_they_hold(
    method: str, seconds: float, told: int, story: Story
) -> None:
    async with talking(chassis_server(story), "stateless", settings(list_ttl=seconds)) as client:
        found = (await client.request(method)).result()

    assert (found["ttlMs"], found["cacheScope"]) == (told, "public")
