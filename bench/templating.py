"""What `copier copy` and `copier update` take here, and with a plain template of as many and as large files."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

from bench.figures import FULL, Effort, Figure, Goal, Measurement, Tell
from tests.render.support import TEMPLATE, copy_template, environment

COPY, UPDATE, RATIO = Goal("at most", 3), Goal("at most", 5), Goal("at most", 1.2)
"""Seconds on a machine with two cores; and how much longer a file of ours may take than a plain one (issue 8)."""
_LINE: Final = "A line of plain text, as any other.\n"
_QUESTIONS: Final = 12
"""As many as ours."""
_CHANGED: Final = 5
"""Each fifth file changes between two versions."""


@dataclass
class Case:
    """A template with two versions, a project of the first, and what its copies and updates took.

    Args:
        template: A git repository.
        project: Where it is rendered.
        variables: The environment of every program.
        seconds: How long somebody waited, by what was done.
    """

    template: Path
    project: Path
    variables: Mapping[str, str]
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"copy": [], "update": []})

    def run(self, *command: str, cwd: Path) -> None:
        """Run a command that has to succeed."""
        subprocess.run(command, cwd=cwd, env=self.variables, check=True, capture_output=True, stdin=subprocess.DEVNULL)

    def copy(self, version: str) -> None:
        """Make the project anew."""
        shutil.rmtree(self.project, ignore_errors=True)
        reference = f"--vcs-ref={version}"
        self.run("copier", "copy", "--defaults", reference, str(self.template), str(self.project), cwd=self.template)

    def take(self) -> None:
        """Copy the first version, make it a repository, update it to the second."""
        with self._timed("copy"):
            self.copy("v1.0.0")
        _commit(self, self.project)
        with self._timed("update"):
            self.run("copier", "update", "--defaults", cwd=self.project)

    @contextmanager
    def _timed(self, work: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.seconds[work].append(time.perf_counter() - begun)


def _commit(case: Case, folder: Path, tag: str | None = None) -> None:
    case.run("git", "init", "--quiet", "--initial-branch=main", cwd=folder)
    case.run("git", "add", "--all", cwd=folder)
    case.run("git", "commit", "--quiet", "--message=all", cwd=folder)
    if tag is not None:
        case.run("git", "tag", tag, cwd=folder)


def _versions(case: Case, tree: Path) -> None:
    """Commit a first version of a template, and a second one where each fifth file of `tree` has one more line."""
    _commit(case, case.template, "v1.0.0")
    for path in files(tree)[::_CHANGED]:
        path.write_text(path.read_text(encoding="utf-8") + "# More.\n", encoding="utf-8")
    _commit(case, case.template, "v2.0.0")


def files(folder: Path) -> list[Path]:
    """Return the files of a tree, without git's own, and without the record of answers, which copier writes itself."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in found if ".git" not in path.relative_to(folder).parts and "answers" not in path.name]


def write_plain(case: Case, render: Path) -> None:
    """Write a template without any logic: each file of a render with its size, and the project's name in it."""
    tree = case.template / "template"
    for path in files(render):
        target = tree / path.relative_to(render)
        target.parent.mkdir(parents=True, exist_ok=True)
        size = max(path.stat().st_size - len("# {{ question_0 }}\n"), 0)
        target.write_text("# {{ question_0 }}\n" + _LINE * (size // len(_LINE)), encoding="utf-8")
    (tree / "{{ _copier_conf.answers_file }}").write_text("{{ _copier_answers | to_nice_yaml }}\n", encoding="utf-8")
    questions = (f"question_{number}: {{type: str, default: word}}\n" for number in range(_QUESTIONS))
    settings = '_subdirectory: template\n_templates_suffix: ""\n'
    (case.template / "copier.yml").write_text(settings + "".join(questions), encoding="utf-8")
    _versions(case, tree)


def take(effort: Effort, tell: Tell) -> Iterable[Figure]:
    """Copy and update both templates in turn."""
    with tempfile.TemporaryDirectory(prefix="mcp-chassis-bench-") as folder:
        variables = environment()
        ours, plain = (
            Case(Path(folder) / name / "template", Path(folder) / name / "project", variables)
            for name in ("ours", "plain")
        )
        _versions(ours, copy_template(ours.template) / TEMPLATE)
        ours.copy("v1.0.0")
        count = len(files(ours.project))
        write_plain(plain, ours.project)
        rounds = effort.rounds if effort is FULL else 1
        tell(f"{count} files; two copies and two updates, {rounds} times")
        for _ in range(rounds):
            for case in (ours, plain):
                case.take()
        if len(files(plain.project)) != count:
            raise RuntimeError("the plain template has another number of files, so nothing can be compared")
    yield Figure("files in the project", count, "files")
    for work, goal in (("copy", COPY), ("update", UPDATE)):
        mine, theirs = ours.seconds[work], plain.seconds[work]
        yield Figure(f"copier {work}: this template", median(mine), "s", (min(mine), max(mine)), goal)
        yield Figure(f"copier {work}: the plain template", median(theirs), "s", (min(theirs), max(theirs)))
        each = [one / other for one, other in zip(mine, theirs, strict=True)]
        value = median(mine) / median(theirs)
        yield Figure(f"copier {work}: a file of ours / a plain one", value, "", (min(each), max(each)), RATIO)


MEASUREMENT: Final = Measurement(
    "templating",
    "What do `copier copy` and `copier update` take, beside a template without logic of as many files and bytes?",
    "Whole commands, the interpreter's start included, from clones on this disk; the templates take turns; a value is "
    "the median over rounds, the spread their lowest and highest; a ratio is one of medians.",
    take,
)
