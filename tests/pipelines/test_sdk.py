"""This repository's own workflow: the suite on the newest SDK and on its newest pre-release (M3)."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.pipelines.executor import Job, Workflow
from tests.pipelines.stand_ins import StandIns
from tests.pipelines.test_checked import SEEN, actionlint, zizmor
from tests.render.support import ROOT, TEMPLATE, run, succeed

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yaml"))
CHASSIS = f"{TEMPLATE}/chassis/pyproject.toml"
SUITE = "The suite on the newest release, then on the newest pre-release"
KNOWN = "mcp<=2.0.0rc1"
"""A day in the past, when the newest release was 1.30.0 and the newest pre-release 2.0.0rc1."""


def test_M3_own_workflows_are_found_faultless_by_actionlint_and_zizmor() -> None:
    assert [path.name for path in WORKFLOWS] == ["sdk.yaml"]
    assert actionlint(ROOT, *WORKFLOWS) == ""
    code, said = zizmor(ROOT)
    assert code == 0, said


def test_M3_own_workflows_pin_actions_that_were_seen_and_ask_for_little() -> None:
    pinned = {f"{one['name']}@{one['digest']} # {one['version']}" for one in SEEN["action"]}

    for path in WORKFLOWS:
        text = path.read_text(encoding="utf-8")
        document = yaml.safe_load(text)
        assert set(re.findall(r"uses: (.+)", text)) <= pinned
        assert document["permissions"] == {}
        assert [job["permissions"] for job in document["jobs"].values()] == [{"contents": "read", "issues": "write"}]


class Clone:
    """What the workflow needs of this repository, with a suite that is red on SDKs of one's choice."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.programs = folder / "clone", StandIns(folder / "stand-ins", real={"uv"})
        for name in ("scripts/newest_sdk.py", ".github/workflows/sdk.yaml", "pyproject.toml", CHASSIS):
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.folder / name)
        # The suite says what it runs on, and fails where `red` matches.
        recipe = 'grep -h "mcp==" */*/pyproject.toml pyproject.toml\n\t@! grep -q "mcp==$${RED}" pyproject.toml'
        script = f"test:\n\t@{recipe} || {{ echo 'FAILED tests/chassis/test_it.py::test_T2'; exit 1; }}\n"
        (self.folder / "Makefile").write_text(script, encoding="utf-8")
        succeed("git", "init", "--quiet", cwd=self.folder)
        succeed("git", "add", "--all", cwd=self.folder)
        succeed("git", "commit", "--quiet", "--message=start", cwd=self.folder)

    def run(self, sdk: str, red: str) -> Job:
        """Run the workflow."""
        (self.folder.parent / "clone-runner/red.md").unlink(missing_ok=True)
        path = os.pathsep.join([str(self.programs.programs), os.environ["PATH"]])
        variables = {**os.environ, "PATH": path, "SDK": sdk, "RED": red}
        (job,) = Workflow(self.folder, "sdk", variables, {}).run().values()
        return job

    def issues(self) -> list[list[str]]:
        """Return what was done to issues so far."""
        calls = self.programs.calls("gh")
        return [call.split()[2:4] for call in calls if call.startswith("gh issue") and "list" not in call]


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    """Return a clone that the workflow runs in."""
    return Clone(tmp_path)


def test_M3_suite_runs_on_the_newest_release_and_on_the_newest_pre_release(clone: Clone) -> None:
    job = clone.run(KNOWN, "none")

    assert job.outcomes[SUITE] == "success", job.said
    assert re.findall(r"^mcp (.+)", job.said, flags=re.MULTILINE) == ["1.30.0", "2.0.0rc1"]
    assert '  "mcp==2.0.0rc1", "mcp-types==2.0.0rc1",\n' in job.said, "rendered projects get it"
    assert 'override-dependencies = ["mcp==2.0.0rc1", "mcp-types==2.0.0rc1"]' in job.said, "over FastMCP's wish"
    assert clone.issues() == []


def test_M3_without_a_newer_pre_release_the_suite_runs_once(clone: Clone) -> None:
    job = clone.run("mcp<=2.0.0", "none")

    assert re.findall(r"^mcp (.+)", job.said, flags=re.MULTILINE) == ["2.0.0"]
    assert "no pre-release is newer than the newest release" in job.said


def test_M3_red_suite_opens_one_issue_that_says_what_failed_and_closes_it(clone: Clone) -> None:
    reds = [clone.run(KNOWN, "2.0.0rc1").result for _ in range(2)]
    body = (clone.programs.state / "body").read_text(encoding="utf-8")
    green = clone.run(KNOWN, "none").result

    assert (reds, green) == (["failure"] * 2, "success")
    assert body.startswith("mcp 2.0.0rc1 is red:\n\n    FAILED tests/chassis/test_it.py::test_T2\n")
    assert body.endswith("/actions/runs/7\n")
    assert clone.issues() == [["create", "--label"], ["edit", "12"], ["close", "12"]]


def test_M3_pin_that_cannot_be_made_opens_the_issue_too(clone: Clone) -> None:
    job = clone.run("no-such-package-of-ours==0", "none")
    body = (clone.programs.state / "body").read_text(encoding="utf-8")

    assert job.result == "failure"
    assert clone.issues() == [["create", "--label"]]
    assert body.startswith("newest_sdk.py --release failed, so nothing was tested:\n\n    ")
    assert "no-such-package-of-ours" in body
    assert "newest_sdk.py --pre failed" in body


def test_M3_suite_that_hangs_is_killed_and_the_run_has_time_for_both() -> None:
    (job,) = yaml.safe_load((ROOT / ".github/workflows/sdk.yaml").read_text(encoding="utf-8"))["jobs"].values()
    suite = next(step for step in job["steps"] if step.get("name") == SUITE)
    opened = next(step for step in job["steps"] if step.get("name", "").startswith("Open an issue"))
    (minutes,) = re.findall(r"timeout (\d+)m make test", suite["run"])

    assert 2 * int(minutes) < job["timeout-minutes"]
    assert opened["if"] == "failure() || cancelled()"


def test_M3_pin_that_is_not_where_it_was_stops_with_words(clone: Clone) -> None:
    path = clone.folder / CHASSIS
    path.write_text(path.read_text(encoding="utf-8").replace('"mcp>=', '"mcp ~= '), encoding="utf-8")

    done = run("python3", "scripts/newest_sdk.py", cwd=clone.folder)

    assert done.returncode == 1
    assert "0 lines are like" in done.stdout
