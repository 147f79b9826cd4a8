"""A process whose sessions can no longer be served must not go on looking alive (E2)."""

from __future__ import annotations

import anyio
import pytest

from mcp_chassis.app import build_app
from mcp_chassis.server import Server
from tests.chassis.serving import settings


async def break_down() -> None:
    raise RuntimeError("the canary of a broken manager")


async def test_E2_dead_session_manager_ends_the_process_instead_of_answering_500_for_ever() -> None:
    server, given, failed = Server("notes"), settings(), anyio.Event()
    server.prepare(given)
    app = build_app(server, given, on_failure=failed.set)

    async def live() -> None:
        async with app.router.lifespan_context(app):
            # The SDK starts each session's task in this group.
            vars(server.session_manager)["_task_group"].start_soon(break_down)
            await anyio.sleep_forever()

    with anyio.fail_after(5), pytest.raises(BaseExceptionGroup) as broken:
        await live()

    assert broken.value.subgroup(RuntimeError) is not None
    assert failed.is_set()
