"""A lane: one release, one set of answers, one life, and the update to now."""

from __future__ import annotations

import functools
import itertools
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import copier
import yaml

from tests.render.support import ANSWERS_FILE, Answers, scratch, succeed
from tests.update.accounting import Account, File, account, conflicts, snapshot
from tests.update.lives import LIVES, Project
from tests.update.releases import Clone, Release, clone, matrix_of, past

LIFE: Final = "life"


@dataclass(frozen=True)
class Lane:
    """What is lived through."""

    release: Release
    answers: Answers
    life: str

    def __str__(self) -> str:
        shown = (value.removeprefix("https://") for name, value in self.answers if len(value) < 30 and name != "team")
        return f"{self.release}: {self.life}, {' '.join(shown)}".replace("\n", " ")


@dataclass
class Outcome:
    """What came of a lane, how long the update took, in seconds, and what gates said that failed, if they ran."""

    lane: Lane
    account: Account
    seconds: float
    project: Path
    gates: dict[str, str] | None = None

    @property
    def is_clean(self) -> bool:
        """Tell whether the update kept every promise."""
        return not self.account.wrong and not self.gates


@functools.cache
def lanes_of(release: Release) -> tuple[Lane, ...]:
    """Return the lanes of a release: each two of its answers and lives meet; the lives take turns."""
    rows = matrix_of(clone().at(release.tag, "copier.yml"), **{LIFE: tuple(LIVES)})
    by_life = {life: [row for row in rows if dict(row)[LIFE] == life] for life in LIVES}
    rows = tuple(row for together in itertools.zip_longest(*by_life.values()) for row in together if row)
    return tuple(Lane(release, tuple(pair for pair in row if pair[0] != LIFE), dict(row)[LIFE]) for row in rows)


def all_lanes() -> list[Lane]:
    """Return every lane of every release."""
    return [lane for release in past() for lane in lanes_of(release)]


def a_lane_of(release: Release, number: int) -> Lane:
    """Return one lane of a release; from one number to the next the answers and lives take turns."""
    lanes = lanes_of(release)
    return lanes[number % len(lanes)]


def commit(project: Path, message: str) -> None:
    """Commit everything in a project, which becomes a repository if need be."""
    succeed("git", "init", "--quiet", "--initial-branch=main", cwd=project)
    succeed("git", "add", "--all", cwd=project)
    succeed("git", "commit", "--quiet", "--allow-empty", f"--message={message}", cwd=project)


def take_back(project: Path) -> None:
    """Take back what is not committed, as docs/updating.md says."""
    succeed("git", "reset", "--quiet", "--hard", cwd=project)
    succeed("git", "clean", "--quiet", "-d", "--force", cwd=project)


def render(template: Clone, tag: str, answers: Answers, target: Path) -> Path:
    """Render a release, as its users did."""
    copier.run_copy(str(template.path), target, dict(answers), vcs_ref=tag, defaults=True, quiet=True)
    return target


@functools.cache
def _fresh(template: Clone, tag: str, answers: str) -> dict[str, File]:
    target = Path(tempfile.mkdtemp(dir=scratch())) / "fresh"
    copier.run_copy(str(template.path), target, yaml.safe_load(answers), vcs_ref=tag, defaults=True, quiet=True)
    found = snapshot(target)
    shutil.rmtree(target)
    return found


def slug_of(project: Path) -> str:
    """Return the name of a project's command."""
    return str(yaml.safe_load((project / ANSWERS_FILE).read_text(encoding="utf-8"))["project_slug"])


def fresh(template: Clone, tag: str, project: Path) -> dict[str, File]:
    """Return what a new project with the answers of this one would be."""
    answers = yaml.safe_load((project / ANSWERS_FILE).read_text(encoding="utf-8"))
    return _fresh(template, tag, yaml.safe_dump({name: one for name, one in answers.items() if name[0] != "_"}))


@dataclass(frozen=True)
class Lived:
    """A project before its update: as rendered, and as its team left it."""

    lane: Lane
    project: Path
    base: dict[str, File]
    files: dict[str, File]


def live(lane: Lane, template: Clone, *, with_lock: bool = False) -> Lived:
    """Render a release and live in it; `with_lock` locks the dependencies, which takes seconds."""
    project = render(template, lane.release.tag, lane.answers, Path(tempfile.mkdtemp(dir=scratch())) / "project")
    base = snapshot(project)
    commit(project, "generated")
    LIVES[lane.life](Project(project, slug_of(project), with_lock))
    commit(project, "lived in")
    return Lived(lane, project, base, snapshot(project))


def update(lived: Lived, template: Clone, to: str) -> Outcome:
    """Update a copy of a project to a tag, and compare."""
    project = Path(tempfile.mkdtemp(dir=scratch())) / "project"
    shutil.copytree(lived.project, project, symlinks=True)
    started = time.monotonic()
    try:
        copier.run_update(project, vcs_ref=to, defaults=True, overwrite=True, quiet=True)
    except Exception as error:  # whatever it is, it is the finding
        stopped = Account(stopped=f"{type(error).__name__}: {error}")
        return Outcome(lived.lane, stopped, time.monotonic() - started, project)
    seconds = time.monotonic() - started
    after = snapshot(project)
    found = account(lived.base, lived.files, after, fresh(template, to, project))
    return Outcome(lived.lane, replace(found, conflicts=conflicts(project, after)), seconds, project)


def live_through(lane: Lane, *, with_lock: bool = False) -> Outcome:
    """Render, live, update to now, and compare."""
    lived = live(lane, clone(), with_lock=with_lock)
    outcome = update(lived, clone(), clone().now)
    shutil.rmtree(lived.project)
    return outcome
