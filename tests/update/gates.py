"""What a team runs after an update: the lock, its own lint, types and tests, and the server (M3)."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.live.project import Project, ServerProcess
from tests.render.support import run, scratch

INITIALIZE: Final = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "laboratory", "version": "1"},
    },
}
DEADLINE: Final = 30.0
"""Seconds for an answer, on a machine that is busy."""


def commands(slug: str) -> Iterator[tuple[str, ...]]:
    """Return what is run, in order."""
    yield ("uv", "lock", "--quiet")
    yield ("uv", "run", "--quiet", slug, "refresh")
    locked = ("uv", "run", "--quiet", "--locked")
    yield (*locked, "ruff", "check")
    yield (*locked, "ruff", "format", "--check")
    yield (*locked, "mypy", f"--cache-dir={scratch() / 'mypy-gates'}")
    yield (*locked, "pytest", "--quiet")


def lock(project: Path) -> str:
    """Return what uv says when it cannot lock a project, and nothing when it can."""
    done = run("uv", "lock", "--quiet", cwd=project)
    return done.stdout[-3000:] if done.returncode else ""


def answer_of(url: str) -> dict[str, Any]:
    """Return what a server says to the first message of a client."""
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    request = urllib.request.Request(url, json.dumps(INITIALIZE).encode(), headers)
    with urllib.request.urlopen(request, timeout=DEADLINE) as response:
        found: dict[str, Any] = json.load(response)
    return found


def failures(project: Path, slug: str) -> dict[str, str]:
    """Return what each gate that failed said; the server counts as one."""
    for command in commands(slug):
        done = run(*command, cwd=project)
        if done.returncode:
            return {" ".join(command): done.stdout[-3000:]}
    try:
        with ServerProcess(Project(project, slug)) as server:
            answer = answer_of(server.url)
    except (OSError, TimeoutError) as error:
        return {"serve": str(error)}
    return {} if answer.get("result", {}).get("serverInfo") else {"serve": json.dumps(answer)}
