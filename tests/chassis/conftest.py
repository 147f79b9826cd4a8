"""What the tests of the chassis share: its environment, and logging as it was before each test."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from tests.chassis.tools import Story


@pytest.fixture
def anyio_backend() -> str:
    """Run async tests on asyncio, as the server does."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Give what a rendered project would hold, and nothing of the person or the machine."""
    for name in [name for name in os.environ if name.startswith("MCP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MCP_TOOL_TIMEOUT", "30")
    monkeypatch.setenv("MCP_PUBLIC_URL", "https://notes.example.com")
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
def story() -> Story:
    """Return what the tools of one test tell it."""
    return Story()
