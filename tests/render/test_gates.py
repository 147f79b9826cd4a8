"""A pristine render passes its own gates, and its own formatters find nothing to change (M6, M7)."""

from __future__ import annotations

import functools
import os
import shutil
import sys
from pathlib import Path, PurePosixPath
from typing import Final

import pytest

from tests.render.support import Answers, by_copier, files, label, matrix, run, scratch, succeed


def tool(project: Path, *arguments: str) -> None:
    """Run a tool of the shared environment on a project, with the project's own configuration."""
    done = run(sys.executable, "-m", *arguments, cwd=project)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("answers", matrix(), ids=label)
def test_M7_formatter_changes_nothing(answers: Answers) -> None:
    tool(by_copier(answers), "ruff", "format", "--check", "--no-cache", ".")


@pytest.mark.parametrize("answers", matrix(), ids=label)
def test_M7_linter_finds_nothing(answers: Answers) -> None:
    tool(by_copier(answers), "ruff", "check", "--no-cache", ".")


Code = frozenset[tuple[str, bytes]]
RIGHT: Final[set[Code]] = set()
"""Code whose types were found right; most answers leave it as it is, and nothing else decides."""


def code(answers: Answers) -> Code:
    """Return everything in a render that mypy reads: Python, and the configurations that it looks for."""
    kinds = (".py", ".pyi", ".typed", ".toml", ".ini", ".cfg")
    return frozenset(one for one in files(by_copier(answers)).items() if PurePosixPath(one[0]).suffix in kinds)


@pytest.mark.parametrize("answers", matrix(), ids=label)
def test_M6_types_are_strict_and_right(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    project = by_copier(answers)
    monkeypatch.setenv("MYPYPATH", os.pathsep.join(str(project / part) for part in ("src", "chassis")))

    if code(answers) not in RIGHT:
        tool(project, "mypy", f"--cache-dir={scratch() / 'mypy'}")

    RIGHT.add(code(answers))


def test_M6_a_wrong_type_is_found(tmp_path: Path) -> None:
    project = shutil.copytree(by_copier(), tmp_path / "project")
    (project / "src/acme_notes/wrong.py").write_text('seconds: int = "ten"\n', encoding="utf-8")

    done = run(sys.executable, "-m", "mypy", f"--cache-dir={scratch() / 'mypy'}", cwd=project)

    assert "Incompatible types in assignment" in done.stdout


@functools.cache
def newcomers_project() -> Path:
    """Return a project of its own git repository, refreshed and committed as the next steps say."""
    project = shutil.copytree(by_copier(), scratch() / "newcomer" / "acme-notes")
    succeed("uv", "run", "acme-notes", "refresh", cwd=project)
    succeed("git", "init", "--quiet", cwd=project)
    succeed("git", "add", "--all", cwd=project)
    succeed("git", "commit", "--quiet", "--message=Start", cwd=project)
    return project


@pytest.mark.xdist_group("newcomer")
def test_M7_lock_and_variables_are_committed_with_the_project() -> None:
    tracked = succeed("git", "ls-files", cwd=newcomers_project()).splitlines()

    assert {"uv.lock", ".env.example"} <= set(tracked)
    assert set(files(by_copier())) <= set(tracked)


@pytest.mark.xdist_group("newcomer")
@pytest.mark.parametrize(
    "command",
    [
        "uv sync --locked",
        "uv run --locked ruff check",
        "uv run --locked ruff format --check",
        "uv run --locked mypy",
        "uv run --locked pytest",
        "uv run --locked acme-notes --help",
        "uv run --locked acme-notes refresh",
    ],
)
def test_M7_pristine_project_passes_its_own_gates_and_stays_unchanged(command: str) -> None:
    project = newcomers_project()

    succeed(*command.split(), cwd=project)

    assert succeed("git", "status", "--porcelain", cwd=project) == ""
