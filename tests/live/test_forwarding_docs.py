"""The page about replicas is run as it is written (S5)."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from tests.live.project import Project, environment
from tests.support.limits import VARIABLES
from tests.support.ports import free_port

pytestmark = pytest.mark.xdist_group("forwarding")

PAGE: Final = (Path(__file__).parents[2] / "docs" / "replicas.md").read_text(encoding="utf-8")
PORTS: Final = ("18081", "18082", "6390")
PATIENCE: Final = 120.0
"""Seconds for two servers to start and to be asked."""


def blocks(kind: str) -> dict[str, str]:
    """Return the fenced blocks marked `<!-- kind: name -->`, by name."""
    return dict(re.findall(rf"<!-- {kind}: (.+?) -->\n```\w+\n(.*?)```", PAGE, re.DOTALL))


def common(text: str) -> str:
    """Return what is the same every time: no durations, no ids."""
    return re.sub(r'("duration_ms":|"request_id":|"requestId":)["\w.]+', r"\1…", text)


def test_S5_commands_of_the_page_do_what_it_says(project: Project) -> None:
    moved = {port: str(free_port()) for port in PORTS}
    back = {new: old for old, new in moved.items()}
    run, said = blocks("run"), blocks("output")
    script = "\n".join([run["start"], "echo === call", run["call"], "echo === die", run["die"]])

    shell = subprocess.Popen(
        ["bash", "-uc", re.sub("|".join(PORTS), lambda found: moved[found[0]], script)],
        cwd=project.root,
        env=environment(VARIABLES),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = shell.communicate(timeout=PATIENCE)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)

    told = re.sub("|".join(back), lambda found: back[found[0]], output)
    _, call, die = re.split(r"=== \w+\n", told)
    assert common(call) == common(said["call"])
    assert common(die) == common(said["die"])


def test_S5_page_names_every_claim() -> None:
    source = Path(__file__).parents[2] / "{{cookiecutter.project_slug}}" / "chassis" / "mcp_chassis" / "auth"
    claims = (
        source.joinpath("assertions.py")
        .read_text(encoding="utf-8")
        .partition("class _Claims")[2]
        .partition("\n\n\n")[0]
    )

    for claim in [*re.findall(r"^    (\w+): ", claims, re.MULTILINE), "iss", "aud", "iat"]:
        assert f"`{claim}`" in PAGE
