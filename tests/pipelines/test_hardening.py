"""An update says first which hardening fixes it brings, by id and severity (M3)."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
import yaml

from tests.pipelines.conftest import Repository
from tests.render.support import ANSWERS_FILE, TEMPLATE, succeed
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
        chassis = template / TEMPLATE / "chassis/pyproject.toml"
        text = re.sub(r'(?m)^version = ".*"$', f'version = "{tag[1:]}"', chassis.read_text(encoding="utf-8"))
        chassis.write_text(text, encoding="utf-8")
        succeed("git", "add", "--all", cwd=template)
        succeed("git", "commit", "--quiet", f"--message={tag}", cwd=template)
        succeed("git", "tag", "--force", tag, cwd=template)
    return make_project("copier", template, folder / "project")


@pytest.fixture
def lived_in(repository: Callable[..., Repository], first_version: Path) -> Repository:
    """Return a repository of that project."""
    return repository(source=first_version)


def recorded(here: Repository, name: str) -> str:
    """Return what a project records of its template."""
    value: str = yaml.safe_load((here.project / ANSWERS_FILE).read_text(encoding="utf-8"))[name]
    return value


def record(here: Repository, **values: str) -> None:
    """Let a project record something else of its template."""
    text = (here.project / ANSWERS_FILE).read_text(encoding="utf-8")
    for name, value in values.items():
        text = re.sub(rf"(?m)^{name}: .*$", f"{name}: {value}", text)
    (here.project / ANSWERS_FILE).write_text(text, encoding="utf-8")
    here.git("commit", "--quiet", "--all", "--message=record")


def another_template(here: Repository) -> Path:
    """Return a clone of the template without tags, at the second version, which the project records."""
    template = here.project.parent / "another.git"
    succeed("git", "clone", "--quiet", recorded(here, "_src_path"), template, cwd=here.project.parent)
    first = succeed("git", "rev-parse", "v1.0.0", cwd=template).strip()
    succeed("git", "tag", "--delete", "v1.0.0", "v2.0.0", cwd=template)
    record(here, _src_path=str(template), _commit=first)
    return template


def spell(here: Repository, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a project record its template in a way of copier's that git does not know."""
    path = recorded(here, "_src_path")
    if how == "hashes":
        another_template(here)
    elif how == "digits":
        template = another_template(here)
        for number in count():
            succeed("git", "commit", "--quiet", "--amend", f"--message={number}", cwd=template)
            if succeed("git", "rev-parse", "--short", "HEAD", cwd=template).strip().isdecimal():
                break
    elif how == "git+":
        record(here, _src_path=f"git+file://{path}")
    elif how in ("gh:", "gl:"):  # the forge is a folder
        forge, settings = here.project.parent / "forge", here.project.parent / "forge.gitconfig"
        (forge / "acme").mkdir(parents=True)
        for name in ("template", "template.git"):
            (forge / "acme" / name).symlink_to(path)
        host = {"gh:": "github", "gl:": "gitlab"}[how]
        settings.write_text(f'[url "{forge}/"]\n  insteadOf = https://{host}.com/\n', encoding="utf-8")
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
        record(here, _src_path=f"{how}acme/template")


@pytest.mark.parametrize(
    ("system", "how"),
    [
        ("github", "path"),
        ("github", "hashes"),
        ("github", "digits"),
        ("github", "gh:"),
        ("gitlab", "git+"),
        ("gitlab", "digits"),
        ("gitlab", "gl:"),
    ],
)
def test_M3_update_tells_its_hardening_fixes_first_and_then_everything(
    system: str, how: str, lived_in: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    spell(lived_in, how, monkeypatch)

    text = told_by_github(lived_in) if system == "github" else told_by_gitlab(lived_in)

    assert FIXES in text
    before, _, after = text.partition(FIXES)
    assert "##" not in before, "nothing stands above them"
    assert after.strip() == CHANGES[CHANGES.index("## 2.0.0") : CHANGES.index("## 1.0.0")].strip()
    assert "known already" not in text


@pytest.mark.parametrize("system", ["github", "gitlab"])
def test_M3_update_without_a_changelog_says_so_and_not_that_there_is_no_fix(system: str, lived_in: Repository) -> None:
    template = another_template(lived_in)
    succeed("git", "rm", "--quiet", "CHANGELOG.md", cwd=template)
    succeed("git", "commit", "--quiet", "--message=none", cwd=template)

    if system == "github":
        text = told_by_github(lived_in)
    else:
        text = told_by_gitlab(lived_in, "The changelog could not be read.")

    assert "The changelog could not be read" in text


def told_by_github(here: Repository) -> str:
    """Run the update, and return the body of the pull request."""
    job = here.github("update")["update"]
    assert job.result == "success", job.said
    return (here.programs.state / "body").read_text(encoding="utf-8")


def told_by_gitlab(
    here: Repository, fixes: str = "Hardening fixes, MC-2027-002 (critical), MC-2027-001 (low), MC-2026-009 (medium)."
) -> str:
    """Run the update, and return the commit's message, after a look at the options that describe the merge request."""
    options = receive_options(here)
    code, said = here.gitlab("update", CI_SERVER_HOST="git.example.com", CI_PROJECT_PATH="acme/notes")
    assert code == 0, said
    lines = options.read_text(encoding="utf-8").splitlines()
    assert f"merge_request.title=Update MCP Chassis to {recorded(here, '_commit')}" in lines
    assert [line for line in lines if line.startswith("merge_request.description=") and fixes in line]
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
