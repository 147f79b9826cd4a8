"""T7, E2: whatever bytes arrive, the answer is no crash, no hang and no inside, and the next call is served.

One server for all cases, real sockets, one event loop: what one case breaks, a later one sees.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, note
from hypothesis import settings as effort
from hypothesis import strategies as st

from mcp_chassis.telemetry.gate import configure
from tests.chassis.client import ERAS, Client, Era, Response, connect, envelope, raw
from tests.chassis.serving import chassis, settings
from tests.chassis.tools import SECRET, Story, chassis_server

pytestmark = pytest.mark.xdist_group("fuzz")

DEADLINE: Final = 5.0
"""Seconds after which an answer counts as a hang; every tool of this server ends in less."""

INSIDE: Final = re.compile(
    rb"Traceback|File \"|\.py|Error\b.*0x|validation error|input_value|pydantic|" + SECRET.encode()
)
"""What would be seen if an exception's text came through."""

TEXT = st.text(max_size=40) | st.sampled_from(
    ["", "\x00", "é" * 20, "../..", "<x>", "%s%n", "x" * 3000, "🎉", '"', "\\"]
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
METHODS = st.sampled_from(
    [
        "initialize",
        "ping",
        "tools/call",
        "tools/list",
        "prompts/get",
        "prompts/list",
        "resources/read",
        "resources/list",
        "resources/templates/list",
        "resources/subscribe",
        "completion/complete",
        "logging/setLevel",
        "server/discover",
        "roots/list",
        "rpc.x",
        "notifications/initialized",
        "notifications/cancelled",
        "notifications/progress",
    ]
)
TOOLS = st.sampled_from(["add", "echo", "steps", "crash", "refuse", "large", "misshapen", "ping", "whoami", "nobody"])
HEADER_TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=60)
HEADER_NAMES = [
    "Accept",
    "Content-Type",
    "Mcp-Session-Id",
    "MCP-Protocol-Version",
    "Mcp-Method",
    "Mcp-Name",
    "Origin",
    "Last-Event-ID",
    "X-Request-ID",
    "traceparent",
    "Authorization",
    "Cookie",
    "Mcp-Param-A",
    "Expect",
]
HEADER_VALUES = ["application/json", "text/event-stream", "2026-07-28", "2025-11-25", "add", "*/*"]
HEADERS = st.lists(st.tuples(st.sampled_from(HEADER_NAMES), HEADER_TEXT | st.sampled_from(HEADER_VALUES)), max_size=3)


