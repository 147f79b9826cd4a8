"""Renders of the working tree by both engines, each set of answers once: copier's for all processes of a run.

The tests render a plain copy of what is committed or could be, so they see uncommitted work and need no tags.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import copier
import yaml
from cookiecutter.main import cookiecutter
from pathspec import GitIgnoreSpec

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = "{{cookiecutter.project_slug}}"
ANSWERS_FILE = ".copier-answers.yml"
CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "copier.yml").read_text(encoding="utf-8"))
QUESTIONS: dict[str, dict[str, Any]] = {
    name: question for name, question in CONFIG.items() if not name.startswith("_") and "when" not in question
}

Answers = tuple[tuple[str, str], ...]
"""Hashable, so that a render can be cached."""

AWKWARD: Answers = (
    ("project_name", "Zoë's Notes: #1 | 100% *free* & [easy]"),
    ("project_slug", "a1-b2-c3"),
    ("description", "- Keeps: 'notes' # for you, naïve & 日本語 🗒 @home ~ %s !yes?"),
    ("organisation", "io.github.Acme-Corp"),
    ("public_url", "https://n0.a-b.example.co.uk"),
    ("tool_timeout", "3600"),
    (
        "team",
        "{image_base: 'reg.example.com:5000/a/b_c:1@sha256:0f', image_registry: 'reg.example.com:5000/a/b_c',"
        " namespace: n-1, package_index: 'https://p.example.com:8443/~a/simple/', runner: L_1.x,"
        " labels: {example.com/cost-centre: '7', truth: 'on', owner: A_b.c},"
        " annotations: {a.example/who: '*x: #7, naïve & %s!', Truth: 'yes'}, limits: {memory: 1Gi, MCP_MAX_CALLS: 7}}",
    ),
)
"""Every character class that validators let through and that a format could stumble over."""

REGISTRIES = ("none", "public", "https://registry.example.com:8443")
"""Answers of a question without choices that decide what is rendered nonetheless."""


def options() -> dict[str, list[Answers]]:
    """Map each thing that varies in the matrix to its values: choices, registries, and plain or awkward texts."""
    values = {name: list(question["choices"].values()) for name, question in QUESTIONS.items() if "choices" in question}
    values["registry"] = list(REGISTRIES)
    varied: dict[str, list[Answers]] = {name: [((name, one),) for one in ones] for name, ones in values.items()}
    return varied | {"texts": [(), AWKWARD]}


def pairwise(values: Iterable[Sequence[Answers]]) -> tuple[Answers, ...]:
    """Return sets of answers in which each two values of two options meet at least once, found greedily."""
    product = list(itertools.product(*values))
    pairs = {row: set(itertools.combinations(enumerate(row), 2)) for row in product}
    missing, chosen = set[Any]().union(*pairs.values()), []
    while missing:
        best = max(product, key=lambda row: len(pairs[row] & missing))
        missing -= pairs[best]
        chosen.append(tuple(itertools.chain(*best)))
    return tuple(chosen)


@functools.cache
def matrix() -> tuple[Answers, ...]:
    """Return the sets of answers of the matrix.

    The whole product would be hundreds of renders, and no file depends on three answers.
    """
    return pairwise(options().values())


def label(answers: Answers) -> str:
    """Return a readable test id; the slug is the sign of awkward answers."""
    shown = ("project_slug", *(name for name in options() if name != "texts"))
    return ",".join(value.removeprefix("https://") for name, value in answers if name in shown)


def native(answers: Answers) -> dict[str, Any]:
    """Return the answers in the types of their questions; a mapping is written as YAML in a test."""
    return {name: yaml.safe_load(value) if QUESTIONS[name]["type"] == "yaml" else value for name, value in answers}


@functools.cache
def scratch() -> Path:
    """Return this worker's folder; the system's cleaner or the next boot removes it."""
    return Path(tempfile.mkdtemp(prefix="mcp-chassis-render-")).resolve()


@functools.cache
def shared() -> Path:
    """Return the folder of this run, in which its processes find what one of them has made."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if run is None:
        return scratch()
    folder = Path(tempfile.gettempdir(), f"mcp-chassis-run-{run}").resolve()
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def environment() -> dict[str, str]:
    """Return variables that keep the settings of person and machine from git, copier and cookiecutter."""
    home = Path(tempfile.mkdtemp(dir=scratch()))
    configuration, settings = home / "cookiecutter.yml", home / "copier.yml"
    folders = {"cookiecutters_dir": str(home / "templates"), "replay_dir": str(home / "replay")}
    configuration.write_text(yaml.safe_dump(folders), encoding="utf-8")
    settings.write_text("{}\n", encoding="utf-8")
    identity = {"NAME": "Tester", "EMAIL": "tester@example.com"}
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "COPIER_"))},
        **{f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in identity.items()},
        "COOKIECUTTER_CONFIG": str(configuration),
        "COPIER_SETTINGS_PATH": str(settings),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
    }


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command; output and errors come back as one text."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def succeed(*command: str | Path, cwd: Path) -> str:
    """Run a command that must exit 0, and return its output."""
    done = run(*command, cwd=cwd)
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


