"""An update says first which hardening fixes it brings, by id and severity (M3)."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pipelines.conftest import Repository
from tests.render.support import succeed
from tests.render.test_update import make_project, template_with_two_versions

CHANGES = """\
# Changes

A hardening fix has an id.

## 2.0.0 (2027-02-01)

Faster.

- Mended: a word.

### Hardening fixes

- **MC-2027-002** (critical): nobody gets in
  through the window.
- **MC-2027-001** (low): the door is shut.

## 1.1.0

### Hardening fixes

Of the SDK:

- **MC-2026-009** (medium): a lock.
- Not a fix.

## 1.0.0

- **MC-2026-001** (high): known already.
"""
FIXES = """\
## Hardening fixes

- **MC-2027-002** (critical): nobody gets in
  through the window.
- **MC-2027-001** (low): the door is shut.
- **MC-2026-009** (medium): a lock.
"""


@pytest.fixture(scope="module")
def first_version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project of the first version with both systems' pipelines; the second one's changelog names fixes."""
    folder = tmp_path_factory.mktemp("versions")
    template = template_with_two_versions(folder / "template")
    for tag in ("v1.0.0", "v2.0.0"):
        succeed("git", "checkout", "--quiet", tag, cwd=template)
        questions = (template / "copier.yml").read_text(encoding="utf-8")
        assert "  default: github\n" in questions
        (template / "copier.yml").write_text(questions.replace("  default: github\n", "  default: both\n"), "utf-8")
        (template / "CHANGELOG.md").write_text(CHANGES, encoding="utf-8")
        succeed("git", "add", "--all", cwd=template)
        succeed("git", "commit", "--quiet", f"--message={tag}", cwd=template)
        succeed("git", "tag", "--force", tag, cwd=template)
    return make_project("copier", template, folder / "project")


@pytest.fixture
def lived_in(repository: Callable[..., Repository], first_version: Path) -> Repository:
    """Return a repository of that project."""
    return repository(source=first_version)


@pytest.mark.parametrize("system", ["github", "gitlab"])
def test_M3_update_tells_its_hardening_fixes_first_and_then_everything(system: str, lived_in: Repository) -> None:
    text = told_by_github(lived_in) if system == "github" else told_by_gitlab(lived_in)

    assert FIXES in text
    before, _, after = text.partition(FIXES)
    assert "##" not in before, "nothing stands above them"
    assert after.strip() == CHANGES[CHANGES.index("## 2.0.0") : CHANGES.index("## 1.0.0")].strip()
    assert "known already" not in text


def told_by_github(here: Repository) -> str:
    """Run the update, and return the body of the pull request."""
    job = here.github("update")["update"]
    assert job.result == "success", job.said
    return (here.programs.state / "body").read_text(encoding="utf-8")


def told_by_gitlab(here: Repository) -> str:
    """Run the update, and return the commit's message, after a look at the options that describe the merge request."""
    options = receive_options(here)
    code, said = here.gitlab("update", CI_SERVER_HOST="git.example.com", CI_PROJECT_PATH="acme/notes")
    assert code == 0, said
    lines = options.read_text(encoding="utf-8").splitlines()
    assert "merge_request.title=Update MCP Chassis to v2.0.0" in lines
    ids = "MC-2027-002 (critical), MC-2027-001 (low), MC-2026-009 (medium)"
    assert [line for line in lines if f"Hardening fixes, {ids}." in line]
    return succeed("git", "log", "-1", "--format=%B", "chassis-update", cwd=here.remote)


def receive_options(here: Repository) -> Path:
    """Let the bare remote stand for GitLab: pushes to its address arrive there, and their options in a file."""
    options = here.remote.parent / "options"
    here.git("config", f"url.{here.remote}.insteadOf", "https://update:u@git.example.com/acme/notes.git")
    subprocess.run(["git", "config", "receive.advertisePushOptions", "true"], cwd=here.remote, check=True)
    hook = here.remote / "hooks/pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f'#!/bin/bash\nfor name in "${{!GIT_PUSH_OPTION_@}}"; do echo "${{!name}}"; done >>"{options}"\n')
    hook.chmod(0o755)
    return options
