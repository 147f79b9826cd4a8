"""What the SDK offers beside tools and would go around the chassis is refused, where the author sees it (M8)."""

from __future__ import annotations

import pytest
from mcp.server.mcpserver import MCPServer

from mcp_chassis import Server


@pytest.mark.parametrize("transport", ["stdio", "sse", "streamable-http"])
def test_M8_server_does_not_run_without_the_chassis(transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anyio.run", lambda *_: pytest.fail("it serves"))

    with pytest.raises(TypeError, match="without the chassis; start the project's command"):
        Server("moved").run(transport=transport)


def test_M8_route_that_nothing_would_serve_is_refused_where_the_stock_server_takes_it() -> None:
    MCPServer("stock").custom_route("/status", ["GET"])

    with pytest.raises(TypeError, match=r"use server\.check\(\)"):
        Server("moved").custom_route("/status", ["GET"])
