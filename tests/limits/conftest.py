"""What the tests of limits share: asyncio, a log in memory, a Redis."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from mcp_chassis.telemetry.gate import configure
from tests.identity.serving import Log
from tests.support.redis import Redis, running


@pytest.fixture
def anyio_backend() -> str:
    """Run async tests on asyncio, as the server does."""
    return "asyncio"


@pytest.fixture
def log() -> Iterator[Log]:
    """Send the log of this test into memory, and undo that."""
    root = logging.getLogger()
    handlers, level, before = root.handlers[:], root.level, structlog.get_config()
    found = Log()
    with warnings.catch_warnings():
        configure(stream=found.stream)
        yield found
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**before)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    """Run a Redis of this test's own."""
    with running(tmp_path / "redis") as found:
        yield found


@pytest.fixture(scope="module")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """Run one Redis for tests that do not harm it."""
    with running(tmp_path_factory.mktemp("redis")) as found:
        yield found
