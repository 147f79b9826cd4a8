"""A project to change, and its command line: in this process, or as the programs that a page calls."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mcp_chassis import Server
from mcp_chassis.cli import application
from tests.render.conftest import _apart  # noqa: F401  # apart from the settings of the person and the machine
from tests.render.support import ROOT, by_copier

COMMAND = """
import typer
from mcp_chassis.checks.ownership import add_owned, add_ownership
app, check, ops = (typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None) for _ in range(3))
add_ownership(check)
add_owned(ops)
for name, group in dict(check=check, ops=ops).items():
    group.callback()(lambda: None)
    app.add_typer(group, name=name)
app()
"""
"""The two groups alone: the whole command imports the SDK, for seconds. `command` below runs the whole one."""
PROGRAMS = {
    "uv": f"""#!/bin/sh
while [ "$1" != acme-notes ]; do shift; done
shift
exec {sys.executable} -c '{COMMAND}' "$@"
""",
    "uvx": """#!/bin/sh
shift
exec copier "$@"
""",
}
"""What the pages call, without an environment of the project's own."""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a default project that a test may change; it is the working folder."""
    shutil.copytree(by_copier(), tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def command(*arguments: str) -> tuple[int, str]:
    """Return the exit code of the project's command in the working folder, and what it said."""
    done = CliRunner().invoke(application(Server("acme-notes")), list(arguments))
    return done.exit_code, done.output


def failures() -> dict[tuple[str, str], str]:
    """Map each check that failed, and the place that it names, to the way out."""
    _, said = command("check", "ownership", "--json")
    return {(one["name"], one["where"]): one["fix"] for one in json.loads(said) if one["result"] in ("fail", "unseen")}


def page(name: str) -> str:
    """Return a page of the docs."""
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def block(name: str, label: str) -> str:
    """Return the commands that a page shows under a label."""
    found: dict[str, str] = dict(re.findall(r"<!-- run: (\w+) -->\n```sh\n(.*?)```", page(name), re.DOTALL))
    return found[label]


@pytest.fixture
def shell(tmp_path: Path) -> Callable[[str, Path], str]:
    """Return what runs commands as a reader pastes them; a line that fails fails the test."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in PROGRAMS.items():
        (programs / name).write_text(text, encoding="utf-8")
        (programs / name).chmod(0o755)

    def run(script: str, folder: Path) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=folder,
            env={**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}"
        return done.stdout

    return run
