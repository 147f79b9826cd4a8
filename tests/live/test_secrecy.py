"""No argument reaches what an operator reads, whatever a tool's author does (O2), and one id names a call (O3)."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.chassis.client import ERAS, Client, Era, Response, connect, exchange, raw
from tests.live.project import DEADLINE, Project, ServerProcess
from tests.live.secrecy import CANARIES, DATA, MARK, Elsewhere, about_the_call, elsewhere, leaky_project
from tests.support.redis import running

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("live-secrecy")]

AT_ONCE = 16
OF_A_TOOL_LINE = {"tool_name", "duration_ms", "status", "input_token_count", "notifications_sent", "downstream_calls"}
OF_A_REQUEST = {"request_id", "mcp_request_id", "session_id", "caller_id", "tenant_id", "trace_id"}
TRACE, OTHER_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736", "a" * 32
SPAN = "00f067aa0ba902b7"


@dataclass
class World:
    """A server and what stands around it."""

    server: ServerProcess
    elsewhere: Elsewhere

    @property
    def port(self) -> int:
        """Where it listens."""
        return urlsplit(self.server.url).port or 0

    @property
    def base(self) -> str:
        """Its address without the path."""
        return self.server.url.removesuffix("/mcp")


@pytest.fixture(scope="module")
def leaky(_apart: None) -> Project:
    """Return the project whose tools leak."""
    return leaky_project()


@pytest.fixture(scope="module")
def world(leaky: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Run it with a Redis, a collector and an upstream; the Redis has a secret."""
    place = tmp_path_factory.mktemp("world")
    with running(place, f"{MARK}-password") as redis, elsewhere() as other:
        (place / "state-url").write_text(redis.url, encoding="utf-8")
        given = {
            "ELSEWHERE": other.url,
            "OTEL_EXPORTER_OTLP_ENDPOINT": other.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "MCP_STATE_URL_FILE": str(place / "state-url"),
            "MCP_LOG_LEVEL": "debug",
            "MCP_TOOL_LIMITS": "leak_limited=0.01/3",
            "MCP_MAX_CALLS_PER_CALLER": "400",
        }
        with ServerProcess(leaky, given=given) as server:
            yield World(server, other)


async def leaks(client: Client, tools: list[str]) -> list[Response]:
    """Call every tool with every canary, in values, names, headers, the query and the progress token."""
    places = asyncio.Semaphore(AT_ONCE)

    async def leak(number: int, tool: str, text: str) -> Response:
        headers = [("Authorization", f"Bearer {MARK}"), ("Cookie", f"a={MARK}"), (f"X-{MARK}", MARK)]
        request = {"name": tool, "arguments": {"text": text, "data": DATA}}
        data = client.request_bytes("tools/call", request, id=number, token=MARK, extra=headers)
        async with places:
            return await exchange(client.port, data.replace(b" /mcp ", f" /mcp?q={MARK} ".encode(), 1))

    texts = [(tool, text) for tool in tools for text in CANARIES.values()]
    return list(await asyncio.gather(*(leak(number, *given) for number, given in enumerate(texts, start=100))))


async def misuses(client: Client) -> None:
    """Send canaries where no tool ever sees them."""
    for arguments in ({MARK: 1}, {"text": [MARK]}, {"text": MARK, MARK: DATA}, {"query": DATA}, {"text": {MARK: 1}}):
        for tool in ("leak_answer", "add_note", "search_notes", "countdown", "ping"):
            await client.call(tool, arguments)
    for tool in ("add_note", "search_notes"):
        await client.call(tool, {"text": MARK} if tool == "add_note" else {"query": MARK})
    for method in ("tools/call", MARK, f"tools/{MARK}", "resources/read", "prompts/get", "completion/complete"):
        await client.request(method, {"name": MARK, "uri": f"file:///{MARK}", "cursor": MARK})
    head = [("Content-Type", "application/json"), ("Mcp-Session-Id", MARK), ("Origin", f"https://{MARK}.example")]
    await exchange(client.port, raw("POST", head, MARK.encode(), path=f"/mcp?{MARK}"))
    await exchange(client.port, raw("POST", [("Content-Type", "application/json")], MARK.encode(), host=MARK))
    await exchange(client.port, raw("POST", [("Content-Type", "application/json")], f'{{"{MARK}": '.encode()))
    await exchange(client.port, raw("GET", [("Accept", MARK)], path=f"/{MARK}"))


