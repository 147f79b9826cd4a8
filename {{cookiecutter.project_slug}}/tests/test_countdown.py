"""The countdown tool and its progress."""

import pytest

from mcp_chassis import Server
from mcp_chassis.testing import connect

pytestmark = pytest.mark.anyio


async def test_progress_arrives_step_by_step(server: Server) -> None:
    seen: list[float] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        seen.append(progress)

    async with connect(server) as client:
        result = await client.call_tool("countdown", {"seconds": 0.05, "steps": 3}, progress_callback=on_progress)

    assert not result.is_error
    assert seen == [1, 2, 3]
