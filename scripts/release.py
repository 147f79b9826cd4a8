"""Cut a release: check, run the laboratory, write version and headings, commit, tag. All of it, or nothing.

    make release VERSION=0.6.0
    make release VERSION=0.6.0 ARGS=--dry-run

Nothing is pushed. What a version promises is in docs/releases.md.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
VERSION_FILE: Final = "{{cookiecutter.project_slug}}/chassis/pyproject.toml"
"""The one place of the version; README.md repeats it in words."""
CHANGELOG, UPGRADING, README, MAKEFILE = "CHANGELOG.md", "UPGRADING.md", "README.md", "Makefile"
_VERSION: Final = re.compile(r'^version = "(\d+)\.(\d+)\.(\d+)"$', flags=re.MULTILINE)
_HEADING: Final = re.compile(r"^## Unreleased[ \t]*$", flags=re.MULTILINE)
_PART: Final = re.compile(r"^## Unreleased[ \t]*\n(.*?)(?=^## |\Z)", flags=re.DOTALL | re.MULTILINE)
_MAKES_OWN: Final = frozenset({"MAKEFLAGS", "MFLAGS", "GNUMAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "ARGS", "VERSION"})
"""What `make release` hands down; the laboratory's make would take it for its own."""
_LEVELS: Final = ("a patch", "a minor", "a major")

Version = tuple[int, int, int]


class Refused(Exception):
    """Why no release is cut, and what would help."""


@dataclass(frozen=True)
class Plan:
    """What a release changes.

    Args:
        old: The version until now.
        new: The version to be.
        level: What it is: 0 a patch, 1 a minor, 2 a major.
        files: The new text of each file.
        notes: The changelog's part, for the tag.
    """

    old: Version
    new: Version
    level: int
    files: dict[str, str]
    notes: str

    @property
    def tag(self) -> str:
        """The name of the tag."""
        return f"v{shown(self.new)}"


def shown(version: Version) -> str:
    """Return a version as people write it."""
    return ".".join(map(str, version))


