"""A scratch clone of the template: each release that history holds, past ones made up to hurt, and now (M3).

A release is the commit that changed the version, so nothing depends on tags being there.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from tests.render.support import (
    AWKWARD,
    REGISTRIES,
    ROOT,
    TEMPLATE,
    Answers,
    copy_template,
    pairwise,
    scratch,
    succeed,
)
from tests.update.past import PAST

VERSION_FILE: Final = f"{TEMPLATE}/chassis/pyproject.toml"
_VERSION: Final = re.compile(r'^version = "(.+)"$', flags=re.MULTILINE)
_PARTS: Final = ("copier.yml", "cookiecutter.json", "hooks", TEMPLATE)
ARCHIVE: Final = Path(__file__).parent / "releases.tar.xz"
"""The releases until 0.5.0, for clones without a history."""
Change = Callable[[Path], None]
"""Changes a tree of the template."""


@dataclass(frozen=True)
class Release:
    """A version that projects were made from.

    Args:
        version: As projects know it, without the `v` of its tag.
        mimics: What hurt others and is replayed here; empty for a release that history holds.
        commit: Where history holds it, or nothing.
    """

    version: str
    mimics: str = ""
    commit: str = ""

    @property
    def tag(self) -> str:
        """Its tag in the scratch clone."""
        return f"v{self.version}"

    def __str__(self) -> str:
        return self.mimics or self.version


def _git(*arguments: str) -> str:
    return succeed("git", *arguments, cwd=ROOT).strip()


@functools.cache
def released() -> tuple[Release, ...]:
    """Return the releases that history holds, oldest first; those of the archive where a clone has no history."""
    if _git("rev-parse", "--is-shallow-repository") == "true":
        with tarfile.open(ARCHIVE) as archive:
            return tuple(Release(name) for name in sorted(archive.getnames()) if re.fullmatch(r"\d+\.\d+\.\d+", name))
    commits = _git("log", "--reverse", "--topo-order", "--format=%H", "-G^version = ", "--", VERSION_FILE).split()
    found: dict[str, str] = {}
    for commit in commits:
        if match := _VERSION.search(_git("show", f"{commit}:{VERSION_FILE}")):
            found.setdefault(match.group(1), commit)
    return tuple(Release(version, commit=commit) for version, commit in found.items())


def past() -> tuple[Release, ...]:
    """Return every release that the laboratory updates from."""
    made_up = (Release(f"0.0.{number}", change.mimics) for number, change in enumerate(PAST, start=1))
    return (*released(), *made_up)


def current_version() -> str:
    """Return the version that stands in the working tree."""
    match = _VERSION.search((ROOT / VERSION_FILE).read_text(encoding="utf-8"))
    assert match, VERSION_FILE
    return match.group(1)


def _commit(repository: Path, tag: str) -> None:
    succeed("git", "add", "--all", cwd=repository)
    succeed("git", "commit", "--quiet", "--allow-empty", f"--message={tag}", cwd=repository)
    succeed("git", "tag", tag, cwd=repository)


def _empty(repository: Path) -> None:
    for path in repository.iterdir():
        if path.name != ".git":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_release(repository: Path, release: Release) -> None:
    """Write what a release rendered from: out of history, or out of the archive."""
    if not release.commit:
        with tarfile.open(ARCHIVE) as kept:
            members = [member for member in kept if member.name.startswith(f"{release.version}/")]
            for member in members:
                member.name = member.name.removeprefix(f"{release.version}/")
            kept.extractall(repository, members)
        return
    archive = subprocess.run(
        ["git", "archive", release.commit, "--", *_PARTS], cwd=ROOT, capture_output=True, check=True
    ).stdout
    subprocess.run(["tar", "--extract"], cwd=repository, input=archive, check=True)


@dataclass(frozen=True)
class Clone:
    """A git repository of the template with a tag for each release; `now` is the working tree."""

    path: Path
    now: str

    def with_release(self, version: str, change: Change) -> str:
        """Add a release that changes the working tree's version, and return its tag."""
        succeed("git", "checkout", "--quiet", "--force", self.now, cwd=self.path)
        change(self.path)
        _commit(self.path, f"v{version}")
        return f"v{version}"

    def at(self, tag: str, name: str) -> str:
        """Return the text of a file in a release."""
        return succeed("git", "show", f"{tag}:{name}", cwd=self.path)


def make_clone() -> Clone:
    """Return a new scratch clone.

    Its history is a line of releases and nothing between them, so that copier clones it in no time.
    """
    repository = Path(tempfile.mkdtemp(dir=scratch())) / "template"
    repository.mkdir()
    succeed("git", "init", "--quiet", "--initial-branch=main", cwd=repository)
    for number, change in enumerate(PAST, start=1):
        _empty(repository)
        change.apply(copy_template(repository))
        _commit(repository, f"v0.0.{number}")
    for release in released():
        _empty(repository)
        write_release(repository, release)
        _commit(repository, release.tag)
    _empty(repository)
    copy_template(repository)
    now = f"v{current_version()}.post1"
    _commit(repository, now)
    return Clone(repository, now)


@functools.cache
def clone() -> Clone:
    """Return this worker's scratch clone; nobody may change its releases, everybody may add one."""
    return make_clone()


def questions(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the questions that a `copier.yml` asks."""
    return {
        name: question
        for name, question in config.items()
        if not name.startswith("_") and question.get("when") is not False
    }


def known(answers: Answers, asked: Mapping[str, Any]) -> Answers:
    """Return the answers to questions that a release asks."""
    return tuple((name, value) for name, value in answers if name in asked)


def matrix_of(copier_yml: str, **more: tuple[str, ...]) -> tuple[Answers, ...]:
    """Return pairwise answers to the questions of a release, and to `more` that is asked beside them."""
    asked = questions(yaml.safe_load(copier_yml))
    values = {name: tuple(question["choices"].values()) for name, question in asked.items() if "choices" in question}
    if "registry" in asked:
        values["registry"] = REGISTRIES
    values |= more
    options: list[list[Answers]] = [[((name, one),) for one in ones] for name, ones in values.items()]
    return pairwise([*options, [(), known(AWKWARD, asked)]])
