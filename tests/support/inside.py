"""What tests share that run a server in their own process: an environment, a log in memory, a listener."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import socket
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import structlog
import uvicorn
from starlette.types import ASGIApp

from mcp_chassis.telemetry.gate import configure
from mcp_chassis.telemetry.logging import log as chassis_log

PUBLIC = "https://notes.example.com"
ANSWERS = {"public_url": PUBLIC, "tool_timeout": "30"}
"""What stands in `answers.json` of a rendered project; here it holds expressions."""
SMALL_BUFFER = 16_384
"""Bytes that the kernel keeps for a client that does not read; the default hides megabytes."""
_DEADLINE = 10.0


@dataclass
class Log:
    """What a server wrote."""

    stream: io.StringIO = field(default_factory=io.StringIO)

    def text(self) -> str:
        """Return all of it."""
        return self.stream.getvalue()

    def lines(self, event: str | None = None) -> list[dict[str, Any]]:
        """Return the lines as objects, those of one event if it is named."""
        found = [json.loads(line) for line in self.text().splitlines()]
        return [line for line in found if event in (None, line["event"])]

    def reasons(self) -> set[str]:
        """Return why requests were refused."""
        return {line["reason"] for line in self.lines("request_refused")}


class Clock:
    """Time that a test moves."""

    now = 1000.0

    def monotonic(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def anyio_backend() -> str:
    """Run async tests on asyncio, as the server does."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Give what a rendered project would hold, and nothing of the person or the machine."""
    strangers = [name for name in os.environ if name.upper().startswith("MCP_") or name.lower().endswith("_proxy")]
    for name in strangers:
        monkeypatch.delenv(name)
    monkeypatch.setattr("mcp_chassis.settings.answer", ANSWERS.__getitem__)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    """Undo what a server does to the logging of its process."""
    root = logging.getLogger()
    handlers, level, before, ours = root.handlers[:], root.level, structlog.get_config(), vars(chassis_log).copy()
    with warnings.catch_warnings():
        yield
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**before)
    vars(chassis_log).update(ours)


@pytest.fixture
def log() -> Log:
    """Send the log of this test into memory, as one that starts a server would."""
    found = Log()
    configure(stream=found.stream)
    return found


class _Uvicorn(uvicorn.Server):
    """Uvicorn without its signals and without the waits of its shutdown."""

    async def stop(self) -> None:
        """Close the listener, cut what is open, end the lifespan."""
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            vars(connection)["transport"].abort()
        if self.server_state.tasks:
            _, pending = await asyncio.wait(self.server_state.tasks, timeout=1)
            for task in pending:
                task.cancel()
        await asyncio.wait_for(self.lifespan.shutdown(), _DEADLINE)


@asynccontextmanager
async def listening(app: ASGIApp, *, port: int = 0, **config: Any) -> AsyncIterator[int]:
    """Serve `app` on a loopback port, a free one by default; yield the port."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)
    listener.bind(("127.0.0.1", port))
    known = {"ws": "none", "log_config": None, "access_log": False, "server_header": False, "proxy_headers": False}
    process = _Uvicorn(uvicorn.Config(app, **(known | config)))
    process.config.load()
    process.lifespan = process.config.lifespan_class(process.config)
    try:
        await process.startup(sockets=[listener])
        try:
            yield listener.getsockname()[1]
        finally:
            await process.stop()
    finally:
        listener.close()
