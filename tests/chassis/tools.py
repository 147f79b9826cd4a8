"""Tools that behave and misbehave in every way that matters; the same functions run on both stacks."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Annotated, Any

import anyio
from mcp.server.mcpserver import Context, MCPServer
from pydantic import BaseModel, Field

from mcp_chassis import Server, ToolFailure
from mcp_chassis.request import current

SECRET = "s3cret-Zürich-99"
"""Text that stands in an exception; nobody but the author may see it."""


@dataclass
class Story:
    """What the tools saw and what a test allows them."""

    started: asyncio.Event = field(default_factory=asyncio.Event)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    seen: list[Any] = field(default_factory=list)


class Point(BaseModel):
    """A result with a schema."""

    x: int
    y: int


def register(server: MCPServer[Any], story: Story) -> None:
    """Give `server` the tools; each uses only what the SDK documents."""
    register_waiting(server, story)

    @server.tool()
    async def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    @server.tool()
    async def echo(text: Annotated[str, Field(max_length=100_000)]) -> str:
        """Return the text."""
        return text

    @server.tool()
    async def steps(context: Context, count: int = 3) -> str:
        """Report progress, then answer."""
        for step in range(1, count + 1):
            await context.report_progress(step, count, f"step {step}")
        return "done"

    @server.tool()
    async def crash(text: str = "") -> str:
        """Fail as no author means to."""
        raise RuntimeError(f"{SECRET} {text}")

    @server.tool()
    async def large(size: int) -> str:
        """Return that many letters."""
        return "x" * size

    @server.tool(structured_output=True)
    async def misshapen() -> Point:
        """Return what its own schema forbids."""
        return {"x": SECRET}  # type: ignore[return-value]  # the fault that is tested


def register_waiting(server: MCPServer[Any], story: Story) -> None:
    """Give `server` the tools that answer when the test says so."""

    @server.tool()
    async def wait() -> str:
        """Answer when the test says so."""
        story.started.set()
        try:
            await story.release.wait()
        except asyncio.CancelledError:
            story.cancelled.set()
            raise
        return "released"

    @server.tool()
    async def held(context: Context) -> str:
        """Report progress, then answer when the test says so."""
        await context.report_progress(1, 2)
        await story.release.wait()
        return "released"


def register_chassis_tools(server: Server, story: Story) -> None:
    """Give `server` the tools that need the chassis: failures in the author's words, and deadlines."""

    @server.tool()
    async def refuse(text: str) -> str:
        """Fail in the author's words."""
        raise ToolFailure(text)

    @server.tool(timeout=0.2)
    async def slow() -> str:
        """Take longer than allowed."""
        story.started.set()
        try:
            await anyio.sleep(3600)
        finally:
            story.cancelled.set()
        return "slept"

    @server.tool(timeout=0.2)
    async def chatty(context: Context) -> str:
        """Report progress for ever."""
        step = 0
        while True:
            step += 1
            await context.report_progress(step)
            await anyio.sleep(0.01)

    @server.tool(timeout=0.2)
    def blocking(seconds: float) -> str:
        """Hold a thread longer than allowed."""
        time.sleep(seconds)
        return "woke up"

    @server.tool(timeout=0.2)
    async def stubborn() -> str:
        """Ignore being cancelled for as long as the test does not release it."""
        while not story.release.is_set():
            try:
                await story.release.wait()
            except asyncio.CancelledError:
                story.cancelled.set()
        return "released"

    @server.tool()
    async def whoami() -> dict[str, Any]:
        """Tell what the request knows inside a tool."""
        request = current()
        assert request is not None
        return {"id": request.id, "caller": request.caller.id, "session": request.session_id}


def chassis_server(story: Story, **given: Any) -> Server:
    """Return a server on the chassis with all tools."""
    server = Server("tests", **given)
    register(server, story)
    register_chassis_tools(server, story)
    return server


def stock_server(story: Story, **given: Any) -> MCPServer[Any]:
    """Return a stock server with the tools that both stacks can have."""
    server: MCPServer[Any] = MCPServer("tests", **given)
    register(server, story)
    return server
