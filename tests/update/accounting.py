"""What an update did to a project: every line of the user's, every file of the template's, every answer (M3)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from tests.render.support import ANSWERS_FILE, is_yours, succeed

_MARKERS: Final = (b"<<<<<<<", b">>>>>>>")
_NOT_OURS: Final = frozenset({".git", ".venv"})


class File(NamedTuple):
    """Content, with the line ends that git keeps; whether it may be executed; and what the tree has, byte for byte.

    Of a link `raw` is where it leads. Only what is the user's has to keep its line ends: git may
    check out the others anew.
    """

    content: bytes
    executable: bool
    raw: bytes = b""

    @property
    def kept(self) -> tuple[bytes, bool]:
        """What two files of the template's have in common."""
        return self.content, self.executable


Files = Mapping[str, File]


def snapshot(project: Path) -> dict[str, File]:
    """Return every file of a project, committed or not."""
    found = {}
    for path in project.rglob("*"):
        parts = path.relative_to(project).parts
        if (path.is_symlink() or path.is_file()) and not _NOT_OURS.intersection(parts) and "__pycache__" not in parts:
            raw = b"-> " + os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes()
            executable = not path.is_symlink() and bool(path.stat().st_mode & 0o100)
            found["/".join(parts)] = File(raw.replace(b"\r\n", b"\n"), executable, raw)
    return found


def written(base: Files, lived: Files) -> dict[str, Counter[bytes]]:
    """Return every line that the user added, by file; all lines of a file that the user added or renamed."""
    lines = {}
    for name, file in lived.items():
        before = base[name].content.splitlines() if name in base else []
        lines[name] = Counter(file.content.splitlines()) - Counter(before)
    return {name: added for name, added in lines.items() if added}


@dataclass
class Account:
    """What is wrong after an update; nothing, if every list is empty.

    Args:
        lines: How many lines the user had written.
        conflicts: Files that git calls unmerged, that hold a marker, or that are leftovers of a rejected change.
        lost: Lines of the user's that are gone, with their file.
        changed: Files of the user's that are not byte for byte what they were.
        returned: Files that the user had deleted.
        stale: Files of the template's that differ from a fresh render, or should be gone.
        answers: Answers that are not what they were.
        stopped: Why there was no update at all.
        lock: What uv said, if it found no versions that suit both the team and the chassis.
    """

    lines: int = 0
    conflicts: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    returned: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    stopped: str = ""
    lock: str = ""

    @property
    def wrong(self) -> dict[str, Any]:
        """Everything that is not as promised, by its kind."""
        return {name: found for name, found in vars(self).items() if name != "lines" and found}


def conflicts(project: Path, after: Files) -> list[str]:
    """Return the files that an update left in conflict."""
    unmerged = {line.partition("\t")[2] for line in succeed("git", "ls-files", "--unmerged", cwd=project).splitlines()}
    marked = [
        name
        for name, file in after.items()
        if name.endswith(".rej") or any(line.startswith(_MARKERS) for line in file.content.splitlines())
    ]
    return sorted({*unmerged, *marked})


def recorded(files: Files) -> dict[str, Any]:
    """Return the answers that a project records."""
    answers: dict[str, Any] = yaml.safe_load(files[ANSWERS_FILE].content)
    return answers


def account(base: Files, lived: Files, after: Files, fresh: Files) -> Account:
    """Compare a project that was updated with what it was.

    Args:
        base: The render that the project began as.
        lived: The project before the update.
        after: The project after it.
        fresh: A render of the newest release with the project's answers.
    """
    mine = written(base, lived)
    found = Account(lines=sum(lines.total() for lines in mine.values()))
    for name, lines in mine.items():
        now = Counter(after[name].content.splitlines()) if name in after else Counter()
        found.lost += [f"{name}: {line.decode()}" for line in (lines - now).elements()]
    keeps = {name for name in lived if is_yours(name) or (name not in base and name not in fresh)}
    found.changed = sorted(name for name in keeps if after.get(name) != lived[name])
    deleted = base.keys() - lived.keys()
    found.returned = sorted(deleted & after.keys())
    theirs = {name: file for name, file in fresh.items() if not is_yours(name) and name not in deleted}
    found.stale = sorted(name for name in theirs if name not in after or after[name].kept != theirs[name].kept)
    found.stale += sorted(after.keys() - fresh.keys() - keeps)
    was, now_recorded = recorded(lived), recorded(after)
    kept = (name for name in was if not name.startswith("_"))
    found.answers = [name for name in kept if now_recorded.get(name) != was[name]]
    return found
