"""Tools that keep a process from ending; the test sees at its port that they have begun."""

import asyncio
import socket
import time

import anyio

from ..server import server


def sleep_at(port: int, seconds: float) -> str:
    with socket.create_connection(("127.0.0.1", port)):
        time.sleep(seconds)
    return "slept"


@server.tool(timeout=60)
async def block_a_thread(port: int, seconds: float) -> str:
    """Wait for a thread that nobody can end."""
    return await anyio.to_thread.run_sync(sleep_at, port, seconds)


@server.tool(timeout=60)
async def block_a_thread_of_the_pool(port: int, seconds: float) -> str:
    """Wait for a thread that the event loop waits for in the end."""
    return await asyncio.to_thread(sleep_at, port, seconds)


@server.tool(timeout=60)
def block_a_worker(port: int, seconds: float) -> str:
    """Sleep as a function that is not async."""
    return sleep_at(port, seconds)


@server.tool(timeout=60)
async def block_everything(port: int, seconds: float) -> str:
    """Sleep in the event loop."""
    return sleep_at(port, seconds)


@server.tool(timeout=60)
async def hold_and_ignore(port: int, seconds: float) -> str:
    """Go on when told to stop."""
    end = time.monotonic() + seconds
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    while (left := end - time.monotonic()) > 0:
        try:
            await asyncio.sleep(left)
        except asyncio.CancelledError:
            continue
    writer.close()
    return "ignored"