async def cancellation(client: Client, world: World) -> None:
    """Cancel a call while an upstream holds it, in the way of the era."""
    async with connect(client.port) as connection:
        call = {"name": "hold", "arguments": {"text": MARK}}
        await connection.send(client.request_bytes("tools/call", call, id=f"{client.era}-held"))
        assert await asyncio.to_thread(world.elsewhere.holding.acquire, timeout=DEADLINE)
        if client.era == "handshake":
            gone = {"requestId": f"{client.era}-held", "reason": MARK}
            await client.request("notifications/cancelled", gone, id=None)
    await asyncio.to_thread(world.server.wait_for, "tool_called", tool_name="hold", status="cancelled")


def unwritten(answer: Response) -> bool:
    """Tell whether an answer says something that no author wrote."""
    message = answer.message()
    if "error" in message:
        return True
    return bool(message["result"].get("isError")) and message["result"]["_meta"]["errorCode"] != "tool_failure"


async def test_O2_no_argument_reaches_what_an_operator_reads_whatever_the_author_does(world: World) -> None:
    tools = [name for name in world.server.wait_for("server_started")["tools"] if name.startswith("leak_")]
    answers: list[Response] = []
    for era in ERAS:
        client = Client(world.port, era)
        await client.open()
        answers += await leaks(client, tools)
        await misuses(client)
        await cancellation(client, world)
    async with httpx2.AsyncClient(base_url=world.base) as http:
        shown = [(await http.get(path)).text for path in ("/metrics", "/health", "/health/ready")]

    process = Path(f"/proc/{world.server.pid}")
    shown += [(process / part).read_text(errors="replace") for part in ("cmdline", "environ", "comm")]
    called = [line for line in world.server.lines if line["event"] == "tool_called"]
    spoken = json.dumps([about_the_call(line) for line in world.server.lines]) + "\n".join(world.server.errors)
    assert len(answers) >= 500
    assert [answer.message() for answer in answers if unwritten(answer) and MARK in json.dumps(answer.message())] == []
    assert {line["status"] for line in called} == {"ok", "failed", "crashed", "rejected", "timeout", "cancelled"}
    wanted = {"breaker_open", "limit_tool", "internal_error", "tool_failure", "invalid_arguments", "timeout"}
    assert {line.get("error_code") for line in called} >= wanted
    assert [line for line in world.server.lines if MARK in json.dumps(about_the_call(line))] == []
    assert [text for text in (*shown, spoken) if MARK in text] == []
    assert world.server.errors == []
    assert world.elsewhere.spans
    assert [
        found for spans in world.elsewhere.spans for found in re.findall(b".{40}" + MARK.encode(), spans, re.S)
    ] == []
    assert any(b"leak_crash" in spans for spans in world.elsewhere.spans), "the spans of the calls were searched"


async def test_O1_every_line_is_one_object_and_lines_of_tools_have_all_fields(world: World) -> None:
    client = Client(world.port, "stateless")
    for tool in ("leak_reached", "leak_broken_statement", "leak_unreachable"):
        await client.call(tool, {"text": "x"}, id=tool)
        await asyncio.to_thread(world.server.wait_for, "tool_called", mcp_request_id=tool)

    lines = world.server.lines
    for line in lines:
        assert line["event"] != "not JSON"
        assert list(line)[:3] == ["timestamp", "level", "event"]
    for line in (line for line in lines if line["event"] == "tool_called"):
        assert set(line) >= OF_A_TOOL_LINE | OF_A_REQUEST
        assert isinstance(line["duration_ms"], float)
        for call in line["downstream_calls"]:
            assert set(call) == {"service", "operation_hash", "duration_ms", "status"}
            assert re.fullmatch(r"[0-9a-f]{12}", call["operation_hash"])
    services = {call["service"] for line in lines for call in line.get("downstream_calls", [])}
    assert services >= {"elsewhere", "database", "nowhere"}


