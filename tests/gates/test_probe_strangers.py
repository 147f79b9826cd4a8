"""The probe looks at any MCP server: the stock SDK's, FastMCP's, one that speaks one era alone (G5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastmcp import FastMCP
from mcp.server.mcpserver import MCPServer
from starlette.responses import Response
from starlette.types import ASGIApp

from tests.gates.between import Exchange, between, error, serving
from tests.gates.probing import probe

pytestmark = pytest.mark.xdist_group("gates")

calls: list[str] = []


def stock(**options: Any) -> ASGIApp:
    """Return the quickstart of the official SDK."""
    server = MCPServer("Demo")

    @server.tool()
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    @server.tool()
    def ping(host: str = "everyone") -> str:
        """Start something that must not be started by a stranger."""
        calls.append(host)
        return "started"

    return server.streamable_http_app(**options)


def fast() -> ASGIApp:
    """Return the quickstart of FastMCP."""
    server: FastMCP[Any] = FastMCP("Demo")

    @server.tool
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    return server.http_app()


def nothing() -> ASGIApp:
    """Return a server without a tool."""
    return MCPServer("Empty").streamable_http_app()


@contextmanager
def at(app: Callable[[], ASGIApp]) -> Iterator[str]:
    """Serve a stranger."""
    with serving(app()) as port:
        yield f"http://127.0.0.1:{port}/mcp"


@pytest.mark.parametrize("app", [stock, fast, lambda: stock(stateless_http=True), lambda: stock(json_response=True)])
def test_G5_server_of_somebody_else_is_good_and_what_it_has_not_is_skipped(app: Callable[[], ASGIApp]) -> None:
    calls.clear()

    with at(app) as url:
        said = probe(url, "--stream")

    assert (said.code, said.bad) == (0, set()), said.text
    assert {said.results[name]["result"] for name in ("handshake", "stateless", "tools", "agreement", "ping")} == {
        "pass"
    }
    assert said.results["streaming"]["found"] == "it has no ping tool that could send progress"
    assert said.results["refusal"]["result"] == "skip"
    assert calls == []  # a stranger's ping may do anything


async def of_2025(x: Exchange) -> Response | None:
    """Be a server that knows no stateless era."""
    if x.stateless:
        return error(400, -32600, None, "Unsupported protocol version")
    return None


async def of_2026(x: Exchange) -> Response | None:
    """Be a server that knows no handshake."""
    if not x.stateless:
        return error(400, -32600, None, "MCP-Protocol-Version is missing")
    return None


@pytest.mark.parametrize(
    ("meddle", "spoken", "other"), [(of_2025, "handshake", "stateless"), (of_2026, "stateless", "handshake")]
)
def test_G5_server_of_one_era_is_good_and_the_other_era_is_skipped(meddle: Any, spoken: str, other: str) -> None:
    with at(stock) as upstream, between(upstream, meddle) as url:
        said = probe(url)

    assert (said.code, said.bad) == (0, set()), said.text
    assert said.results[spoken]["result"] == "pass"
    assert said.results[other]["result"] == "skip"
    assert f"the {other} era is not served" in said.results[other]["found"]
    assert said.results["tools"]["found"] == "add, ping"


def test_G5_server_without_tools_is_told() -> None:
    with at(nothing) as url:
        said = probe(url)

    assert (said.code, said.bad) == (1, {"tools"})
