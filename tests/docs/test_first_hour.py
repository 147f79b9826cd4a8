"""The README's first hour, run as it is written."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.render.support import copy_template, environment

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
DEADLINE = 120.0
"""Seconds for one block; the first one fills an environment."""


def blocks(kind: str) -> dict[str, str]:
    """Return the fenced blocks marked `<!-- kind: name -->`, by name."""
    found = re.findall(rf"<!-- {kind}: (.+?) -->\n```\w+\n(.*?)```", README, re.DOTALL)
    return dict(found)


def shell(script: str, folder: Path, variables: dict[str, str]) -> str:
    """Run a block as a newcomer would paste it; any failing line fails it."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment() | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}"
    return done.stdout


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """Return what the README assumes: a clone of the template, and a free port."""
    template = copy_template(tmp_path / "template")
    shell("git init --quiet && git add --all && git commit --quiet --message template", template, {})
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    return {"TEMPLATE": str(template), "MCP_PORT": str(port)}


@pytest.fixture
def serving(tmp_path: Path, variables: dict[str, str]) -> Iterator[list[str]]:
    """Run the serve block until the test ends; yield its start line."""
    (tmp_path / "work").mkdir()
    shell(blocks("run")["copy"], tmp_path / "work", variables)
    process = subprocess.Popen(
        ["bash", "-c", f"exec {blocks('run')['serve']}"],
        cwd=tmp_path / "work" / "acme-notes",
        env=environment() | variables,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    lines: list[str] = []
    for line in process.stdout or ():
        lines.append(line)
        if "server_started" in line:
            break
    yield lines
    os.killpg(process.pid, signal.SIGINT)
    process.wait(DEADLINE)


@pytest.mark.xdist_group("live")
def test_M1_first_hour_works_as_the_readme_says(tmp_path: Path, variables: dict[str, str], serving: list[str]) -> None:
    project = tmp_path / "work" / "acme-notes"
    started = json.loads(serving[-1])
    assert "claude mcp add" in started["connect"]

    answer = json.loads(shell(blocks("run")["call"].replace("8080", variables["MCP_PORT"]), project, variables))
    assert answer["result"]["serverInfo"]["name"] == "acme-notes"

    for name, content in blocks("file").items():
        (project / name).write_text(content, encoding="utf-8")
    checked = shell(blocks("run")["check"], project, variables)
    assert re.search(r"\d+ passed", checked)