@pytest.mark.parametrize("era", ERAS)
async def test_O3_one_grep_finds_the_line_the_answer_and_what_the_upstream_was_sent(era: Era, world: World) -> None:
    client = Client(world.port, era)
    await client.open()
    given = [("X-Request-ID", f"edge.{era}-1"), ("traceparent", f"00-{OTHER_TRACE}-{SPAN}-01")]
    call = {"name": "leak_reached", "arguments": {"text": "x"}}

    reached = await client.request("tools/call", call, id="one", extra=given)
    crashed = await client.call("leak_crash", {"text": "x"}, id="two", extra=given)
    meta = client.params(call)
    meta["_meta"] = {**meta.get("_meta", {}), "traceparent": f"00-{TRACE}-{SPAN}-01"}
    body = json.dumps({"jsonrpc": "2.0", "id": "three", "method": "tools/call", "params": meta}).encode()
    await exchange(world.port, raw("POST", [*client.head("tools/call", meta), *given], body))

    world.server.wait_for("tool_called", mcp_request_id="three", request_id=f"edge.{era}-1")
    lines = [line for line in world.server.lines if line.get("request_id") == f"edge.{era}-1"]
    traces = {line["mcp_request_id"]: line["trace_id"] for line in lines if line["event"] == "tool_called"}
    sent = [headers for _, headers in world.elsewhere.asked if headers.get("x-request-id") == f"edge.{era}-1"]
    assert reached.header("x-request-id") == crashed.header("x-request-id") == f"edge.{era}-1"
    assert crashed.result()["_meta"]["requestId"] == f"edge.{era}-1"
    assert f"quote request edge.{era}-1" in crashed.text()
    assert traces == {"one": OTHER_TRACE, "two": OTHER_TRACE, "three": TRACE}
    assert [headers["traceparent"].split("-")[1] for headers in sent] == [OTHER_TRACE, TRACE]


@pytest.mark.parametrize("parent", ["00-nonsense", f"00-{'0' * 31}-{SPAN}-01", f"00-{TRACE.upper()}-{SPAN}-01", MARK])
async def test_O3_malformed_parent_is_ignored_wherever_it_comes_from(parent: str, world: World) -> None:
    client = Client(world.port, "stateless")
    params = client.params({"name": "leak_reached", "arguments": {"text": "x"}})
    params["_meta"]["traceparent"] = parent
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()
    head = [*client.head("tools/call", params), ("traceparent", parent)]

    answer = await exchange(world.port, raw("POST", head, body))

    request_id = answer.header("x-request-id")
    assert not answer.result().get("isError"), answer
    assert world.server.wait_for("tool_called", request_id=request_id)["trace_id"] is None
    [sent] = [headers for _, headers in world.elsewhere.asked if headers.get("x-request-id") == request_id]
    assert parent not in sent["traceparent"]


async def test_O2_payloads_are_shown_in_development_when_asked_for(leaky: Project) -> None:
    with ServerProcess(leaky, given={"MCP_LOG_PAYLOADS": "1"}) as server:
        client = Client(urlsplit(server.url).port or 0, "stateless")
        for number, tool in enumerate(("leak_printing", "leak_child", "leak_crash")):
            await client.call(tool, {"text": MARK}, id=number)
        called = server.wait_for("tool_called", tool_name="leak_crash")
        server.wait_for("library_record", text=MARK)  # what a child printed comes by another thread
        told = server.wait_for("payloads_logged", level="warning")

    texts = [line["text"] for line in server.lines if "text" in line]
    assert json.loads(called["payload"]) == {"text": MARK}
    assert f"cannot take {MARK}" in " ".join(texts)
    assert "production refuses this" in told["hint"]


def test_O2_payloads_stop_a_server_in_production(leaky: Project) -> None:
    done = leaky.run("serve", given={"MCP_ENVIRONMENT": "production", "MCP_LOG_PAYLOADS": "on"})

    assert (done.returncode, done.stdout) == (78, "")
    assert "MCP_LOG_PAYLOADS=on  must not be on in production" in done.stderr
