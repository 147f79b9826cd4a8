"""What rehearsals found, side by side."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Final

from rehearsal.ledger import Count
from tests.live.edges import program

_PACKAGES: Final = ("mcp", "uvicorn", "starlette", "sse-starlette")
_EDGES: Final = {"nginx": ("-v", r"nginx/(\S+)"), "caddy": ("version", r"v(\S+)")}


def facts() -> dict[str, str]:
    """Return what a reader has to know; nothing that names the machine."""
    found = {"cores": str(os.cpu_count()), "python": platform.python_version()}
    found |= {package: version(package) for package in _PACKAGES}
    for name, (option, pattern) in _EDGES.items():
        done = subprocess.run([program(name), option], capture_output=True, text=True, check=False)
        found[name] = "".join(re.findall(pattern, done.stdout + done.stderr)[:1])
    return found


def as_data(counts: Sequence[Count], options: dict[str, Any]) -> dict[str, Any]:
    """Return everything for `--json`."""
    return {"machine": facts(), "options": options, "rehearsals": [one.as_data() for one in counts]}


def as_text(counts: Sequence[Count]) -> str:
    """Return the table, and below it why calls were lost."""
    rows = [["", *(one.name for one in counts)]]
    rows += [[label, *(_told(getattr(one, name)) for one in counts)] for label, name in _ROWS]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "-+-".join("-" * width for width in widths))
    for one in counts:
        if one.failures:
            lines += ["", f"{one.name} lost:", *(f"  {number:6,}  {why}" for why, number in one.failures.items())]
    return "\n".join(lines)


_ROWS: Final = (
    ("rolling restarts", "restarts"),
    ("pods in all", "pods"),
    ("calls", "calls"),
    ("answered once, with their own answer", "answered"),
    ("lost", "lost"),
    ("… though the tool had run", "lost_after_run"),
    ("done or answered twice", "duplicated"),
    ("mixed up", "mixed"),
    ("repeated in a new session, after", "repeated"),
    ("GET streams", "streams"),
    ("exit codes", "exits"),
    ("failed probes", "troubles"),
    ("slowest short call, seconds", "longest"),
)


def _told(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {number}" for name, number in value.items()) or "none"
    return f"{value:.2f}" if isinstance(value, float) else f"{value:,}"
