"""A second template on the same project: each updates, neither touches the other's files (M5)."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import anyio
import copier
import pytest

from mcp_chassis.checks import examine, failed
from mcp_chassis.checks.ownership import Project, ownership
from tests.deploy.kubernetes_build import build, only, parse
from tests.pipelines.test_checked import actionlint, zizmor
from tests.render.support import ANSWERS_FILE, ROOT, TEMPLATE, listing, succeed
from tests.update.accounting import conflicts, snapshot
from tests.update.lanes import commit, render
from tests.update.releases import clone, released

TEAM_ANSWERS = ".copier-answers.team.yml"
OVERLAY = Path("deploy/kubernetes/overlays")


def release(repository: Path, tag: str) -> None:
    """Release the second template as it is."""
    commit(repository, tag)
    succeed("git", "tag", tag, cwd=repository)


@pytest.fixture
def second(tmp_path: Path) -> Path:
    """Return a repository of the second template."""
    repository = shutil.copytree(ROOT / "examples/team-overlay", tmp_path / "overlay.git")
    release(repository, "v1.0.0")
    return repository


def project_of(tmp_path: Path, tag: str, second: Path) -> Path:
    """Return a project of the template's release with the second one on it."""
    project = render(clone(), tag, (("team", "{runner: acme-linux}"),), tmp_path / "project")
    commit(project, "generated")
    copier.run_copy(str(second), project, answers_file=TEAM_ANSWERS, defaults=True, quiet=True)
    commit(project, "the platform team's")
    return project


@functools.cache
def names() -> frozenset[str]:
    """Return what the second template brings."""
    folder = ROOT / "examples/team-overlay/template"
    found = {path.relative_to(folder).as_posix().removesuffix(".jinja") for path in folder.rglob("*") if path.is_file()}
    return frozenset({name for name in found if "answers_file" not in name} | {TEAM_ANSWERS})


def changed(before: Path, after: Path) -> set[str]:
    """Return the files that differ."""
    one, other = snapshot(before), snapshot(after)
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


def test_M5_second_template_has_no_file_of_the_first() -> None:
    first = {name.removeprefix(f"{TEMPLATE}/") for name in listing()}

    assert {".github/workflows/ci.yaml", "deploy/nginx/nginx.conf"} <= first
    assert not first & names()


def test_M5_both_templates_update_independently(tmp_path: Path, second: Path) -> None:
    project = project_of(tmp_path, released()[-1].tag, second)
    with (project / ".github/CODEOWNERS").open("a", encoding="utf-8") as file:
        file.write("/docs/ @acme/writers\n")
    commit(project, "ours")
    began = shutil.copytree(project, tmp_path / "began")

    copier.run_update(project, vcs_ref=clone().now, defaults=True, overwrite=True, quiet=True)
    first = changed(began, project)
    assert ANSWERS_FILE in first
    assert not first & names()
    assert conflicts(project, snapshot(project)) == []

    commit(project, "the template's update")
    between = shutil.copytree(project, tmp_path / "between")
    for name, old, new in (
        ("policy.yaml", "minimum_replicas: 3", "minimum_replicas: 4"),
        (".github/CODEOWNERS.jinja", "/chassis/ ", "/migrations/                      {{ owners }}\n/chassis/ "),
    ):
        path = second / "template" / name
        path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    release(second, "v1.1.0")
    copier.run_update(project, answers_file=TEAM_ANSWERS, defaults=True, overwrite=True, quiet=True)

    assert changed(between, project) == {"policy.yaml", ".github/CODEOWNERS", TEAM_ANSWERS}
    owners = (project / ".github/CODEOWNERS").read_text(encoding="utf-8")
    assert "\n/migrations/                      @acme/platform\n" in owners
    assert owners.endswith("/docs/ @acme/writers\n")
    assert conflicts(project, snapshot(project)) == []
    results = anyio.run(examine, ownership, Project(project))
    assert [item for item in results if failed([item])] == []


def test_M5_what_the_second_template_brings_works(tmp_path: Path, second: Path) -> None:
    project = project_of(tmp_path, clone().now, second)
    overlay = project / OVERLAY / "production/kustomization.yaml"
    text = overlay.read_text(encoding="utf-8")
    overlay.write_text(text.replace("  - image  ", "  - ../acme\n  - image  ", 1), encoding="utf-8")
    workflow = project / ".github/workflows/acme.yaml"

    assert 'runs-on: "acme-linux"' in workflow.read_text(encoding="utf-8")
    assert actionlint(project, workflow) == ""
    assert zizmor(project)[0] == 0
    assert snapshot(project).keys() >= names()
    pod = only(parse(build(overlay.parent)), "Deployment")["spec"]["template"]["spec"]
    assert pod["priorityClassName"] == "acme-serving"
    results = anyio.run(examine, ownership, Project(project))
    assert [item for item in results if failed([item])] == []
