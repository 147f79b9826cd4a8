"""Past releases that never were: the working tree with one of the changes undone that hurt users of other templates.

An update to now then brings that change. What is undone hurt in the wild: a floor raised beside the user's own, a
module renamed, a file dropped, a job added, a question added, a default changed, every line worded otherwise.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from tests.render.support import TEMPLATE, is_yours

SEEDED_ONCE: Final = "# Yours: a seed that the template has no more.\n"
_DROPPED: Final = {
    "chassis/mcp_chassis/legacy.py": '"""Template-owned once."""\n\nLEGACY = True\n',
    "deploy/legacy/haproxy.cfg": "# Template-owned once.\n",
    "deploy/legacy/more/errors.cfg": "# Template-owned once.\n",
    ".github/workflows/legacy.yaml": "# Template-owned once.\n",
    "src/{{cookiecutter.__package}}/tools/legacy.py": SEEDED_ONCE,
    "tests/test_legacy.py": SEEDED_ONCE,
    "deploy/kubernetes/overlays/staging/kustomization.yaml": SEEDED_ONCE,
    "deploy/nginx/conf.d/legacy.conf": SEEDED_ONCE,
}
_LEFT: Final = (".json", ".py", ".typed")
"""Seeds that hold no comment, or that a formatter of the team's would touch."""


@dataclass(frozen=True)
class Past:
    """What the update to now brings, and how to undo it in a tree of the template."""

    mimics: str
    apply: Callable[[Path], None]


def _rewrite(path: Path, change: Callable[[str], str]) -> None:
    before = path.read_text(encoding="utf-8")
    after = change(before)
    assert after != before, f"{path} has nothing left to undo"
    path.write_text(after, encoding="utf-8")


def _lower_floors(root: Path) -> None:
    """Dependencies of the chassis with the floors of a year ago, one missing, and other file modes."""
    chassis = root / TEMPLATE / "chassis/pyproject.toml"
    _rewrite(chassis, lambda text: re.sub(r'"(redis|structlog|pydantic)>=(\d+)[.\d]*', r'"\1>=2', text))
    _rewrite(chassis, lambda text: re.sub(r'  "sse-starlette[^\n]*\n', "", text))
    (root / TEMPLATE / "deploy/Dockerfile").chmod(0o755)


def _rename(root: Path) -> None:
    """A module and a folder that are called otherwise now."""
    project = root / TEMPLATE
    (project / "chassis/mcp_chassis/downstream.py").rename(project / "chassis/mcp_chassis/outgoing.py")
    (project / "deploy/kubernetes/ingress").rename(project / "deploy/kubernetes/exposed")


def _drop(root: Path) -> None:
    """Files of the template and seeds that are gone now."""
    for name, text in _DROPPED.items():
        (root / TEMPLATE / name).parent.mkdir(parents=True, exist_ok=True)
        (root / TEMPLATE / name).write_text(text, encoding="utf-8")


def _fewer_jobs(root: Path) -> None:
    """Workflows with a job less, an empty line more, and one missing."""
    workflows = root / TEMPLATE / ".github/workflows"
    _rewrite(workflows / "ci.yaml", lambda text: re.sub(r"\n  deployment:\n.*?(?=\n  image:\n)", "", text, flags=re.S))
    _rewrite(workflows / "ci.yaml", lambda text: text.replace("    steps:\n", "\n    steps:\n"))
    (workflows / "probe.yaml").unlink()
    shutil.rmtree(root / TEMPLATE / ".gitlab")


def _other_questions(root: Path) -> None:
    """Two questions that were not asked yet, and defaults that are others now."""

    def undo(text: str) -> str:
        config: dict[str, Any] = yaml.safe_load(text)
        for name in ("delivery", "registry"):
            config[name]["when"] = False
        for name, default in (("tool_timeout", "60"), ("edge", "caddy"), ("organisation", "org.example")):
            config[name]["default"] = default
        return yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=1000)

    _rewrite(root / "copier.yml", undo)


def _other_words(root: Path) -> None:
    """Every file with another first and last line, seeds included."""
    project = root / TEMPLATE
    words = b"# Worded otherwise.\n"
    for path in sorted(path for path in project.rglob("*") if path.is_file()):
        yours = is_yours(path.relative_to(project).as_posix())
        # The answers file is copier's, and what users keep has to stay readable.
        if "answers_file" in path.name or (yours and path.suffix in _LEFT):
            continue
        path.write_bytes((b"" if yours else words) + path.read_bytes() + words)


PAST: Final = (
    Past("dependency bumped beside yours", _lower_floors),
    Past("module and folder renamed", _rename),
    Past("files and seeds dropped", _drop),
    Past("new CI job and workflow", _fewer_jobs),
    Past("new questions, other defaults", _other_questions),
    Past("every file worded otherwise", _other_words),
)


def _all(root: Path) -> None:
    for change in PAST:
        change.apply(root)


AT_ONCE: Final = Past("all of these at once", _all)
"""For who has no time to live through each."""
