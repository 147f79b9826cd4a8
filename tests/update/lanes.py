"""A lane: one release, one set of answers, one life, and the update to now."""

from __future__ import annotations

import functools
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
    """Return the lanes of a release: each two of its answers and lives meet."""
    rows = matrix_of(clone().at(release.tag, "copier.yml"), **{LIFE: tuple(LIVES)})
    return tuple(Lane(release, tuple(pair for pair in row if pair[0] != LIFE), dict(row)[LIFE]) for row in rows)


def all_lanes() -> list[Lane]:
    """Return every lane of every release."""
    return [lane for release in past() for lane in lanes_of(release)]


def a_lane_of(number: int) -> Lane:
    """Return one lane of a release; from one to the next the answers and lives take turns."""
    lanes = lanes_of(past()[number])
    return lanes[number % len(lanes)]


def commit(project: Path, message: str) -> None:
    """Commit everything in a project, which becomes a repository if need be."""
    succeed("git", "init", "--quiet", "--initial-branch=main", cwd=project)
    succeed("git", "add", "--all", cwd=project)
    succeed("git", "commit", "--quiet", "--allow-empty", f"--message={message}", cwd=project)


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


def live_through(lane: Lane, *, template: Clone | None = None, to: str = "", with_lock: bool = False) -> Outcome:
    """Render, live, update, and compare.

    Args:
        lane: What to live through.
        template: Where the releases are; this worker's clone, if not given.
        to: The tag to update to; now, if not given.
        with_lock: Whether the team locks its dependencies, which takes seconds.
    """
    template = template or clone()
    to = to or template.now
    project = render(template, lane.release.tag, lane.answers, Path(tempfile.mkdtemp(dir=scratch())) / "project")
    base = snapshot(project)
    commit(project, "generated")
    LIVES[lane.life](Project(project, slug_of(project), with_lock))
    commit(project, "lived in")
    lived = snapshot(project)
    started = time.monotonic()
    try:
        copier.run_update(project, vcs_ref=to, defaults=True, overwrite=True, quiet=True)
    except Exception as error:  # whatever it is, it is the finding
        return Outcome(lane, Account(stopped=f"{type(error).__name__}: {error}"), time.monotonic() - started, project)
    seconds = time.monotonic() - started
    after = snapshot(project)
    found = account(base, lived, after, fresh(template, to, project))
    return Outcome(lane, replace(found, conflicts=conflicts(project, after)), seconds, project)
