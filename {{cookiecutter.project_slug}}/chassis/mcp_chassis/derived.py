"""The files that are derived from others: `.env.example` and `uv.lock` (S2)."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mcp_chassis.environment import EnvironmentSettings, Variable
from mcp_chassis.server import Server
from mcp_chassis.settings import Settings

EXAMPLE: Final = Path(".env.example")
_WIDTH: Final = 110


class NotAProject(Exception):
    """The current folder is not the one that `refresh` works in."""


def refresh(server: Server) -> list[str]:
    """Rewrite what is derived in the current folder; return the names of the files that changed.

    Raises:
        NotAProject: If this is not the root of a project, or uv is missing or fails.
    """
    _check_root()
    changed = []
    text = environment_example(server)
    if not EXAMPLE.is_file() or EXAMPLE.read_text(encoding="utf-8") != text:
        EXAMPLE.write_text(text, encoding="utf-8", newline="\n")
        changed.append(str(EXAMPLE))
    lock = Path("uv.lock")
    before = lock.read_bytes() if lock.is_file() else b""
    _lock()
    if lock.read_bytes() != before:
        changed.append(str(lock))
    return changed


def stale(server: Server) -> list[str]:
    """Return the derived files that `refresh` would change, writing none.

    Raises:
        NotAProject: As `refresh`.
    """
    _check_root()
    found = []
    if not EXAMPLE.is_file() or EXAMPLE.read_text(encoding="utf-8") != environment_example(server):
        found.append(str(EXAMPLE))
    if _uv("lock", "--check").returncode != 0:
        found.append("uv.lock")
    return found


def environment_example(server: Server) -> str:
    """Return `.env.example`: each variable with its type, default and meaning, and whether it is a secret."""
    classes: tuple[type[EnvironmentSettings], ...] = (Settings, *server.own_settings)
    head = (
        "# Derived: `refresh` rewrites it from the settings classes. Copy it to .env for development;\n"
        "# production never reads .env and takes its variables from the process.\n"
    )
    return head + "".join(_entry(variable) for settings_class in classes for variable in settings_class.variables())


def _entry(variable: Variable) -> str:
    facts = [variable.type, f"default {variable.default}" if variable.default else None]
    facts += ["required" if variable.required else None]
    facts += [f"secret, or its file in {variable.name}_FILE" if variable.secret else None]
    assignment = f"{variable.name}={variable.default or ''}"
    lines = [variable.meaning, f"({'; '.join(fact for fact in facts if fact)})"]
    return (
        "\n" + "".join(f"# {line}\n" for line in lines if line) + f"{'' if variable.required else '# '}{assignment}\n"
    )


def _check_root() -> None:
    try:
        project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError):
        project = {}
    if "mcp-chassis" not in project.get("tool", {}).get("uv", {}).get("sources", {}):
        raise NotAProject("run this in the root of your project, where pyproject.toml and chassis/ are")


def _lock() -> None:
    done = _uv("lock")
    if done.returncode != 0:
        raise NotAProject(f"uv lock failed:\n{done.stderr.strip()}")


def _uv(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("uv")
    if program is None:
        raise NotAProject("uv is not on PATH; install it (docs.astral.sh/uv) and run this again")
    command: Sequence[str] = [program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)
