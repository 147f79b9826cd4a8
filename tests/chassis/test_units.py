"""Small parts whose corners no request reaches easily."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest
from mcp_types import CallToolResult, TextContent
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from starlette.types import Message

import mcp_chassis
from mcp_chassis.calls import DeadlinePassed, within
from mcp_chassis.errors import failure, printable, violations, writable
from mcp_chassis.http.negotiation import AsEvents, AsJson

pytestmark = pytest.mark.anyio


def test_public_names_are_exactly_those_that_are_exported() -> None:
    modules = {"environment", "errors", "policy", "request", "server"}
    homes = {getattr(mcp_chassis, name).__module__.rpartition(".")[2] for name in mcp_chassis.__all__}

    assert homes == modules
    assert mcp_chassis.__all__ == sorted(mcp_chassis.__all__)
    assert {name for name in vars(mcp_chassis) if name[0].isupper()} <= {*mcp_chassis.__all__, "TYPE_CHECKING", "Final"}
    with pytest.raises(AttributeError, match="Nobody"):
        _ = mcp_chassis.Nobody


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("add", "add"),
        ("Zürich 🎉", "Zürich 🎉"),
        ("a\nb\x00c\u202ed\ud800", "a?b?c?d?"),
        ("x" * 99, "x" * 64),
        (5, "5"),
    ],
)
def test_E3_callers_text_is_shown_short_and_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


class Order(BaseModel):
    """A model that can be wrong in many ways."""

    code: str = Field(pattern="^[a-z]+$", max_length=3)
    count: int = Field(ge=1)
    lines: list[int] = Field(max_length=2)
    labels: dict[str, int] = {}


def errors_of(value: Any) -> str:
    with pytest.raises(ValidationError) as found:
        TypeAdapter(Order).validate_python(value, strict=True)
    return violations(found.value)


def test_E4_violations_name_place_and_rule() -> None:
    text = errors_of({"code": "ABCD", "count": 0, "lines": [1, "secret"], "labels": {"x": "secret"}})

    assert text == (
        "code must have at most 3 characters; count must be greater than or equal to 1; "
        "lines.1 must be a valid integer; labels.x must be a valid integer"
    )


def test_E4_many_violations_are_counted() -> None:
    labels = {f"label{n}": "secret" for n in range(9)}

    text = errors_of({"code": "a", "count": 1, "lines": [], "labels": labels})

    assert text.endswith("; and 4 more")
    assert "secret" not in text


def test_E4_violation_of_the_whole_says_so() -> None:
    assert errors_of("secret") == "the arguments must be an object"


def test_E1_failure_carries_the_machines_half_in_meta() -> None:
    result = failure("no\ud800", "tool_failure", "r1")

    assert result.is_error
    assert result.meta == {"errorCode": "tool_failure", "requestId": "r1"}
    assert result.structured_content is None
    assert result.content == [TextContent(type="text", text="no?")]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", {"x": [float("-inf")]}])
def test_E2_result_that_json_cannot_carry_is_told_before_it_is_sent(value: object) -> None:
    with pytest.raises(ValueError, match=r"JSON|surrogates"):
        writable(CallToolResult(content=[], structured_content={"result": value}))


class Sent:
    """An ASGI `send` that keeps what it was given."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def __call__(self, message: Message) -> None:
        self.messages.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)


async def never_asked(_message: bytes) -> None:
    raise AssertionError("there was no question")


STREAM = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
ANSWER = b'{"jsonrpc":"2.0","id":1,"result":{}}'
EVENT = b"event: message\r\ndata: " + ANSWER + b"\r\n\r\n"
NOISE = b': ping\r\n\r\nevent: message\r\ndata: {"jsonrpc":"2.0","method":"notifications/x"}\r\n\r\n'
ERROR = b'{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"late"}}'


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
async def test_T2_answer_is_found_wherever_the_stream_is_cut(step: int) -> None:
    sent = Sent()
    answer = AsJson(sent, decline=never_asked)
    whole = NOISE + EVENT + b": ping\r\n\r\n"

    await answer(STREAM)
    for start in range(0, len(whole), step):
        await answer({"type": "http.response.body", "body": whole[start : start + step], "more_body": True})

    assert answer.over
    assert sent.body == ANSWER


async def test_E5_stream_that_ends_without_an_answer_is_given_one() -> None:
    for build in (partial(AsJson, decline=never_asked), partial(AsEvents, wrap=False)):
        sent = Sent()
        answer = build(sent)
        await answer(STREAM)
        await answer({"type": "http.response.body", "body": NOISE, "more_body": True})
        await answer({"type": "http.response.body", "body": b"", "more_body": False})
        assert not answer.over
        await answer.complete(ERROR)

        assert b'"late"' in sent.body
        assert not sent.messages[-1].get("more_body", False)


async def test_E5_stream_that_has_its_answer_is_left_alone() -> None:
    for build in (partial(AsJson, decline=never_asked), partial(AsEvents, wrap=False)):
        sent = Sent()
        answer = build(sent)
        await answer(STREAM)
        await answer({"type": "http.response.body", "body": EVENT, "more_body": True})
        await answer({"type": "http.response.body", "body": b"", "more_body": False})

        assert answer.over
        assert sent.body in (EVENT, ANSWER)


async def test_E5_caller_that_leaves_cancels_the_work_and_waits_for_its_cleaning_up() -> None:
    started, cleaned = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0)
            cleaned.set()

    waiting = asyncio.create_task(within(60, work()))
    await started.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    assert cleaned.is_set()


async def test_E5_work_may_fail_with_a_timeout_of_its_own() -> None:
    async def work() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        await within(60, work())
    with pytest.raises(DeadlinePassed):
        await within(0.01, asyncio.sleep(60))
