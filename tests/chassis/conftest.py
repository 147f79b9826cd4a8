"""What the tests of the chassis share: its environment, and logging as it was before each test."""

from __future__ import annotations

import io
import json
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import structlog

from mcp_chassis.telemetry.gate import configure
from mcp_chassis.telemetry.logging import log as chassis_log
from tests.chassis.tools import Story


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


ANSWERS = {"public_url": "https://notes.example.com", "tool_timeout": "30"}
"""What stands in `answers.json` of a rendered project; here it holds expressions."""


@pytest.fixture
def anyio_backend() -> str:
    """Run async tests on asyncio, as the server does."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Give what a rendered project would hold, and nothing of the person or the machine."""
    for name in [name for name in os.environ if name.startswith("MCP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("mcp_chassis.settings._answer", ANSWERS.__getitem__)
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


@pytest.fixture
def story() -> Story:
    """Return what the tools of one test tell it."""
    return Story()
