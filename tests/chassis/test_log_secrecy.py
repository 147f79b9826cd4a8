"""O2: no argument reaches a log line, whatever a client sends, a tool does or a library logs."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from mcp.server.mcpserver import Context

from tests.chassis.client import DEADLINE, ERAS, INTRODUCTION, JSON, Client, Era, connect, envelope, exchange, raw
from tests.chassis.serving import chassis, talking
from tests.chassis.tools import Story, chassis_server
from tests.support.inside import Log

pytestmark = pytest.mark.anyio

CANARIES = {
    "plain": "canary-plain-7f3a",
    "unicode": "canary-Zürich-鳥-🐤",
    "lines": 'canary-lines\r\n{"event": "forged"}\x00\x1b[31m',
    "huge": "canary-huge-" + "x" * 100_000,
    "format": "canary-%s-{0}-%(name)s",
}


def traces(canary: str) -> set[str]:
    """Return the spellings by which a canary would show in a line of JSON."""
    return {canary[:40], json.dumps(canary)[1:41], repr(canary)[1:41]}


def assert_silent(log: Log, canary: str) -> None:
    assert log.lines()
    for trace in traces(canary):
        assert trace not in log.text()


def hostile(kind: str, canary: str) -> dict[str, Any]:
    """Return the params of a call that carries the canary in one place."""
    params: dict[str, dict[str, Any]] = {
        "value": {"name": "echo", "arguments": {"text": canary}},
        "nested value": {"name": "echo", "arguments": {"text": {"deep": [{"deeper": canary}]}}},
        "argument's name": {"name": "echo", "arguments": {canary: 1}},
        "wrong type": {"name": "add", "arguments": {"a": canary, "b": 1}},
        "failure": {"name": "refuse", "arguments": {"text": canary}},
        "crash": {"name": "crash", "arguments": {"text": canary}},
        "tool's name": {"name": canary[:100], "arguments": {}},
        "long tool's name": {"name": canary + "n" * 200, "arguments": {}},
        "params of another type": {"name": "echo", "arguments": [canary]},
        "stranger in params": {"name": "ping", "arguments": {}, "other": canary},
    }
    return params[kind]


KINDS = [
    "value",
    "nested value",
    "argument's name",
    "wrong type",
    "failure",
    "crash",
    "tool's name",
    "long tool's name",
]
KINDS += ["params of another type", "stranger in params"]


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("canary", CANARIES.values(), ids=list(CANARIES))
async def test_O2_call_leaves_no_argument_in_the_log(canary: str, era: Era, log: Log, story: Story) -> None:
    async with talking(chassis_server(story), era) as client:
        for kind in KINDS:
            params = client.params(hostile(kind, canary))
            head = [pair for pair in client.head("tools/call", params, JSON) if pair[0] != "Mcp-Name"]
            name = params["name"] if params["name"].isascii() and params["name"].isprintable() else "ping"
            head += [("Mcp-Name", name[:1000])] if era == "stateless" else []
            body = json.dumps(envelope("tools/call", params)).encode()
            assert (await exchange(client.port, raw("POST", head, body))).status < 500
        for method in ("tools/list", canary[:100], "prompts/get", "resources/read", "completion/complete", "ping"):
            body = json.dumps(
                envelope(method, client.params({"name": canary, "uri": canary, "cursor": canary}))
            ).encode()
            head = [*client.head("tools/list", {}, JSON)[:4], ("Mcp-Method", "tools/list")]
            assert (await exchange(client.port, raw("POST", head, body))).status < 500

    assert_silent(log, canary)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("tool", ["wait", "slow", "stubborn"])
async def test_O2_call_that_ends_early_leaves_no_argument_in_the_log(
    tool: str, era: Era, log: Log, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_chassis.calls._GRACE", 0.1)
    canary = CANARIES["plain"]
    server = chassis_server(story)

    @server.tool(timeout=0.2)
    async def holding(text: str, context: Context) -> str:
        """Keep the argument in a local, report it, and wait."""
        await context.report_progress(1, 2, text)
        story.started.set()
        await asyncio.sleep(3600)
        return text

    async with talking(server, era) as client, connect(client.port) as connection:
        await connection.send(
            client.request_bytes("tools/call", {"name": "holding", "arguments": {"text": canary}}, token=canary)
        )
        await asyncio.wait_for(story.started.wait(), DEADLINE)
        if tool == "wait":
            await client.request("notifications/cancelled", {"requestId": 1, "reason": canary}, id=None)
        else:
            await connection.answer()
        connection.writer.transport.abort()
        await client.call(tool, {"text": canary})
        story.release.set()

    assert_silent(log, canary)


@pytest.mark.parametrize("era", ERAS)
async def test_O2_what_a_client_says_of_itself_is_cut_short(era: Era, log: Log, story: Story) -> None:
    boast = "client-" + "b" * 100_000
    info = {"clientInfo": {"name": boast, "version": boast}, "capabilities": {"experimental": {"x": {"y": boast}}}}

    async with chassis(chassis_server(story)) as port:
        client = Client(port, era)
        if era == "handshake":
            answer = await client.request("initialize", INTRODUCTION | info)
        else:
            meta = client.params({})["_meta"] | {"io.modelcontextprotocol/clientInfo": info["clientInfo"]}
            body = json.dumps(envelope("server/discover", {"_meta": meta})).encode()
            answer = await exchange(port, raw("POST", client.head("server/discover", {}), body))

    assert answer.status == 200
    assert boast[:65] not in log.text()
    assert max(len(line) for line in log.text().splitlines()) < 2000
