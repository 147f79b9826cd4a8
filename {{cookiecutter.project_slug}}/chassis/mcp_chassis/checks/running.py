"""The server of this project as a process of its own, for checks that must see it run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pydantic_core import from_json

from mcp_chassis.auth import keys
from mcp_chassis.auth.keys import FileKeyring
from mcp_chassis.checks.target import Target
from mcp_chassis.request import EVERY_SCOPE

_READY_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 10.0
_PAUSE: Final = 0.05
_WIDE: Final = "100000/100000"
_OWN: Final = {
    "MCP_ENVIRONMENT": "development",
    "MCP_HOST": "127.0.0.1",
    "MCP_PORT": "0",
    "MCP_AUTH": "keys",
    "MCP_STATE_URL": "memory://",
    "MCP_LOG_FORMAT": "json",
    "MCP_LOG_LEVEL": "info",
    "MCP_CALLER_LIMIT": _WIDE,
    "MCP_SESSION_LIMIT": _WIDE,
    "MCP_SESSION_LIMIT_PER_CALLER": _WIDE,
}
_NOT_OURS: Final = ("MCP_PEER_", "MCP_STATE_URL_FILE", "MCP_SESSIONS", "MCP_TOOL_LIMITS")


class NotStarted(Exception):
    """The server did not come up; the text is what it said."""


def end_on_signals() -> None:
    """Let SIGTERM end what runs as Ctrl-C does, with `KeyboardInterrupt`: what was started is stopped."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts us in the background ignores it
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


@contextmanager
def started(package: str) -> Iterator[Target]:
    """Run `python -m package serve` on a free port for as long as the context lasts, with a key that may do everything.

    Raises:
        NotStarted: If it does not serve in time.
    """
    with tempfile.TemporaryDirectory(prefix="mcp-checks-") as name:
        folder = Path(name)
        with FileKeyring(folder / "keys.json").editing() as kept:
            token, record = keys.create("checks", scopes=(EVERY_SCOPE,))
            kept[record.id] = record
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", package, "serve"], env=_environment(folder), stdout=log, stderr=log
            )
        try:
            yield Target(_url(process, folder / "log"), token)
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _environment(folder: Path) -> Mapping[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_OURS)}
    database = {"MCP_DATABASE_URL": f"sqlite+aiosqlite:///{folder / 'data.db'}"}
    given = {} if "MCP_DATABASE_URL_FILE" in inherited else database
    return {**given, **inherited, **_OWN, "MCP_API_KEYS_FILE": str(folder / "keys.json")}


def _url(process: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + _READY_SECONDS
    while process.poll() is None and time.monotonic() < end:
        for line in log.read_bytes().splitlines():
            if b'"server_started"' in line:
                return str(from_json(line)["url"])
        time.sleep(_PAUSE)
    said = log.read_text(encoding="utf-8", errors="replace").strip()
    raise NotStarted(f"the server did not start:\n{said}")
