"""What goes wrong around an update: what copier says, that nothing is lost, and the way out of the page (M3)."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
import yaml

from tests.render.support import ANSWERS_FILE, ROOT, run, scratch, succeed
from tests.update.accounting import conflicts, snapshot
from tests.update.lanes import commit, fresh, render, take_back
from tests.update.releases import clone

BEFORE = "v0.5.0"
USED = "chassis/mcp_chassis/answers.json"
"""Where the server reads the answers."""
DEADLINE = 60.0
"""Seconds until an update must have begun to write."""


@functools.cache
def _made(tag: str) -> Path:
    project = render(clone(), tag, (), Path(tempfile.mkdtemp(dir=scratch())) / "project")
    commit(project, "generated")
    return project


@functools.cache
def _updated() -> Path:
    project = shutil.copytree(_made(BEFORE), Path(tempfile.mkdtemp(dir=scratch())) / "project")
    assert update(project).returncode == 0
    commit(project, "update")
    return project


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a project of an older release, with a file that git ignores."""
    made = shutil.copytree(_made(BEFORE), tmp_path / "project")
    (made / ".env").write_text("MCP_LOG_LEVEL=debug\n", encoding="utf-8")
    return made


def update(project: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run the command of docs/updating.md."""
    return run("copier", "update", "--defaults", *more, cwd=project)


def is_told(words: str) -> bool:
    """Tell whether docs/updating.md quotes what copier says."""
    return words in " ".join((ROOT / "docs/updating.md").read_text(encoding="utf-8").split())


def assert_refused(project: Path, words: str) -> None:
    """Prove that an update is refused with words that the page explains, and that nothing changed."""
    before = snapshot(project)

    done = update(project)

    assert done.returncode != 0
    assert words in " ".join(done.stdout.split())
    assert is_told(words)
    assert snapshot(project) == before


def assert_updated(project: Path) -> None:
    """Prove that a project is what a new one would be, save what is the user's."""
    recorded = yaml.safe_load((project / ANSWERS_FILE).read_text(encoding="utf-8"))

    assert recorded["_commit"] == clone().now
    assert succeed("git", "ls-files", "--unmerged", cwd=project) == ""
    after, wanted = snapshot(project), fresh(clone(), clone().now, project)
    assert [name for name in wanted if name.startswith("chassis/") and after.get(name) != wanted[name]] == []


def test_M3_a_dirty_tree_is_refused(project: Path) -> None:
    (project / "README.md").write_text("# Not committed\n", encoding="utf-8")

    assert_refused(project, "Destination repository is dirty; cannot continue.")


def test_M3_without_git_an_update_is_refused(project: Path) -> None:
    shutil.rmtree(project / ".git")

    assert_refused(project, "Updating is only supported in git-tracked subprojects.")


@pytest.mark.parametrize("left", ["nothing", "all but the version"])
def test_M3_without_its_answers_an_update_is_refused_and_history_has_them(project: Path, left: str) -> None:
    recorded = (project / ANSWERS_FILE).read_text(encoding="utf-8")
    if left == "nothing":
        (project / ANSWERS_FILE).unlink()
    else:
        (project / ANSWERS_FILE).write_text(recorded.replace(f"_commit: {BEFORE}\n", ""), encoding="utf-8")
    commit(project, "tidied up")

    said = {"nothing": "Template not found", "all but the version": "cannot obtain old template references"}
    assert_refused(project, said[left])

    succeed("git", "checkout", "HEAD~1", "--", ANSWERS_FILE, cwd=project)
    assert (project / ANSWERS_FILE).read_text(encoding="utf-8") == recorded


def test_M3_an_answer_changed_by_hand_changes_nothing_and_the_page_tells_how(project: Path) -> None:
    answers = project / ANSWERS_FILE
    answers.write_text(answers.read_text("utf-8").replace("tool_timeout: '120'", "tool_timeout: '300'"), "utf-8")
    commit(project, "by hand")
    before = snapshot(project)

    assert update(project).returncode == 0
    halfway, wanted = snapshot(project), fresh(clone(), clone().now, project)
    assert halfway[USED].content != wanted[USED].content
    assert halfway["README.md"] == before["README.md"]

    take_back(project)
    succeed("git", "revert", "--no-edit", "HEAD", cwd=project)
    assert update(project, "--data=tool_timeout=300").returncode == 0
    assert_updated(project)
    assert '"300"' in (project / USED).read_text(encoding="utf-8")


def test_M3_a_downgrade_is_refused(tmp_path: Path) -> None:
    project = shutil.copytree(_made(clone().now), tmp_path / "project")
    before = snapshot(project)

    done = update(project, f"--vcs-ref={BEFORE}")

    assert done.returncode != 0
    assert "Downgrades are not supported." in done.stdout
    assert is_told("Downgrades are not supported.")
    assert snapshot(project) == before


def test_M3_a_reverted_update_is_the_way_back(tmp_path: Path) -> None:
    project = shutil.copytree(_updated(), tmp_path / "project")

    succeed("git", "revert", "--no-edit", "HEAD", cwd=project)

    assert snapshot(project) == snapshot(_made(BEFORE))


def test_M3_two_steps_arrive_where_one_does(tmp_path: Path) -> None:
    project = shutil.copytree(_made("v0.1.0"), tmp_path / "project")

    assert update(project, "--vcs-ref=v0.3.0").returncode == 0
    commit(project, "first step")
    assert update(project).returncode == 0

    assert_updated(project)


def test_M3_a_killed_update_loses_nothing_and_starts_again(project: Path, tmp_path: Path) -> None:
    before = snapshot(project)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with subprocess.Popen(
        ["copier", "update", "--defaults", "--quiet"],
        cwd=project,
        env=os.environ | {"TMPDIR": str(temporary)},
        start_new_session=True,
    ) as running:
        until = time.monotonic() + DEADLINE
        while snapshot(project) == before and running.poll() is None and time.monotonic() < until:
            pass
        os.killpg(running.pid, signal.SIGKILL)
    assert running.returncode == -signal.SIGKILL
    assert_refused(project, "Destination repository is dirty; cannot continue.")

    (project / ".git/index.lock").unlink(missing_ok=True)
    take_back(project)

    assert snapshot(project) == before
    assert update(project).returncode == 0
    assert_updated(project)
    assert (project / ".env").is_file()


def test_M3_edits_where_the_template_changed_something_are_conflicts_and_still_there(project: Path) -> None:
    name, own = "deploy/kubernetes/base/server.yaml", ".github/workflows/ci.yaml"
    ours, pipeline = (
        "# Ours, in the place of the template's line.",
        "name: our own pipeline, older than the template's\n",
    )
    newer = fresh(clone(), clone().now, project)[name].content.decode().splitlines()
    lines = (project / name).read_text(encoding="utf-8").splitlines()
    number = next(number for number, line in enumerate(lines) if line not in newer)  # the newest release changed it
    lines[number] = ours
    (project / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    (project / own).parent.mkdir(parents=True)
    (project / own).write_text(pipeline, encoding="utf-8")
    commit(project, "edited")

    assert update(project).returncode == 0

    assert conflicts(project, snapshot(project)) == sorted([name, own])
    assert ours in (project / name).read_text(encoding="utf-8")
    assert pipeline in (project / own).read_text(encoding="utf-8")
    assert is_told("stood where the template has a file now")
    succeed("git", "checkout", "--theirs", "--", name, own, cwd=project)
    succeed("git", "add", "--all", cwd=project)
    assert_updated(project)
    assert (project / name).read_text(encoding="utf-8").splitlines() == newer


@pytest.mark.parametrize(
    ("tag", "name"),
    [("v0.5.0", "chassis/mcp_chassis/telemetry/metrics.py"), ("v0.6.0", "deploy/kubernetes/base/network.yaml")],
)
def test_M3_an_edited_file_that_the_template_dropped_is_gone_and_the_page_tells_how_to_see_it(
    tag: str, name: str, tmp_path: Path
) -> None:
    project = shutil.copytree(_made(tag), tmp_path / "project")
    with (project / name).open("a", encoding="utf-8") as file:
        file.write("# Ours.\n")
    commit(project, "edited")
    edited = (project / name).read_bytes()

    assert update(project).returncode == 0

    # copier says nothing of it: whoever edited such a file has to look, before or after.
    assert name not in snapshot(project)
    assert conflicts(project, snapshot(project)) == []
    look, back = "git diff --diff-filter=D --name-only HEAD", "git checkout HEAD -- "
    assert name in succeed(*look.split(), cwd=project).splitlines()
    succeed(*back.split(), name, cwd=project)
    assert (project / name).read_bytes() == edited
    assert is_told("nothing, and a file that you edited is gone")
    assert is_told(look)
    assert is_told(f"{back}<file>")


@pytest.mark.parametrize("name", ["docs/updating.md", "UPGRADING.md"])
def test_M3_what_is_done_by_hand_begins_with_a_look_for_edits(name: str) -> None:
    commands = (ROOT / name).read_text(encoding="utf-8").partition("```sh\n")[2].partition("```")[0].splitlines()
    first, second = (line.partition("#")[0].strip() for line in commands[:2])

    assert (first, second) == ("uv run <your-slug> check ownership", "uvx copier update --defaults")


def test_M3_seeds_that_came_later_are_brought_by_one_command(tmp_path: Path) -> None:
    project = shutil.copytree(_updated(), tmp_path / "project")
    (project / "README.md").write_text("# Ours\n", encoding="utf-8")
    commit(project, "ours")
    before = snapshot(project)

    command = "copier recopy --defaults --vcs-ref=:current: --skip '*'"
    succeed(*command.replace("'", "").split(), cwd=project)

    after = snapshot(project)
    assert is_told(command)
    assert {name: after[name] for name in before} == before
    assert {"renovate.json", "deploy/base.Dockerfile"} <= after.keys() - before.keys()
