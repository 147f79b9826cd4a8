"""Tools and checks that go wrong when the test of the alerts wants them to."""

import asyncio
import os
import time
from contextlib import suppress
from functools import partial

import anyio
from mcp.server.mcpserver import Context

from mcp_chassis import downstream
from mcp_chassis.downstream import Breaker

from ..server import server

PEER = os.environ.get("ALARMS_PEER", "http://127.0.0.1:9")
"""Where the services listen."""
FOLDER = os.environ.get("ALARMS_FOLDER")
"""A file `down` in it makes the checks fail; without a folder there are none."""

partner = downstream.client("partner", base_url=PEER, breaker=Breaker("partner", minimum=5, window=2, pause=0.5))
flaky = downstream.client("flaky", base_url=PEER, breaker=Breaker("flaky", ratio=0.9))


@server.tool()
async def wait(seconds: float) -> str:
    """Answer late."""
    await anyio.sleep(seconds)
    return "waited"


@server.tool()
async def dawdle(seconds: float) -> str:
    """Answer late, and do not listen when told to stop."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(left)
    return "held"


@server.tool()
async def narrate(context: Context, aloud: bool) -> str:
    """Report progress, or do not."""
    if aloud:
        await context.report_progress(1, 1)
    return "told"


@server.tool()
async def stumble(stumbling: bool) -> str:
    """Raise what nobody expects."""
    if stumbling:
        raise LookupError
    return "stood"


@server.tool()
async def ask_partner() -> int:
    """Ask a service that has a quick breaker."""
    return (await partner.post("/partner")).status_code


@server.tool()
async def ask_flaky() -> int:
    """Ask a service that fails too seldom for its breaker."""
    return (await flaky.post("/flaky")).status_code


async def slow() -> str:
    """Take longer than any call may."""
    await anyio.sleep(60)
    return "read"


if "ALARMS_SLOW" in os.environ:
    # Only where it is asked for: who reads every resource of a list would wait for this one.
    server.resource("alarm://slow")(slow)


async def _hang(down: anyio.Path) -> None:
    if await down.exists():
        await anyio.sleep(60)


async def _fail(down: anyio.Path) -> bool:
    return not await down.exists()


if FOLDER:
    down = anyio.Path(FOLDER, "down")
    server.check("vital", partial(_hang, down), interval=0.2, timeout=0.5, slow=0.5)
    server.check("handy", partial(_fail, down), required=False, interval=0.2)
