"""The limits behind a real edge, where the address is that of the TCP peer, and over stdio (L1, L3, T5, T6)."""

from __future__ import annotations

import ssl
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp_types import CallToolResult, TextContent

from tests.live.curl import ERAS, HANDSHAKE, Conversation, Era
from tests.live.edges import Edge, running
from tests.live.fleet import Keys, one_process
from tests.live.peers import OK, Peer, Reply, tally
from tests.live.project import DEADLINE, Project, environment
from tests.support.limits import VARIABLES

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("limits-sessions")]

FORGED = [
    [],
    [("X-Forwarded-For", "203.0.113.1")],
    [("X-Forwarded-For", "203.0.113.2, 203.0.113.3")],
    [("X-Forwarded-For", "203.0.113.4"), ("X-Forwarded-For", "203.0.113.5")],
    [("Forwarded", "for=203.0.113.6"), ("X-Real-IP", "203.0.113.7")],
    [("X-Forwarded-For", "127.0.0.1")],
]
"""What a client says about where it comes from."""


@pytest.mark.parametrize("name", ["nginx", "caddy"])
async def test_L1_behind_an_edge_the_address_is_that_of_the_tcp_peer_whatever_the_client_says(
    name: str, extended: Project, keys: Keys
) -> None:
    with (
        one_process(extended, keys, SESSION_LIMIT="0.05/3") as fleet,
        running(name, urlsplit(fleet.urls[0]).port or 0) as edge,
    ):
        one = [await initialize(edge, keys, "127.0.0.1", forged) for forged in FORGED]
        other = [await initialize(edge, keys, "127.0.0.2", forged) for forged in FORGED]

    assert [reply.outcome for reply in one] == [OK] * 3 + ["429 limit_session"] * 3
    assert tally(other) == tally(one)


async def initialize(edge: Edge, keys: Keys, address: str, forged: list[tuple[str, str]]) -> Reply:
    """Open a session through the edge from a source address."""
    transport = httpx2.AsyncHTTPTransport(
        local_address=address, verify=ssl.create_default_context(cafile=str(edge.certificate))
    )
    headers = [("Host", "localhost"), *keys.headers("ann").items(), *forged]
    async with httpx2.AsyncClient(headers=headers, transport=transport, timeout=DEADLINE) as http:
        http.event_hooks = {"request": [named_as_in_the_certificate]}
        peer = Peer(http, Conversation(f"https://127.0.0.1:{edge.public}/mcp", HANDSHAKE))
        return await peer.initialize()


async def named_as_in_the_certificate(request: httpx2.Request) -> None:
    request.extensions["sni_hostname"] = "localhost"


@pytest.mark.parametrize("era", ERAS, ids=str)
async def test_L3_L4_limits_of_tools_hold_over_stdio(era: Era, extended: Project, tmp_path: Path) -> None:
    limits = {
        "MCP_TOOL_LIMITS": "stock_number=0.05/2,weigh=1000/1000",
        "MCP_TOOL_BUDGETS": "weigh=7",
        "MCP_GLOBAL_LIMIT": "0.05/7",
    }
    parameters = StdioServerParameters(
        command=str(extended.command),
        args=["stdio"],
        env=environment({**VARIABLES, **limits}),
        cwd=str(extended.root),
    )
    with (tmp_path / "log").open("w") as log:
        async with Client(stdio_client(parameters, errlog=log), mode=era.mode) as client:
            numbers = [await client.call_tool("stock_number", {"a": 1, "b": 2}) for _ in range(4)]
            weighed = [await client.call_tool("weigh") for _ in range(4)]
            others = [await client.call_tool("test_simple_text") for _ in range(4)]

    assert codes(numbers) == [None, None, "limit_tool", "limit_tool"]
    assert codes(weighed) == [None, None, "limit_budget", "limit_budget"]
    # Seven in all, and no refusal took one of them
    assert codes(others) == [None, None, None, "limit_global"]
    refusal = numbers[-1]
    assert refusal.structured_content is None
    assert isinstance(refusal.content[0], TextContent)
    assert refusal.content[0].text.startswith("Too many calls of stock_number: wait ")
    assert 0 < (refusal.meta or {})["retryAfterMs"] <= 20_000


def codes(results: list[CallToolResult]) -> list[str | None]:
    """Return why each was refused."""
    return [(result.meta or {}).get("errorCode") if result.is_error else None for result in results]
