"""`copier update` replaces what is the template's and leaves alone what is yours, whoever made the project (M2).

The template lives in a scratch git repository with two tagged versions; the second changes every file, drops one of
yours and adds another.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from jinja2 import StrictUndefined
from jinja2.sandbox import SandboxedEnvironment

from tests.render.support import (
    ANSWERS_FILE,
    CONFIG,
    QUESTIONS,
    TEMPLATE,
    copy_template,
    files,
    is_yours,
    run,
    succeed,
)

DROPPED = "server.json"
"""A seed that the second version of the template has no more."""

ANSWERS = ("project_name=Zoë's Notes: #1", "tool_timeout=300", "edge=mesh")

SEEDS = [
    "/src",
    "/tests",
    "/pyproject.toml",
    "/README.md",
    "/server.json",
    "/resources.lock.json",
    "/.gitignore",
    "/.gitattributes",
    "/deploy/*/conf.d",
    "/deploy/kubernetes/overlays",
    "/deploy/apt-packages.txt",
    "/deploy/base.Dockerfile",
    "/renovate.json",
    "/.gitlab-ci.yml",
    "/migrations",
]
"""Every rule by which an update leaves something to its user. A rule less, and updates overwrite what was theirs."""

YOURS = [
    ".gitattributes",
    ".gitignore",
    ".gitlab-ci.yml",
    "README.md",
    "deploy/caddy/conf.d/own.caddy",
    "deploy/nginx/conf.d/own.conf",
    "deploy/base.Dockerfile",
    "deploy/kubernetes/overlays/production/image/kustomization.yaml",
    "pyproject.toml",
    "renovate.json",
    "resources.lock.json",
    "server.json",
    "src/acme_notes/server.py",
    "src/acme_notes/tools/notes.py",
    "tests/conftest.py",
]
NOT_YOURS = [
    ".copier-answers.yml",
    ".github/workflows/ci.yaml",
    ".gitlab/chassis.yml",
    "chassis/pyproject.toml",
    "chassis/gate/tests/test_gate.py",
    "chassis/mcp_chassis/src/server.py",
    "deploy/compose.yaml",
    "deploy/nginx/nginx.conf",
]


def commit(repository: Path, message: str) -> None:
    """Commit everything in a repository, which is made if need be."""
    succeed("git", "init", "--quiet", "--initial-branch=main", cwd=repository)
    succeed("git", "add", "--all", cwd=repository)
    succeed("git", "commit", "--quiet", f"--message={message}", cwd=repository)


def template_with_two_versions(target: Path) -> Path:
    """Return a git clone of the template whose second version changed everything."""
    repository = copy_template(target)
    commit(repository, "first")
    succeed("git", "tag", "v1.0.0", cwd=repository)
    project = repository / TEMPLATE
    for path in sorted(project.rglob("*")):
        # The answers file is written by copier; a second comment in it would be no news.
        if path.is_file() and "answers_file" not in path.name:
            path.write_bytes(path.read_bytes() + b"\n# Changed by the second version.\n")
    (project / DROPPED).unlink()
    (project / "tests/test_new_seed.py").parent.mkdir(exist_ok=True)
    (project / "tests/test_new_seed.py").write_text("# Seeded by the second version.\n", encoding="utf-8")
    commit(repository, "second")
    succeed("git", "tag", "v2.0.0", cwd=repository)
    succeed("git", "checkout", "--quiet", "v1.0.0", cwd=repository)
    return repository


def make_project(engine: str, repository: Path, target: Path) -> Path:
    """Render the first version with the command line of an engine."""
    if engine == "copier":
        data = [f"--data={answer}" for answer in ANSWERS]
        succeed("copier", "copy", "--defaults", "--vcs-ref=v1.0.0", *data, repository, target, cwd=target.parent)
        return target
    succeed("cookiecutter", "--no-input", "--checkout=v1.0.0", repository, *ANSWERS, cwd=target.parent)
    return (target.parent / "zo-s-notes-1").rename(target)


@dataclass(frozen=True)
class Life:
    """A project before and after its update."""

    repository: Path
    project: Path
    before: dict[str, bytes]
    deleted: frozenset[str]
    said: str


@pytest.fixture(scope="module", params=["copier", "cookiecutter"])
def life(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Life:
    """Live in a project: delete every second file of yours, edit the others, add one, then update."""
    folder = tmp_path_factory.mktemp("update")
    repository = template_with_two_versions(folder / "template")
    project = make_project(request.param, repository, folder / "project")
    commit(project, "generated")
    yours = sorted(name for name in files(project) if is_yours(name) and name != DROPPED)
    for name in yours[::2]:
        (project / name).write_bytes(b"# Mine first.\n" + (project / name).read_bytes() + b"# Mine last.\n")
    for name in yours[1::2]:
        (project / name).unlink()
    (project / "notes.txt").write_text("A file of my own.\n", encoding="utf-8")
    commit(project, "mine")
    before = files(project)
    said = succeed("copier", "update", "--defaults", cwd=project)
    return Life(repository, project, before, frozenset(yours[1::2]), said)


def test_M2_each_file_has_the_owner_that_the_design_gives_it() -> None:
    assert [name for name in YOURS if not is_yours(name)] == []
    assert [name for name in NOT_YOURS if is_yours(name)] == []


def test_M2_rules_of_what_an_update_leaves_alone_are_these() -> None:
    strict = SandboxedEnvironment(undefined=StrictUndefined)
    answers = {name: question["default"] for name, question in QUESTIONS.items()} | {
        "database": "postgres",
        "ci": "both",
    }

    def left_out(operation: str) -> set[str]:
        known = answers | {"_copier_operation": operation}
        return {strict.from_string(rule).render(known).strip() for rule in CONFIG["_exclude"]}

    assert sorted(left_out("update") - left_out("copy")) == sorted(SEEDS)


def test_M2_update_leaves_no_conflict(life: Life) -> None:
    assert succeed("git", "ls-files", "--unmerged", cwd=life.project) == ""
    assert [name for name, text in files(life.project).items() if b"<<<<<<<" in text or name.endswith(".rej")] == []


def test_M2_update_keeps_edits_and_own_files(life: Life) -> None:
    after = files(life.project)
    kept = [name for name in life.before if is_yours(name) or name == "notes.txt"]

    assert len(kept) > 4
    assert [name for name in kept if after.get(name) != life.before[name]] == []


def test_M2_update_keeps_deletions_and_seeds_nothing_new(life: Life) -> None:
    after = files(life.project)

    assert life.deleted
    assert life.deleted.isdisjoint(after)
    assert "tests/test_new_seed.py" not in after


def test_M2_update_keeps_a_seed_that_the_template_dropped(life: Life) -> None:
    assert files(life.project)[DROPPED] == life.before[DROPPED]


def test_M2_update_replaces_everything_that_is_the_templates(life: Life, tmp_path: Path) -> None:
    fresh = tmp_path / "fresh"
    data = [f"--data={answer}" for answer in ANSWERS]
    succeed("copier", "copy", "--defaults", "--vcs-ref=v2.0.0", *data, life.repository, fresh, cwd=tmp_path)

    wanted = {name: text for name, text in files(fresh).items() if not is_yours(name)}
    after = files(life.project)

    assert len(wanted) > 4
    assert [name for name in wanted if after.get(name) != wanted[name]] == []


def test_M2_update_records_the_version_and_tells_the_next_step(life: Life) -> None:
    recorded = yaml.safe_load((life.project / ANSWERS_FILE).read_text(encoding="utf-8"))

    assert (recorded["_commit"], recorded["_src_path"]) == ("v2.0.0", str(life.repository))
    assert (recorded["tool_timeout"], recorded["edge"]) == ("300", "mesh")
    assert f"uv run {recorded['project_slug']} refresh" in life.said


def test_M2_answers_of_both_engines_are_recorded_alike(tmp_path: Path) -> None:
    repository = template_with_two_versions(tmp_path / "template")

    ours, theirs = (
        yaml.safe_load((make_project(engine, repository, tmp_path / engine) / ANSWERS_FILE).read_text("utf-8"))
        for engine in ("copier", "cookiecutter")
    )

    assert ours == theirs


def test_M2_clone_from_an_address_is_recorded_without_its_secrets(tmp_path: Path) -> None:
    source = template_with_two_versions(tmp_path / "template")
    clone = tmp_path / "clone"
    succeed("git", "clone", "--quiet", source, clone, cwd=tmp_path)
    address = "https://someone:secret@git.example.com/acme/template.git"
    succeed("git", "remote", "set-url", "origin", address, cwd=clone)
    hook = (clone / "hooks/post_gen_project.py").read_text(encoding="utf-8")
    namespace: dict[str, object] = {"__name__": "hook"}
    exec(compile(hook, "post_gen_project.py", "exec"), namespace)

    found = namespace["source"]({"_repo_dir": str(clone), "_template": "acme:template"})  # type: ignore[operator]

    assert found["_src_path"] == "https://git.example.com/acme/template.git"


UNUPDATABLE = ["relative path", "not a git clone"]


@pytest.mark.parametrize("why", UNUPDATABLE)
def test_M2_copier_says_that_a_project_cannot_be_updated_and_the_way_out(why: str, tmp_path: Path) -> None:
    repository = template_with_two_versions(tmp_path / "template")
    shown: Path | str = repository
    updatable = succeed("copier", "copy", "--defaults", shown, "updatable", cwd=tmp_path)
    if why == "relative path":
        shown = "template"
    else:
        shutil.rmtree(repository / ".git")

    said = succeed("copier", "copy", "--defaults", shown, "project", cwd=tmp_path)

    assert why in " ".join(said.split())
    assert "generate it again" in said
    assert "generate it again" not in updatable


@pytest.mark.parametrize("why", UNUPDATABLE)
def test_M2_cookiecutter_says_that_a_project_cannot_be_updated_and_the_way_out(why: str, tmp_path: Path) -> None:
    repository = template_with_two_versions(tmp_path / "template")
    shown: Path | str = repository
    if why == "relative path":
        shown = "template"
    else:
        shutil.rmtree(repository / ".git")

    done = run("cookiecutter", "--no-input", shown, cwd=tmp_path)

    assert done.returncode == 0, done.stdout
    assert why in done.stdout
    assert "generate it again" in done.stdout
    assert ANSWERS_FILE not in files(tmp_path / "acme-notes")


def test_M2_uncommitted_work_in_the_template_is_mentioned(tmp_path: Path) -> None:
    repository = template_with_two_versions(tmp_path / "template")
    (repository / TEMPLATE / "README.md").write_text("# Changed\n", encoding="utf-8")

    said = succeed("cookiecutter", "--no-input", repository, cwd=tmp_path)

    assert "not committed" in said


def test_M2_update_changes_one_answer_at_the_same_version(tmp_path: Path) -> None:
    repository = template_with_two_versions(tmp_path / "template")
    project = make_project("cookiecutter", repository, tmp_path / "project")
    commit(project, "generated")

    succeed("copier", "update", "--defaults", "--vcs-ref=:current:", "--data=tool_timeout=45", cwd=project)

    recorded = yaml.safe_load((project / ANSWERS_FILE).read_text(encoding="utf-8"))
    assert (recorded["_commit"], recorded["tool_timeout"]) == ("v1.0.0", "45")
    assert succeed("git", "ls-files", "--unmerged", cwd=project) == ""
