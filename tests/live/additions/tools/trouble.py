"""Tools that misbehave: they print, crash, ignore their deadline's point."""

import os
import subprocess
import sys

import anyio

from mcp_chassis import ToolFailure

from ..server import server

CANARY = "canary-9d21"
"""Text that no client and no log may see."""


@server.tool()
async def chatty() -> str:
    """Write to standard output in every way there is."""
    print(CANARY, "by print", flush=True)
    sys.stdout.write(f"{CANARY} by the stream\n")
    sys.stdout.flush()
    os.write(1, f"{CANARY} by the descriptor\n".encode())
    await anyio.run_process([sys.executable, "-c", f"print('{CANARY} by a child')"], stdout=None)
    subprocess.run([sys.executable, "-c", f"print('{CANARY} by a sync child')"], check=True)  # noqa: ASYNC221
    return "printed"


@server.tool()
async def crash(secret: str) -> str:
    """Raise what nobody expects."""
    raise RuntimeError(f"{CANARY} {secret}")


@server.tool()
async def decline() -> str:
    """Fail as the author wants it."""
    raise ToolFailure("the note is archived; restore it first")


@server.tool(timeout=0.2)
async def linger() -> str:
    """Take longer than allowed."""
    await anyio.sleep(60)
    return "too late"
