"""The delay that a refusal tells is the delay after which the same request passes, to 50 ms (L5)."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator
from typing import Final

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import TextContent

from tests.live.curl import HANDSHAKE, STATELESS, Era
from tests.live.fleet import Fleet, Keys, one_process, replicas
from tests.live.peers import OK, Crowd, Reply
from tests.live.project import Project
from tests.live.truth import NEARLY, told_the_truth, use_up

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("limits-delays")]

WAIT: Final = re.compile(r"wait (\d+(?:\.\d{1,3})?) s, then retry once$")

callers = pytest.mark.parametrize(
    ("era", "caller"), [(HANDSHAKE, "ann"), (STATELESS, "eve")], ids=["handshake", "stateless"]
)
"""Each era has its own, because they share servers."""

PER_SECOND: Final = "2.5/1"
LIMITS: Final = {
    "tool": {"TOOL_LIMIT": PER_SECOND},
    "global": {"GLOBAL_LIMIT": PER_SECOND},
    "caller": {"CALLER_LIMIT": PER_SECOND},
    "session": {"SESSION_LIMIT": "150/1"},
}
"""One at once, another one 400 ms later."""


@pytest.fixture(
    scope="module",
    params=[*((limit, "memory") for limit in LIMITS), ("tool", "redis"), ("caller", "redis")],
    ids=" ".join,
)
def limited(
    request: pytest.FixtureRequest, extended: Project, keys: Keys, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Fleet]]:
    """Return the name of a limit, and a server with this limit alone."""
    limit, store = request.param
    folder = tmp_path_factory.mktemp("fleet") if store == "redis" else None
    with replicas(extended, keys, 1, folder, **LIMITS[limit]) as fleet:
        yield limit, fleet


@callers
async def test_L5_delay_told_is_the_delay_after_which_it_succeeds(
    era: Era, caller: str, limited: tuple[str, Fleet], crowd: Crowd
) -> None:
    limit, fleet = limited
    if limit == "session":
        # Sessions are of the handshake era alone, whoever asks.
        peer = (await crowd.arrive(fleet, caller, era))[0]
        send = peer.initialize
    else:
        peer = (await crowd.join(fleet, caller, era))[0]
        send = functools.partial(peer.call, "stock_nothing")

    early, late = await told_the_truth(send, functools.partial(use_up, send))

    assert early.outcome == f"{429 if limit in ('caller', 'session') else 200} limit_{limit}"
    assert 0 < early.delay <= NEARLY
    assert late.outcome == OK


@pytest.fixture(scope="module")
def slow(extended: Project, keys: Keys) -> Iterator[Fleet]:
    """Return a server with a tool that one caller may call every three seconds."""
    with one_process(extended, keys, TOOL_LIMITS="stock_number=0.3/1") as fleet:
        yield fleet


@callers
async def test_L5_refused_call_is_a_result_that_a_model_can_read_in_a_session_that_lives(
    era: Era, caller: str, slow: Fleet, crowd: Crowd
) -> None:
    ann = (await crowd.join(slow, caller, era))[0]
    good = await ann.call("stock_number", {"a": 1, "b": 2})
    refusal = await ann.call("stock_number", {"a": 1, "b": 2})

    assert (good.outcome, refusal.outcome) == (OK, "200 limit_tool")
    assert "structuredContent" in good.result
    assert "structuredContent" not in refusal.result
    assert refusal.result["isError"] is True
    assert "retry-after" not in refusal.answer.headers
    assert refusal.text.startswith("Too many calls of stock_number: wait ")
    assert told_in_words(refusal) == refusal.meta["retryAfterMs"]
    assert 0 < refusal.meta["retryAfterMs"] <= 3334
    assert "estimate" not in refusal.meta
    line = slow.servers[0].wait_for("tool_called", error_code="limit_tool", caller_id=caller)
    assert (line["status"], line["caller_id"], line["request_id"]) == ("rejected", caller, refusal.meta["requestId"])
    assert (await ann.call("test_simple_text")).outcome == OK


@pytest.fixture(scope="module")
def strict(extended: Project, keys: Keys) -> Iterator[Fleet]:
    """Return a server that a caller may ask something every three seconds."""
    with one_process(extended, keys, CALLER_LIMIT="0.3/1") as fleet:
        yield fleet


@callers
async def test_L5_refused_caller_is_told_by_status_header_and_error(
    era: Era, caller: str, strict: Fleet, crowd: Crowd
) -> None:
    ann = (await crowd.join(strict, caller, era))[0]
    await ann.send("tools/list", id=4)

    refusal = await ann.send("tools/list", id=5)

    answer, error = refusal.answer, refusal.error
    assert (answer.status, answer.type, answer.message["id"]) == (429, "application/json", 5)
    assert (error["code"], error["data"]["reason"]) == (-32010, "limit_caller")
    assert error["message"].startswith("Too many requests: wait ")
    assert told_in_words(refusal) == error["data"]["retryAfterMs"]
    assert 3000 < error["data"]["retryAfterMs"] <= 3334
    assert answer.headers["retry-after"] == str(math.ceil(error["data"]["retryAfterMs"] / 1000)) == "4"
    line = strict.servers[0].wait_for("request_refused", reason="limit_caller", caller_id=caller)
    assert line["http_status"] == 429
    assert line["request_id"] == error["data"]["requestId"] == answer.headers["x-request-id"]


def told_in_words(reply: Reply) -> int:
    """Return the milliseconds that the text tells a model."""
    found = WAIT.search(reply.text)
    assert found is not None, reply.text
    return round(float(found.group(1)) * 1000)


@pytest.mark.parametrize(("era", "caller"), [(HANDSHAKE, "bob"), (STATELESS, "zoe")], ids=["handshake", "stateless"])
async def test_L5_official_client_sees_what_to_do(era: Era, caller: str, slow: Fleet, keys: Keys) -> None:
    async with (
        httpx2.AsyncClient(headers=keys.headers(caller)) as http,
        Client(streamable_http_client(slow.urls[0], http_client=http), mode=era.mode) as client,
    ):
        good = await client.call_tool("stock_number", {"a": 1, "b": 2})
        refusal = await client.call_tool("stock_number", {"a": 1, "b": 2})
        other = await client.call_tool("test_simple_text")

    assert [found.is_error for found in (good, refusal, other)] == [False, True, False]
    assert isinstance(refusal.content[0], TextContent)
    assert WAIT.search(refusal.content[0].text)
    assert refusal.structured_content is None
    assert 0 < (refusal.meta or {})["retryAfterMs"] <= 3334
