"""docs/detach.md, run as it is written: a file, or the project, leaves the template; updates prove it (M4)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from mcp_chassis.checks.ownership import ANSWERS, MANIFEST
from tests.ownership.conftest import block, command, failures
from tests.render.support import TEMPLATE, files, run, succeed
from tests.render.test_update import commit, make_project, template_with_two_versions

Shell = Callable[[str, Path], str]

FILE = "deploy/nginx/nginx.conf"
DROPPED = "deploy/monitoring/dashboard.json"
DELETED = ".github/workflows/probe.yaml"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project of the first version; the template's newest one changed every file and dropped one."""
    folder = tmp_path_factory.mktemp("lab")
    template = template_with_two_versions(folder / "template")
    succeed("git", "checkout", "--quiet", "main", cwd=template)
    (template / TEMPLATE / DROPPED).unlink()
    path = template / TEMPLATE / MANIFEST
    path.write_text(path.read_text(encoding="utf-8").replace(f'  "{DROPPED}",\n', ""), encoding="utf-8")
    commit(template, "third")
    succeed("git", "tag", "v3.0.0", cwd=template)
    project = make_project("copier", template, folder / "project")
    commit(project, "generated")
    return project


@pytest.fixture
def lived_in(lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of that project; it is the working folder."""
    project = shutil.copytree(lab, tmp_path / "project")
    monkeypatch.chdir(project)
    return project


def edit(name: str) -> bytes:
    """Change a file where the template's newer version changes it too, and return what it holds now."""
    text = Path(name).read_bytes() + b"\n# Mine.\n"
    Path(name).write_bytes(text)
    return text


def test_M4_detached_files_outlive_updates_edited_deleted_or_dropped_by_the_template(
    lived_in: Path, shell: Shell
) -> None:
    edited, dropped = edit(FILE), edit(DROPPED)
    Path(DELETED).unlink()
    more = command("ops", "detach", DROPPED, DELETED)

    shell(block("detach.md", "one"), lived_in)
    before = failures()
    said = succeed("copier", "update", "--defaults", cwd=lived_in)

    assert (more[0], before) == (0, {})
    assert succeed("git", "ls-files", "--unmerged", cwd=lived_in) == "", said
    after = files(lived_in)
    assert (after[FILE], after[DROPPED], DELETED in after) == (edited, dropped, False)
    recorded = yaml.safe_load(after[ANSWERS])
    assert (recorded["_commit"], set(recorded["detached"])) == ("v3.0.0", {FILE, DROPPED, DELETED})
    assert failures() == {}
    owners = {one["path"]: (one["owner"], one["state"]) for one in json.loads(command("ops", "owned", "--json")[1])}
    assert owners[FILE] == ("yours", "detached")
    assert [name for name, (owner, state) in owners.items() if owner == "template" and state] == []


def test_M4_what_detach_writes_is_what_copier_renders_with_that_answer(lived_in: Path, tmp_path: Path) -> None:
    command("ops", "detach", FILE, DELETED)
    recorded = yaml.safe_load(Path(ANSWERS).read_text(encoding="utf-8"))
    options = ["--quiet", "--defaults", f"--vcs-ref={recorded['_commit']}", f"--data-file={ANSWERS}"]

    succeed("copier", "copy", *options, recorded["_src_path"], tmp_path / "fresh", cwd=lived_in)

    fresh, here = files(tmp_path / "fresh"), files(lived_in)
    assert fresh[MANIFEST] == here[MANIFEST]
    assert yaml.safe_load(fresh[ANSWERS]) == recorded
    assert set(here) - set(fresh) == {FILE, DELETED}


def test_M4_way_back_ends_with_the_templates_own_file(lived_in: Path, shell: Shell) -> None:
    original = Path(FILE).read_bytes()
    edit(FILE)
    shell(block("detach.md", "one"), lived_in)

    shell(block("detach.md", "back"), lived_in)

    assert Path(FILE).read_bytes() == original
    assert "detached" not in Path(ANSWERS).read_text(encoding="utf-8")
    assert succeed("git", "diff", "HEAD~2", "--stat", cwd=lived_in) == ""


def test_M4_edited_file_comes_back_from_a_fresh_render(lived_in: Path, shell: Shell) -> None:
    original = Path(FILE).read_bytes()
    edit(FILE)

    shell(block("ownership.md", "fresh"), lived_in)
    shell(block("ownership.md", "back"), lived_in)

    assert Path(FILE).read_bytes() == original


def test_M4_detached_project_is_all_yours_and_can_come_back(lived_in: Path, shell: Shell) -> None:
    shell(block("detach.md", "all"), lived_in)

    green = command("check", "ownership")
    owners = {one["owner"] for one in json.loads(command("ops", "owned", "--json")[1])}
    update = run("copier", "update", "--defaults", cwd=lived_in)
    succeed("git", "revert", "--no-edit", "HEAD", cwd=lived_in)

    assert green[0] == 0, green[1]
    assert "every file is yours" in green[1]
    assert owners == {"yours"}
    assert update.returncode != 0
    assert failures() == {}


@pytest.mark.parametrize("name", ["chassis/mcp_chassis/app.py", MANIFEST, ANSWERS, "README.md", "nowhere", "../x"])
def test_M4_what_cannot_leave_alone_is_refused_and_nothing_is_written(name: str, project: Path) -> None:
    before = files(project)

    code, said = command("ops", "detach", FILE, name)

    assert code == 1
    assert name in said
    assert files(project) == before


@pytest.mark.parametrize("text", [None, "project_name: Acme Notes\ndetached: [deploy/Dockerfile]\n"])
def test_M4_detach_refuses_answers_that_it_cannot_extend(text: str | None, project: Path) -> None:
    if text is None:
        Path(ANSWERS).unlink()
    else:
        Path(ANSWERS).write_text(text, encoding="utf-8")
    before = files(project)

    code, said = command("ops", "detach", FILE)

    assert (code, "bring it back from git" in said) == (1, True)
    assert files(project) == before


def test_M4_second_detach_extends_the_list(project: Path) -> None:
    for names in ([FILE], [DELETED, DELETED], ["deploy/Dockerfile"]):
        assert command("ops", "detach", *names)[0] == 0

    recorded = yaml.safe_load(Path(ANSWERS).read_text(encoding="utf-8"))

    assert sorted(recorded["detached"]) == [DELETED, "deploy/Dockerfile", FILE]
