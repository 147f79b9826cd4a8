"""Gate 1 is green on what is rendered, and red, by its own check, on each broken promise (G1)."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mcp_chassis.checks import Result, examine
from mcp_chassis.checks.protocol import GATE as CHECKS
from mcp_chassis.checks.target import Target
from tests.gates.between import between
from tests.gates.conftest import Running
from tests.gates.saboteurs import GATE, KEY, Saboteur, keys
from tests.live.project import Project, environment

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("gates")]

LIMIT = 20
"""Seconds that the gate may take on a quiet machine; its own work, because this one is not quiet."""


async def wrong(url: str, token: str, *, streaming: bool) -> dict[str, Result]:
    """Return what did not pass, by check; the slow check is asked only where it matters."""
    asked = [check for check in CHECKS.values() if streaming or check.name != "streaming"]
    return {item.name: item for item in await examine(asked, Target(url, token)) if item.result != "pass"}


async def test_G1_gate_is_green_through_an_honest_proxy(running: Running) -> None:
    with between(running.url) as url:
        assert await wrong(url, running.tokens["all"], streaming=True) == {}


@pytest.mark.parametrize("saboteur", GATE, ids=str)
async def test_G1_each_broken_promise_is_told_by_its_own_check(saboteur: Saboteur, running: Running) -> None:
    keys[KEY] = running.tokens["all"]

    with between(running.url, saboteur.meddle) as url:
        found = await wrong(url, running.tokens["all"], streaming="streaming" in saboteur.caught)

    assert {name for name, item in found.items() if item.result != "skip"} == saboteur.caught
    for name in saboteur.caught:
        assert found[name].found
        assert found[name].fix


def test_G1_every_check_of_the_gate_has_a_saboteur() -> None:
    assert set(CHECKS) == {name for saboteur in GATE for name in saboteur.caught}


def gate(project: Project) -> tuple[int, str, float]:
    """Run the gate as a pipeline does; return its exit code, what it said, and the seconds that it worked."""
    begun = time.monotonic()
    done = subprocess.run(
        [str(project.python), "-m", "pytest", "-q", "chassis/gate"],
        cwd=project.root,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr, time.monotonic() - begun


@contextmanager
def edited(path: Path, old: str, new: str) -> Iterator[None]:
    """Change a file of the shared project for a moment."""
    text = path.read_text(encoding="utf-8")
    assert old in text, f"{path.name} holds no {old!r}"
    path.write_text(text.replace(old, new), encoding="utf-8")
    try:
        yield
    finally:
        path.write_text(text, encoding="utf-8")


def test_G1_gate_of_a_pristine_project_is_green(project: Project) -> None:
    code, said, _ = gate(project)

    assert code == 0, said
    assert f"{len(CHECKS)} passed" in said


def test_G1_red_gate_says_what_was_expected_what_came_and_what_mends_it(project: Project) -> None:
    negotiation = project.root / "chassis" / "mcp_chassis" / "http" / "boundary.py"

    with edited(negotiation, "403", "200"):
        code, said, _ = gate(project)

    assert code == 1
    assert "FAILED  T7   strangers" in said
    assert "expected: A foreign Host is 421, a foreign Origin 403." in said
    assert "fix: Host and Origin are checked before anything else" in said
    assert "Traceback" not in said


def test_G1_gate_of_a_server_that_does_not_start_says_its_words(project: Project) -> None:
    with edited(project.source / "settings.py", "class Settings", "raise RuntimeError('no')\n\n\nclass Settings"):
        code, said, _ = gate(project)

    assert code == 1
    assert "the server did not start" in said
    assert "RuntimeError" in said