def run(*command: str, at: Path = ROOT) -> str:
    """Return what a command says. Raises `Refused` with its words if it fails."""
    done = subprocess.run(command, cwd=at, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refused(f"{' '.join(command[:3])} failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout.rstrip("\n")


def read(name: str) -> str:
    """Return the text of a file of the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def wanted(text: str) -> Version:
    """Read the version that was asked for. Raises `Refused` if it is none."""
    if not re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}", text):
        # copier offers final versions alone, so a pre-release would reach nobody.
        raise Refused(f"{text!r} is no version; give three numbers without a v: make release VERSION=0.6.0")
    major, minor, patch = map(int, text.split("."))
    return major, minor, patch


def level_of(notes: str, upgrading: str) -> int:
    """Return what the unreleased part asks for: 0 a patch, 1 a minor, 2 a major.

    Raises:
        Refused: If there is a heading, and nothing below it.
    """
    if part := _PART.search(upgrading):
        if not part[1].strip():
            raise Refused(
                f"{UPGRADING} has nothing below `## Unreleased`: write what somebody has to do, or drop the heading"
            )
        return 2
    brought, _, _fixes = notes.partition("### Hardening fixes")
    entries = re.findall(r"^- (.*)", brought, flags=re.MULTILINE)
    return 0 if all(entry.startswith("Mended:") for entry in entries) else 1


def step(old: Version, level: int) -> Version:
    """Return the next version of a level."""
    return ((old[0], old[1], old[2] + 1), (old[0], old[1] + 1, 0), (old[0] + 1, 0, 0))[level]


def plan(version: Version, today: str) -> Plan:
    """Return what the release changes. Raises `Refused` if the version does not fit what has changed."""
    found = _VERSION.search(read(VERSION_FILE))
    if found is None:
        raise Refused(f'{VERSION_FILE} has no line like version = "0.5.0"')
    old: Version = (int(found[1]), int(found[2]), int(found[3]))
    changelog, upgrading = read(CHANGELOG), read(UPGRADING)
    part = _PART.search(changelog)
    notes = part[1].strip() if part else ""
    if not re.search(r"^- ", notes, flags=re.MULTILINE):
        raise Refused(f"{CHANGELOG} has nothing below `## Unreleased`, so there is nothing to release")
    asked = level_of(notes, upgrading)
    level = asked if old[0] else min(asked, 1)  # before 1.0.0 a minor may ask something of you, as semver says
    fitting = step(old, level)
    # Who promises stability may do so with any change.
    if version != fitting and not (version == (1, 0, 0) > old):
        reason = ("it only mends", "it brings something", f"{UPGRADING} asks something for it")[asked]
        raise Refused(
            f"{shown(version)} does not fit: after {shown(old)}, what is unreleased is {_LEVELS[level]} ({reason}), so "
            f"{shown(fitting)}"
        )
    heading = f"## {shown(version)}"
    files = {
        VERSION_FILE: _VERSION.sub(f'version = "{shown(version)}"', read(VERSION_FILE), count=1),
        CHANGELOG: _HEADING.sub(f"{heading} ({today})", changelog, count=1),
        UPGRADING: _HEADING.sub(heading, upgrading, count=1),
        README: re.sub(rf"\b([Vv]ersion|holds in) {re.escape(shown(old))}\b", rf"\1 {shown(version)}", read(README)),
    }
    return Plan(old, version, level, {name: text for name, text in files.items() if text != read(name)}, notes)


def check_repository(tag: str) -> None:
    """Raise `Refused` unless this is a clean main that may get the tag."""
    if branch := run("git", "branch", "--show-current"):
        if branch != "main":
            raise Refused(f"this is the branch {branch}; releases are cut on main: git switch main")
    else:
        raise Refused("no branch is checked out; releases are cut on main: git switch main")
    if changed := run("git", "status", "--porcelain"):
        raise Refused(f"the tree is not clean; commit or remove first:\n{changed}")
    if run("git", "tag", "--list", tag):
        raise Refused(f"the tag {tag} exists; a release is never cut twice")
    upstream = subprocess.run(
        ["git", "rev-list", "--count", "HEAD..@{upstream}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if upstream.returncode == 0 and upstream.stdout.strip() != "0":
        raise Refused(f"main lacks {upstream.stdout.strip()} commits of its upstream: git pull --ff-only")


def laboratory() -> list[str] | None:
    """Return the command that updates projects of every release, if the Makefile has it."""
    return ["make", "laboratory"] if re.search(r"^laboratory:", read(MAKEFILE), flags=re.MULTILINE) else None


def signing() -> str:
    """Return the option of `git tag`: signed where that is configured."""
    configured = (
        subprocess.run(["git", "config", "--get", name], cwd=ROOT, capture_output=True, text=True, check=False)
        for name in ("user.signingKey", "tag.gpgSign")
    )
    return "--sign" if any(done.stdout.strip() not in ("", "false") for done in configured) else "--no-sign"


def cut(made: Plan) -> None:
    """Make the release beside the tree, and take it over when it is whole: whatever stops it leaves nothing behind."""
    head = run("git", "rev-parse", "HEAD")
    with tempfile.TemporaryDirectory(prefix="mcp-chassis-release-") as folder:
        beside = Path(folder) / "tree"
        run("git", "worktree", "add", "--quiet", "--detach", str(beside), head)
        try:
            for name, text in made.files.items():
                (beside / name).write_text(text, encoding="utf-8")
            run("git", "commit", "--quiet", "--all", f"--message={shown(made.new)}", at=beside)
            rehearse(beside)
            commit = run("git", "rev-parse", "HEAD", at=beside)
        finally:
            run("git", "worktree", "remove", "--force", str(beside))
    if run("git", "rev-parse", "HEAD") != head:
        raise Refused("main has moved meanwhile; cut the release again")
    notes = f"MCP Chassis {shown(made.new)}\n\n{made.notes}"
    run("git", "tag", "--annotate", signing(), "--cleanup=whitespace", f"--message={notes}", made.tag, commit)
    try:
        run("git", "merge", "--quiet", "--ff-only", commit)
    except BaseException:
        run("git", "tag", "--delete", made.tag)
        raise


def rehearse(beside: Path) -> None:
    """Run the laboratory on the release; pages that it publishes become part of it.

    Raises:
        Refused: If it fails, or changes anything but pages.
    """
    command = laboratory()
    if command is None:
        print("the Makefile has no laboratory, so nothing proves the updates to this release")
        return
    print(f"{' '.join(command)} …", flush=True)
    own = {name: value for name, value in os.environ.items() if name not in _MAKES_OWN}
    with subprocess.Popen(command, cwd=beside, env=own) as running:
        try:
            failed = running.wait()
        except BaseException:
            running.terminate()  # make passes it on, so nothing works on in a tree that is gone
            raise
    if failed:
        raise Refused(f"{' '.join(command)} failed")
    changed = run("git", "status", "--porcelain", at=beside)
    if strange := [line for line in changed.splitlines() if not line.startswith(" M docs/")]:
        raise Refused("\n".join([f"{' '.join(command)} changed more than pages:", *strange]))
    if changed:
        run("git", "commit", "--quiet", "--all", "--amend", "--no-edit", at=beside)


def tell(made: Plan) -> None:
    """Say what the release changes."""
    print(f"{shown(made.old)} → {shown(made.new)}, {_LEVELS[made.level]}; the tag {made.tag} ({signing()[2:]})")
    for name, text in made.files.items():
        lines = zip(read(name).splitlines(), text.splitlines(), strict=True)
        print(*(f"  {name}: {new}" for old, new in lines if new != old), sep="\n")


def _end(*_: object) -> None:
    """Take SIGTERM for Ctrl-C; a second one finds the cleaning up under way.

    Raises:
        KeyboardInterrupt: Always.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    """Cut the release, or say why not; return the exit code."""
    parser = argparse.ArgumentParser(prog="make release VERSION=0.6.0 [ARGS=--dry-run]", description=__doc__)
    parser.add_argument("version", nargs="?", default="")
    parser.add_argument("--dry-run", action="store_true", help="check and show, run and change nothing")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _end)
    try:
        made = plan(wanted(options.version), datetime.now(UTC).strftime("%Y-%m-%d"))
        check_repository(made.tag)
        tell(made)
        if options.dry_run:
            print(f"would run: {' '.join(laboratory() or ['nothing, there is no laboratory'])}; would commit and tag")
            return 0
        cut(made)
    except Refused as reason:
        print(f"no release: {reason}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("no release: interrupted", file=sys.stderr)
        return 1
    print(f"{made.tag} is cut. Look at it, then: git push --atomic origin main {made.tag}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
