"""The stdio transport: the same tools, the same errors, nothing but JSON-RPC on standard output (T6)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any, TextIO

import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult

from tests.live.curl import ERAS, HANDSHAKE, STATELESS, Conversation, Era
from tests.live.project import DEADLINE, Project, ServerProcess, environment

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("live-processes")]

CANARY = "canary-9d21"
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("ping", {"steps": 0}),
    ("decline", {}),
    ("crash", {"secret": "s3cret"}),
    ("linger", {}),
    ("add_note", {}),
    ("add_note", {"text": ["s3cret"], "more": 1}),
    ("test_simple_text", {}),
]
"""One of each outcome that a call can have."""

eras = pytest.mark.parametrize("era", ERAS, ids=str)


@asynccontextmanager
async def over_stdio(project: Project, mode: str, log: TextIO) -> AsyncIterator[Client]:
    """Start the server as a client does, with its standard error in `log`."""
    parameters = StdioServerParameters(
        command=str(project.command), args=["stdio"], env=environment(), cwd=str(project.root)
    )
    async with Client(stdio_client(parameters, errlog=log), mode=mode) as client:
        yield client


def contract(result: CallToolResult) -> dict[str, Any]:
    """Return what a client may rely on, without the ids that differ from call to call."""
    code = (result.meta or {}).get("errorCode")
    texts = [getattr(part, "text", "").partition("; quote request")[0] for part in result.content]
    return {"error": result.is_error, "code": code, "texts": texts, "data": result.structured_content}


async def outcomes(client: Client) -> list[dict[str, Any]]:
    """Return the contract of each call, and of a tool that does not exist."""
    found = [contract(await client.call_tool(name, arguments)) for name, arguments in CALLS]
    with pytest.raises(MCPError) as unknown:
        await client.call_tool("no_such_tool")
    return [*found, {"code": unknown.value.error.code, "text": unknown.value.error.message}]


@eras
async def test_T6_tools_and_errors_are_those_of_http(
    era: Era, extended: Project, everything: ServerProcess, tmp_path: Path
) -> None:
    with (tmp_path / "log").open("w+") as log:
        async with over_stdio(extended, era.mode, log) as client:
            version = client.protocol_version
            tools = (await client.list_tools()).tools
            here = await outcomes(client)
    async with Client(everything.url, mode=era.mode) as client:
        assert tools == (await client.list_tools()).tools
        there = await outcomes(client)

    assert version == era.version
    assert here == there
    assert [outcome.get("code") for outcome in here] == [
        *(None, "tool_failure", "internal_error", "timeout", "invalid_arguments", "invalid_arguments", None),
        -32602,
    ]


@eras
async def test_T6_tool_that_prints_does_not_break_the_protocol(era: Era, extended: Project, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w+") as log:
        async with over_stdio(extended, era.mode, log) as client:
            printed = await client.call_tool("chatty")
            after = await client.call_tool("ping")

    assert getattr(printed.content[0], "text", None) == "printed"
    assert not after.is_error
    text = (tmp_path / "log").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert {line["logger"] for line in lines if line["event"] == "library_record"} == {"stdout"}
    assert CANARY not in text


@eras
async def test_T6_E3_O2_log_on_standard_error_is_json_without_what_was_sent(
    era: Era, extended: Project, tmp_path: Path
) -> None:
    # A client that is told the era does not introduce itself; one that asks for it does.
    mode = "auto" if era is STATELESS else era.mode

    with (tmp_path / "log").open("w+") as log:
        async with over_stdio(extended, mode, log) as client:
            await outcomes(client)

    text = (tmp_path / "log").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["status"] for line in lines if line["event"] == "tool_called"] == [
        *("ok", "failed", "crashed", "timeout", "rejected", "rejected", "ok", "rejected")
    ]
    introduced = next(line for line in lines if "client_name" in line)
    assert (introduced["client_name"], introduced["protocol_version"]) == ("mcp", era.version)
    assert CANARY not in text
    assert "s3cret" not in text


@eras
def test_T6_standard_output_is_json_rpc_and_end_of_input_ends_the_server(era: Era, extended: Project) -> None:
    calls = [
        json.loads(Conversation("", era).message("tools/call", {"name": name, "arguments": {}}, id=number)[1])
        for number, name in enumerate(("chatty", "crash", "no_such_tool"), start=1)
    ]
    command = [str(extended.command), "stdio"]
    # Something to warn of before the transport opens.
    variables = environment({"MCP_PROT": "80"})

    with subprocess.Popen(
        command, cwd=extended.root, env=variables, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for message in [*opening(era), *calls]:
            print(json.dumps(message), file=process.stdin, flush=True)
        lines = [process.stdout.readline() for message in [*opening(era), *calls] if "id" in message]
        rest, log = process.communicate(timeout=DEADLINE)

    answers = [json.loads(line) for line in lines]
    assert all(answer["jsonrpc"] == "2.0" for answer in answers)
    assert {answer["id"] for answer in answers} >= {1, 2, 3}
    assert CANARY not in "".join(lines)
    assert (rest, process.returncode) == ("", 0)
    assert "unknown_variable" in log


def opening(era: Era) -> list[dict[str, Any]]:
    """Return what a client sends before its first call."""
    if era is STATELESS:
        return []
    client = {"name": "raw", "version": "1"}
    params = {"protocolVersion": HANDSHAKE.version, "capabilities": {}, "clientInfo": client}
    return [
        {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
    ]
