"""`make release` cuts a whole release or changes nothing (M7)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.render.support import ROOT, TEMPLATE, environment

VERSION_FILE = f"{TEMPLATE}/chassis/pyproject.toml"
MENDS = "- Mended: a word.\n\n### Hardening fixes\n\n- **MC-2026-900** (low): nothing gets through the wall.\n"
BRINGS = "Something new.\n\n- A tool.\n"
LABORATORY = "\nlaboratory:\n\t@echo 'in the laboratory'; {}\n"


class Clone:
    """A small repository with the files that a release changes, and the script."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._environment = environment()
        (folder / VERSION_FILE).parent.mkdir(parents=True)
        (folder / "scripts").mkdir()
        (folder / "docs").mkdir()
        shutil.copy(ROOT / "scripts/release.py", folder / "scripts")
        self.write(VERSION_FILE, '[project]\nname = "mcp-chassis"\nversion = "0.5.0"\ndependencies = ["mcp>=2.3.0"]\n')
        self.write("CHANGELOG.md", f"# Changes\n\n## Unreleased\n\n{BRINGS}\n## 0.5.0\n\n- The first.\n")
        self.write("UPGRADING.md", "# Upgrading\n\n## 0.5.0\n\n- Nothing.\n")
        self.write("README.md", "# It\n\nVersion 0.5.0: it. nginx 0.5.0 is another.\n\n| | holds in 0.5.0 |\n")
        self.write("Makefile", "test:\n\t@true\n")
        self.write("docs/table.md", "no run yet\n")
        self.git("init", "--quiet", "--initial-branch=main")
        self.commit()

    def write(self, name: str, text: str) -> None:
        """Write a file."""
        (self.folder / name).write_text(text, encoding="utf-8")

    def read(self, name: str) -> str:
        """Read a file."""
        return (self.folder / name).read_text(encoding="utf-8")

    def unreleased(self, text: str) -> None:
        """Put this below `## Unreleased`."""
        released = self.read("CHANGELOG.md").partition("## Unreleased\n")
        rest = released[2].partition(BRINGS)[2] if released[1] else released[0].removeprefix("# Changes\n")
        self.write("CHANGELOG.md", f"# Changes\n\n## Unreleased\n\n{text}\n{rest.lstrip()}")
        self.commit()

    def git(self, *arguments: str) -> str:
        """Return what git says."""
        done = subprocess.run(
            ["git", *arguments], cwd=self.folder, env=self._environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def commit(self) -> None:
        """Commit everything."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message=work")

    def release(self, *arguments: str, **variables: str) -> tuple[int, str]:
        """Run the script, and return its exit code and all that it said."""
        command = [sys.executable, "scripts/release.py", *arguments]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self._environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout

    def state(self) -> tuple[str, ...]:
        """Return everything that a release may change."""
        asked = (("rev-parse", "HEAD"), ("status", "--porcelain"), ("tag", "--list"), ("worktree", "list"))
        return tuple(self.git(*one) for one in asked)


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    """Return a repository at 0.5.0, with something new."""
    return Clone(tmp_path / "clone")


def test_M7_release_writes_the_version_the_heading_with_its_date_and_a_tag_with_the_notes(clone: Clone) -> None:
    code, said = clone.release("0.6.0")

    assert code == 0, said
    assert 'version = "0.6.0"' in clone.read(VERSION_FILE)
    day = clone.git("log", "-1", "--format=%as")
    assert f"# Changes\n\n## 0.6.0 ({day})\n\nSomething new." in clone.read("CHANGELOG.md")
    assert "Version 0.6.0: it. nginx 0.5.0 is another.\n\n| | holds in 0.6.0 |" in clone.read("README.md")
    assert clone.git("status", "--porcelain") == ""
    assert clone.git("log", "-1", "--format=%s%D") == "0.6.0HEAD -> main, tag: v0.6.0"
    assert clone.git("cat-file", "-p", "v0.6.0").endswith("MCP Chassis 0.6.0\n\nSomething new.\n\n- A tool.")
    assert "git push --atomic origin main v0.6.0" in said


def test_M7_laboratory_sees_the_release_before_its_tag_and_its_pages_become_part_of_it(clone: Clone) -> None:
    recipe = "git tag --list; git log -1 --format=%s; grep ^version */*/pyproject.toml; echo all green >docs/table.md"
    clone.write("Makefile", LABORATORY.format(recipe))
    clone.commit()

    code, said = clone.release("0.6.0")

    assert code == 0, said
    assert 'in the laboratory\n0.6.0\nversion = "0.6.0"\n' in said
    assert clone.git("show", "v0.6.0:docs/table.md") == clone.read("docs/table.md").strip() == "all green"


def test_M7_dry_run_shows_each_change_and_makes_none(clone: Clone) -> None:
    clone.write("Makefile", LABORATORY.format("exit 1"))
    clone.commit()
    before = clone.state()

    code, said = clone.release("0.6.0", "--dry-run")

    assert (code, clone.state()) == (0, before)
    assert "0.5.0 → 0.6.0, a minor; the tag v0.6.0 (no-sign)" in said
    assert f'{VERSION_FILE}: version = "0.6.0"' in said
    assert "CHANGELOG.md: ## 0.6.0 (" in said
    assert "would run: make laboratory" in said
    assert "in the laboratory" not in said


@pytest.mark.parametrize(
    ("notes", "asks", "version", "level"),
    [
        (MENDS, False, "0.5.1", "a patch"),
        (BRINGS, False, "0.6.0", "a minor"),
        (BRINGS + "\n" + MENDS, False, "0.6.0", "a minor"),
        (MENDS, True, "0.6.0", "a minor"),
        (MENDS, False, "1.0.0", "a patch"),
    ],
)
def test_M7_version_fits_what_has_changed(clone: Clone, notes: str, asks: bool, version: str, level: str) -> None:
    if asks:
        clone.write("UPGRADING.md", "# Upgrading\n\n## Unreleased\n\n- Do it.\n\n## 0.5.0\n")
    clone.unreleased(notes)
    others = {"0.5.1", "0.6.0", "0.5.0", "0.4.9", "0.7.0", "0.5.2", "2.0.0"} - {
        version,
        "0.5.1" if notes == MENDS else "",
    }

    refused = {other: clone.release(other, "--dry-run") for other in others}
    code, said = clone.release(version)

    assert {code for code, _ in refused.values()} == {1}
    assert all("does not fit" in text and level in text for _, text in refused.values()), refused
    assert code == 0, said
    assert asks == (f"## {version}\n" in clone.read("UPGRADING.md"))


def test_M7_from_1_0_0_what_asks_something_is_a_major(clone: Clone) -> None:
    clone.write(VERSION_FILE, 'version = "1.2.3"\n')
    clone.write("UPGRADING.md", "# Upgrading\n\n## Unreleased\n\n- Do it.\n")
    clone.commit()

    assert clone.release("1.3.0")[0] == 1
    assert "what is unreleased is a major (UPGRADING.md asks something for it), so 2.0.0" in clone.release("1.3.0")[1]
    assert clone.release("2.0.0")[0] == 0


REFUSED = {
    "no version": ("", "true", "is no version; give three numbers"),
    "a pre-release": ("0.6.0rc1", "true", "is no version"),
    "a v": ("v0.6.0", "true", "is no version"),
    "uncommitted work": ("0.6.0", "echo >>README.md", "not clean; commit or remove first:\n M README.md"),
    "a stray file": ("0.6.0", "touch stray", "?? stray"),
    "another branch": ("0.6.0", "git switch --quiet --create topic", "this is the branch topic"),
    "no branch": ("0.6.0", "git checkout --quiet --detach", "no branch is checked out"),
    "a taken tag": ("0.6.0", "git tag v0.6.0", "the tag v0.6.0 exists"),
    "nothing to release": (
        "0.6.0",
        "sed -i '/^## Unreleased/,/^- A tool/d' CHANGELOG.md && git commit --quiet --all --message=x",
        "nothing below `## Unreleased`",
    ),
    "an empty part of UPGRADING": (
        "0.6.0",
        "sed -i 's/^## 0.5.0/## Unreleased  \\n\\n&/' UPGRADING.md && git commit --quiet --all --message=x",
        "UPGRADING.md has nothing below `## Unreleased`: write what somebody has to do, or drop the heading",
    ),
    "old news": (
        "0.6.0",
        "git clone --quiet --bare . ../origin && git remote add origin ../origin && git push --quiet -u origin main"
        " && git commit --quiet --allow-empty --message=x && git push --quiet && git reset --quiet --hard HEAD~1",
        "main lacks 1 commits of its upstream: git pull --ff-only",
    ),
    "a red laboratory": ("0.6.0", "@laboratory echo >>README.md; exit 3", "make laboratory failed"),
    "an interruption": (
        "0.6.0",
        '@laboratory kill -INT $$(cut --delimiter " " --fields 4 /proc/$$PPID/stat); sleep 1',
        "interrupted",
    ),
    "a termination": (
        "0.6.0",
        '@laboratory kill -TERM $$(cut --delimiter " " --fields 4 /proc/$$PPID/stat); sleep 1',
        "interrupted",
    ),
    "a messy laboratory": ("0.6.0", "@laboratory echo >>README.md", "changed more than pages:\n M README.md"),
    "a laboratory that litters": ("0.6.0", "@laboratory touch stray", "changed more than pages:\n?? stray"),
    "a key that does not sign": (
        "0.6.0",
        "git config user.signingKey nobody && git config gpg.program false",
        "git tag --annotate failed",
    ),
    "work that began meanwhile": (
        "0.6.0",
        '@laboratory echo mine >>"$$OLD/CHANGELOG.md"',
        "git merge --quiet failed",
    ),
    "main that moved meanwhile": (
        "0.6.0",
        '@laboratory cd "$$OLD" && git commit --quiet --allow-empty --message=meanwhile',
        "main has moved meanwhile",
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_M7_release_that_stops_says_why_and_leaves_nothing_behind(clone: Clone, why: str) -> None:
    version, trouble, told = REFUSED[why]
    if trouble.startswith("@laboratory "):
        clone.write("Makefile", LABORATORY.format(trouble.removeprefix("@laboratory ")))
        clone.commit()
    else:
        subprocess.run(["bash", "-ec", trouble], cwd=clone.folder, env=environment(), check=True, capture_output=True)
    before = clone.state()

    code, said = clone.release(version, OLD=str(clone.folder))

    assert code == 1
    assert said.count("no release: ") == 1, said
    assert told in said
    kept, after = list(before), list(clone.state())
    if why == "work that began meanwhile":
        assert clone.read("CHANGELOG.md").endswith("mine\n"), "what somebody writes meanwhile is not lost"
        kept[1] = after[1] = ""
    if why == "main that moved meanwhile":
        kept[0], kept[3] = after[0], after[3]
    assert after == kept
    assert 'version = "0.5.0"' in clone.read(VERSION_FILE)


def test_M7_headings_with_trailing_blanks_are_found(clone: Clone) -> None:
    clone.write("CHANGELOG.md", clone.read("CHANGELOG.md").replace("## Unreleased\n", "## Unreleased \t\n"))
    clone.write("UPGRADING.md", "# Upgrading\n\n## Unreleased  \n\n- Do it.\n\n## 0.5.0\n")
    clone.commit()

    code, said = clone.release("0.6.0")

    assert code == 0, said
    assert "\n## 0.6.0 (" in clone.read("CHANGELOG.md")
    assert "\n## 0.6.0\n\n- Do it." in clone.read("UPGRADING.md")
    assert "Unreleased" not in clone.read("CHANGELOG.md") + clone.read("UPGRADING.md")


def test_M7_laboratory_inherits_no_flags_of_make(clone: Clone) -> None:
    clone.write("Makefile", LABORATORY.format('echo "flags $$MAKEFLAGS $(ARGS) $(VERSION)" >>docs/table.md'))
    clone.commit()

    handed = {"MAKEFLAGS": " -- ARGS=--lanes=1", "MAKELEVEL": "1", "ARGS": "--lanes=1", "VERSION": "0.6.0"}
    code, said = clone.release("0.6.0", **handed)

    assert code == 0, said
    assert clone.read("docs/table.md").split() == ["no", "run", "yet", "flags"]


def test_M7_tag_is_signed_where_that_is_configured(clone: Clone, tmp_path: Path) -> None:
    signer = tmp_path / "signer"
    signer.write_text("#!/bin/sh\ncat >/dev/null\necho '[GNUPG:] SIG_CREATED ' >&2\necho \"signed with $*\"\n")
    signer.chmod(0o755)
    clone.git("config", "gpg.program", str(signer))

    for version, configured in (
        ("0.6.0", ()),
        ("0.6.1", ("user.signingKey", "K7")),
        ("0.6.2", ("tag.gpgSign", "true")),
    ):
        if configured:
            clone.unreleased(MENDS)
            clone.git("config", *configured)
        code, said = clone.release(version)
        assert code == 0, said
        assert ("signed with" in clone.git("cat-file", "-p", f"v{version}")) == bool(configured)
