"""What the tests of identity share: an empty environment, a log in memory, an issuer, a Redis."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import structlog

from mcp_chassis.telemetry.gate import configure
from tests.identity.issuer import Issuer, issuing
from tests.identity.serving import PUBLIC, Log
from tests.support.redis import Redis, running

ANSWERS = {"public_url": PUBLIC, "tool_timeout": "30"}
"""What stands in `answers.json` of a rendered project; here it holds expressions."""


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
    monkeypatch.setattr("mcp_chassis.settings._answer", ANSWERS.__getitem__)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    """Undo what a server does to the logging of its process."""
    root = logging.getLogger()
    handlers, level, before = root.handlers[:], root.level, structlog.get_config()
    with warnings.catch_warnings():
        yield
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**before)


@pytest.fixture
def log() -> Log:
    """Send the log of this test into memory, as one that starts a server would."""
    found = Log()
    configure(stream=found.stream)
    return found


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    """Run an OAuth issuer."""
    async with issuing() as found:
        yield found


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    """Run a Redis of this test's own."""
    with running(tmp_path / "redis") as found:
        yield found


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Give the issuer's cache a clock that the test moves."""
    now = [1000.0]
    monkeypatch.setattr("mcp_chassis.auth.tokens.time", SimpleNamespace(monotonic=lambda: now[0]))
    return now