def listing() -> list[str]:
    """Return the files that are committed, or would be by `git add --all`."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return sorted(name for name in set(names.split("\0")) if name and (ROOT / name).is_file())


def copy_template(target: Path) -> Path:
    """Copy what a clone of the working tree would hold, without its history."""
    for name in listing():
        if name.startswith((TEMPLATE, "hooks/")) or name in ("copier.yml", "cookiecutter.json"):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


@functools.cache
def template() -> Path:
    """Return the copy that this worker renders."""
    return copy_template(scratch() / "template")


def render_by_copier(source: Path, target: Path, answers: Answers) -> Path:
    """Render with copier, without trust and without a question."""
    copier.run_copy(str(source), target, dict(answers), defaults=True, quiet=True)
    return target


def render_by_cookiecutter(source: Path, parent: Path, answers: Answers) -> Path:
    """Render with cookiecutter, hooks included, without a question."""
    made = cookiecutter(
        str(source),
        no_input=True,
        extra_context=native(answers),  # from the command line it takes texts alone, copier takes YAML
        output_dir=str(parent),
        config_file=os.environ["COOKIECUTTER_CONFIG"],
    )
    return Path(made)


@functools.cache
def by_copier(answers: Answers = ()) -> Path:
    """Return copier's render of these answers; nobody may change it."""
    name = hashlib.sha256(repr(answers).encode()).hexdigest()[:16]
    with (shared() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared() / name).exists():
            rendered = render_by_copier(template(), Path(tempfile.mkdtemp(dir=shared())) / "project", answers)
            rendered.parent.rename(shared() / name)
    return shared() / name / "project"


@functools.cache
def by_cookiecutter(answers: Answers = ()) -> Path:
    """Return cookiecutter's render of these answers; nobody may change it."""
    return render_by_cookiecutter(template(), Path(tempfile.mkdtemp(dir=scratch())), answers)


def files(project: Path) -> dict[str, bytes]:
    """Map each file of a project to its content, git's own left out."""
    return {
        path.relative_to(project).as_posix(): path.read_bytes()
        for path in sorted(project.rglob("*"))
        if path.is_file() and ".git" not in path.relative_to(project).parts
    }


@functools.cache
def ownership() -> GitIgnoreSpec:
    """Return the patterns of what an update leaves alone, read from `_exclude`."""
    seeds = (rule for rule in CONFIG["_exclude"] if "_copier_operation == 'update'" in rule)
    return GitIgnoreSpec.from_lines(rule.partition("%}")[2].removesuffix("{% endif %}") for rule in seeds)


def is_yours(name: str) -> bool:
    """Tell whether a file of a project belongs to its user."""
    return ownership().match_file(name)
