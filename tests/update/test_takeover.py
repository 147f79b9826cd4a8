"""Projects that copier did not make: cookiecutter's, cruft's, and those without a record (M2)."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from cookiecutter.main import cookiecutter
from copier._vcs import get_repo

from tests.render.support import ANSWERS_FILE, ROOT, run, succeed
from tests.update.accounting import account, conflicts, snapshot
from tests.update.lanes import commit, fresh, take_back
from tests.update.lives import Project, build
from tests.update.releases import clone

BEFORE = "v0.5.0"


def page() -> str:
    """Return docs/updating.md."""
    return (ROOT / "docs/updating.md").read_text(encoding="utf-8")


def block(name: str) -> str:
    """Return a marked block of commands of the page."""
    found = re.search(rf"<!-- run: {name} -->\n```sh\n(.*?)```", page(), flags=re.DOTALL)
    assert found, name
    return found.group(1)


def shell(name: str, project: Path, **variables: str) -> None:
    """Run a marked block of the page in a project, without a download of what is here."""
    script = block(name).replace("uvx copier", "copier").replace("uvx cruft", "cruft")
    given = [f"{key}={shlex.quote(value)}" for key, value in variables.items()]
    succeed("bash", "-euc", "\n".join([*given, script]), cwd=project)


def made_by_cookiecutter(folder: Path, tag: str, *, accept_hooks: bool = True) -> Path:
    """Return a committed project of a release, made from a URL."""
    made = cookiecutter(
        f"git+file://{clone().path}",
        checkout=tag,
        no_input=True,
        accept_hooks=accept_hooks,
        output_dir=str(folder),
        config_file=os.environ["COOKIECUTTER_CONFIG"],
    )
    commit(Path(made), "generated")
    return Path(made)


def test_M2_copier_takes_over_what_cookiecutter_made(tmp_path: Path) -> None:
    project = made_by_cookiecutter(tmp_path, "v0.1.0")
    base = snapshot(project)
    build(Project(project, "acme-notes"))
    commit(project, "lived in")
    lived = snapshot(project)

    succeed("copier", "update", "--defaults", cwd=project)

    after = snapshot(project)
    wanted = fresh(clone(), clone().now, project) | {ANSWERS_FILE: after[ANSWERS_FILE]}  # it names another address
    assert account(base, lived, after, wanted).wrong == {}
    assert conflicts(project, after) == []


def test_M2_an_address_is_recorded_as_copier_knows_it(tmp_path: Path) -> None:
    hook = (ROOT / "hooks/post_gen_project.py").read_text(encoding="utf-8")
    namespace: dict[str, Any] = {"__name__": "hook"}
    exec(compile(hook, "post_gen_project.py", "exec"), namespace)

    for address in (
        "https://git.example.com/a/template",
        "https://github.com/a/template",
        "git@git.example.com:a/t.git",
    ):
        assert get_repo(namespace["recognisable"](address)) in (address, f"{address}.git")


def test_M2_an_address_that_copier_does_not_know_is_refused_and_one_word_mends_it(tmp_path: Path) -> None:
    project = made_by_cookiecutter(tmp_path, BEFORE)
    plain = tmp_path / "plain"
    plain.symlink_to(clone().path)
    answers = project / ANSWERS_FILE
    recorded = answers.read_text(encoding="utf-8")
    answers.write_text(recorded.replace(str(clone().path), str(plain)), encoding="utf-8")
    commit(project, "an address without an end")

    refused = run("copier", "update", "--defaults", cwd=project)
    assert refused.returncode != 0
    assert "Local template must be a directory." in refused.stdout
    assert "Local template must be a directory." in page()

    answers.write_text(answers.read_text("utf-8").replace("_src_path: ", "_src_path: git+"), encoding="utf-8")
    commit(project, "an address that copier knows")
    succeed("copier", "update", "--defaults", cwd=project)


@pytest.fixture
def without_record(tmp_path: Path) -> Path:
    """Return a lived-in project of cruft's, which has no answers file of copier's."""
    source = f"file://{clone().path}"
    succeed("cruft", "create", "--no-input", f"--checkout={BEFORE}", source, cwd=tmp_path)
    project = tmp_path / "acme-notes"
    commit(project, "generated")
    build(Project(project, "acme-notes"))
    commit(project, "lived in")
    return project


def test_M2_copier_takes_over_what_cruft_made(without_record: Path) -> None:
    project, lived = without_record, snapshot(without_record)
    assert ANSWERS_FILE not in lived

    shell("answers", project)
    shell("record", project, TEMPLATE=str(clone().path), VERSION=BEFORE)

    recorded = yaml.safe_load((project / ANSWERS_FILE).read_text(encoding="utf-8"))
    assert recorded["_commit"] == BEFORE
    now = snapshot(project)
    assert {name: now[name] for name in now if name != ANSWERS_FILE} == lived
    succeed("copier", "update", "--defaults", cwd=project)
    base = fresh(clone(), BEFORE, project) | {ANSWERS_FILE: now[ANSWERS_FILE]}
    assert account(base, now, snapshot(project), fresh(clone(), clone().now, project)).wrong == {}


def test_M2_cruft_conflicts_in_what_is_yours_unless_it_is_told_to_skip_it(without_record: Path) -> None:
    project, lived = without_record, snapshot(without_record)
    run("cruft", "update", "--skip-apply-ask", cwd=project)
    assert any(name.startswith("README.md") for name in conflicts(project, snapshot(project)))
    take_back(project)

    record = json.loads((project / ".cruft.json").read_text(encoding="utf-8"))
    (project / ".cruft.json").write_text(json.dumps(record | {"skip": json.loads(skipped())}), encoding="utf-8")
    commit(project, "skip")
    succeed("cruft", "update", "--skip-apply-ask", cwd=project)

    after = snapshot(project)
    assert conflicts(project, after) == []
    kept = ("src/", "tests/", "README.md", "pyproject.toml", "server.json", "deploy/kubernetes/overlays/")
    assert [name for name in lived if name.startswith(kept) and after.get(name) != lived[name]] == []
    assert ".github/workflows/ci.yaml" in after


def skipped() -> str:
    """Return the list of the page."""
    found = re.search(r'"skip": (\[.*?\])', page(), flags=re.DOTALL)
    assert found, "skip"
    return found.group(1)