class Bench:
    """One server and its clients, driven from synchronous cases."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.log = io.StringIO()
        self.cases = 0
        self.clients: dict[Era, Client] = {}
        self._stop: Callable[[], Awaitable[Any]] = self._start_later

    async def _start_later(self) -> None:
        return None

    def start(self) -> None:
        """Serve, and open a client of each era."""
        configure(stream=self.log)
        given = settings(tool_timeout=2, receive_timeout=0.5, max_body_bytes=65_536, max_sessions=5000)
        serving = chassis(chassis_server(Story()), given)
        port = self.loop.run_until_complete(serving.__aenter__())
        self._stop = lambda: serving.__aexit__(None, None, None)
        for era in ERAS:
            self.clients[era] = Client(port, era)
            self.loop.run_until_complete(self.clients[era].open())

    def stop(self) -> None:
        """End the server and its loop."""
        self.loop.run_until_complete(self._stop())
        self.loop.close()

    def check(self, era: Era, request: bytes, *, endless: bool = False) -> None:
        """Send one request; any answer will do that is no crash, no hang, and tells nothing of the inside."""
        self.cases += 1
        note(repr(request))
        answer = self.loop.run_until_complete(self._answer(request, endless))
        if answer is not None:
            note(repr(answer))
            assert answer.status < 500
            # The name of an unknown argument is told, whatever it is.
            assert [word for word in INSIDE.findall(answer.body) if word not in request] == []
        if self.cases % 20 == 0:
            self.assert_serving(era)

    def assert_serving(self, era: Era) -> None:
        """Check that a good call is answered as ever."""
        client = self.clients[era]
        answer = self.loop.run_until_complete(asyncio.wait_for(client.call("add", {"a": 1, "b": 2}), DEADLINE))
        assert answer.status == 200, answer
        assert answer.text() == "3"

    async def _answer(self, request: bytes, endless: bool) -> Response | None:
        async with asyncio.timeout(DEADLINE), connect(self.clients["stateless"].port) as connection:
            await connection.send(request)
            try:
                if endless:
                    return await connection.head()
                return await connection.answer(bodiless=request.startswith(b"HEAD"))
            except (asyncio.IncompleteReadError, ConnectionError):
                return None  # cut: the bytes were no HTTP, or never ended


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    found = Bench()
    found.start()
    yield found
    found.stop()


def fuzz(cases: int) -> effort:
    return effort(max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck))


ERA = st.sampled_from(ERAS)


@fuzz(500)
@given(
    ERA,
    TOOLS,
    st.dictionaries(st.sampled_from(["a", "b", "text", "count", "size", "steps"]) | TEXT, VALUES, max_size=4),
)
def test_T7_arguments_of_any_shape(bench: Bench, era: Era, tool: str, arguments: dict[str, Any]) -> None:
    small = {name: value % 1000 if isinstance(value, int) else value for name, value in arguments.items()}
    bench.check(era, bench.clients[era].request_bytes("tools/call", {"name": tool, "arguments": small}))


@fuzz(500)
@given(ERA, METHODS | TEXT, VALUES, st.integers() | TEXT | VALUES, st.booleans())
def test_T7_messages_of_any_shape(bench: Bench, era: Era, method: str, params: Any, id: Any, with_meta: bool) -> None:
    client = bench.clients[era]
    whole = client.params(params) if with_meta and isinstance(params, dict) else params
    body = json.dumps({**envelope(method, id=id), "params": whole}).encode()
    bench.check(era, raw("POST", client.head("ping", {}), body))


@fuzz(400)
@given(ERA, st.binary(max_size=300) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_T7_bodies_of_any_bytes(bench: Bench, era: Era, body: bytes) -> None:
    bench.check(era, raw("POST", bench.clients[era].head("tools/list", {}), body))


@fuzz(400)
@given(ERA, HEADERS, st.sampled_from(["POST", "DELETE", "PUT", "HEAD", "OPTIONS", "PATCH"]), METHODS)
def test_T7_headers_of_any_kind(bench: Bench, era: Era, headers: list[tuple[str, str]], verb: str, method: str) -> None:
    client = bench.clients[era]
    replaced = {name.lower() for name, _ in headers}
    kept = [pair for pair in client.head(method, {}) if pair[0].lower() not in replaced]
    if verb == "DELETE":
        kept = [pair for pair in kept if pair[0] != "Mcp-Session-Id"]
    body = json.dumps(envelope(method, client.params({}))).encode() if verb == "POST" else b""
    bench.check(era, raw(verb, [*kept, *headers], body), endless="subscriptions" in method)


@fuzz(300)
@given(ERA, st.data())
def test_T7_good_requests_with_a_few_bytes_changed(bench: Bench, era: Era, data: st.DataObject) -> None:
    request = bytearray(bench.clients[era].request_bytes("tools/call", {"name": "add", "arguments": {"a": 1, "b": 2}}))
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(0, len(request) - 1))
        change = data.draw(st.sampled_from(["set", "cut", "add"]))
        byte = data.draw(st.integers(0, 255))
        if change == "set":
            request[place] = byte
        elif change == "cut":
            del request[place]
        else:
            request.insert(place, byte)
    # A length that is now too great makes the server wait for the rest: end it.
    bench.check(era, bytes(request) + b" " * 16)


@fuzz(100)
@given(st.sampled_from(["GET", "DELETE"]), HEADER_TEXT, st.sampled_from(["/mcp", "/mcp/", "/", "/health/live", "/%00"]))
def test_T7_session_ids_and_paths_of_any_kind(bench: Bench, verb: str, session: str, path: str) -> None:
    bench.check("handshake", raw(verb, [("Accept", "text/event-stream"), ("Mcp-Session-Id", session)], path=path))


def test_T7_after_all_of_this_both_eras_are_served_and_the_log_holds_lines_only(bench: Bench) -> None:
    for era in ERAS:
        bench.assert_serving(era)
        assert bench.loop.run_until_complete(bench.clients[era].introduce()).status == 200

    lines = [json.loads(line) for line in bench.log.getvalue().split("\n") if line]
    crashes = {line["exception_type"] for line in lines if line["event"] == "crashed"}
    assert crashes <= {"RuntimeError", "pydantic_core._pydantic_core.ValidationError"}  # the tools' own
    assert not [line for line in lines if line["event"] == "library_record" and line["level"] == "error"]
