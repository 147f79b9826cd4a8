"""What runs by the clock, and on each push: the probe, the update, the checks (G5, G6, M3)."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pipelines.conftest import Repository
from tests.render.support import ANSWERS_FILE, run, succeed
from tests.render.test_update import make_project, template_with_two_versions
from tests.update.releases import current_version

Make = Callable[..., Repository]

COMMANDS = [
    "uv sync --locked",
    "uv run ruff check",
    "uv run ruff format --check",
    "uv run mypy",
    "uv run pytest",
    "uv run pytest chassis/gate",
    "uv run acme-notes schema check",
    "uv run acme-notes refresh --check",
    "uv run acme-notes check ownership",
    "uv run acme-notes ops resources verify",
]


def test_G5_probe_that_fails_once_or_twice_tells_nobody(repository: Make) -> None:
    here = repository()
    here.programs.break_probe("tools/list is empty", times=2)

    jobs = here.github("probe")

    assert jobs["probe"].result == "success"
    assert here.programs.calls("sleep") == ["sleep 60"] * 2
    assert [call for call in here.programs.calls("gh") if "list" not in call] == []


def test_G5_probe_that_fails_three_times_opens_one_issue_and_closes_it(repository: Make) -> None:
    here = repository()
    here.programs.break_probe("tools/list is empty", times=6)

    outages = [here.github("probe")["probe"].result for _ in range(2)]
    body = (here.programs.state / "body").read_text(encoding="utf-8")
    recovered = here.github("probe")["probe"].result
    here.github("probe")

    assert (outages, recovered) == (["failure"] * 2, "success")
    assert "    tools/list is empty" in body
    changes = [
        call.split()[2:4] for call in here.programs.calls("gh") if call.startswith("gh issue") and "list" not in call
    ]
    assert changes == [["create", "--label"], ["edit", "12"], ["close", "12"]]


@pytest.mark.parametrize("fault", [(), ("uv sync",)], ids=["wrong usage", "no prober"])
def test_G5_failure_that_is_not_productions_opens_no_issue(repository: Make, fault: tuple[str, ...]) -> None:
    here = repository()
    here.programs.fail(*fault)
    here.programs.break_probe("no such file")
    here.programs.say("probe-code", "2")

    jobs = here.github("probe")

    assert jobs["probe"].result == "failure"
    assert ("this is no outage" in jobs["probe"].said) is (not fault)
    assert here.programs.calls("gh") == []
    assert len([call for call in here.programs.calls("uv") if " probe " in call]) == (0 if fault else 1)


@pytest.mark.parametrize("said", ["", "dns       ok\n"])
def test_G5_probe_that_the_time_limit_ends_opens_an_issue_that_says_so(repository: Make, said: str) -> None:
    here = repository()
    temporary = here.project.parent / f"{here.project.name}-runner"
    temporary.mkdir()
    if said:
        (temporary / "probe.txt").write_text(said, encoding="utf-8")

    jobs = here.github("probe", CUT_OFF="Probe, three times before it counts")

    assert jobs["probe"].result == "cancelled"
    body = (here.programs.state / "body").read_text(encoding="utf-8")
    assert "cut off before it had an answer" in body
    assert said.strip() in body


def test_G5_probe_expects_the_schema_of_the_newest_release_and_none_before_it(repository: Make) -> None:
    here = repository()
    here.github("probe")
    (here.project / "schema").mkdir()
    (here.project / "schema/tools.sha256").write_text("released  tools.json\n", encoding="utf-8")
    here.git("add", "schema")
    here.git("commit", "--quiet", "--message=Schema")
    here.git("tag", "v0.1.0")
    (here.project / "schema/tools.sha256").write_text("merged  tools.json\n", encoding="utf-8")
    here.git("commit", "--quiet", "--all", "--message=Another schema")
    here.github("probe")

    before, after = [call for call in here.programs.calls("uv") if " probe " in call]
    assert "--expect-schema" not in before
    (expected,) = re.findall(r"--expect-schema (\S+)", after)
    assert Path(expected).read_text(encoding="utf-8") == "released  tools.json\n"


def test_G5_gitlab_opens_changes_and_closes_one_issue(repository: Make) -> None:
    here = repository(("ci", "gitlab"))
    here.secrets["ISSUE_TOKEN"] = "t"
    here.programs.say("issues", "[]")
    here.programs.break_probe("tools/list is empty", times=6)

    codes = [here.gitlab("probe")[0]]
    here.programs.say("issues", '[{"iid": 5}]')
    codes += [here.gitlab("probe")[0] for _ in range(2)]

    assert codes == [1, 1, 0]
    changed = [call for call in here.programs.calls("curl") if "labels=production-probe&state" not in call]
    assert "--data labels=production-probe" in changed[0]
    assert changed[1].endswith(
        "--data-urlencode description@issue.md https://git.example.com/api/v4/projects/7/issues/5"
    )
    assert "--data state_event=close" in changed[2]
    assert not [call for call in here.programs.calls("curl") if " t " in call], "the token stays out of the arguments"


@pytest.fixture(scope="module")
def first_version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project of the template's first version; the template has a second one, with a changelog."""
    folder = tmp_path_factory.mktemp("versions")
    template = template_with_two_versions(folder / "template")
    succeed("git", "checkout", "--quiet", "main", cwd=template)
    known = current_version()  # the one that the project has in its files, whatever the tag is called
    changes = f"# Changes\n\n## 2.0.0\n\nThe new one.\n\n## {known}\n\nThe first.\n"
    (template / "CHANGELOG.md").write_text(changes, encoding="utf-8")
    succeed("git", "add", "--all", cwd=template)
    succeed("git", "commit", "--quiet", "--message=changelog", cwd=template)
    succeed("git", "tag", "--force", "v2.0.0", cwd=template)
    return make_project("copier", template, folder / "made")


@pytest.fixture
def lived_in(repository: Make, first_version: Path) -> Repository:
    """Return a repository of a project that can be updated."""
    return repository(source=first_version)


def test_G6_update_opens_a_pull_request_with_the_changelog(lived_in: Repository) -> None:
    jobs = lived_in.github("update")

    assert jobs["update"].result == "success", jobs["update"].said
    assert "_commit: v2.0.0" in succeed("git", "show", f"chassis-update:{ANSWERS_FILE}", cwd=lived_in.remote)
    body = (lived_in.programs.state / "body").read_text(encoding="utf-8")
    assert "v1.0.0 → v2.0.0" in body
    assert "The new one." in body
    assert "The first." not in body
    assert [call for call in lived_in.programs.calls("uv", "gh") if "refresh" in call or "pr create" in call]


def test_G6_update_brings_the_open_pull_request_up_to_date(lived_in: Repository) -> None:
    lived_in.programs.say("pull-request", "8")

    jobs = lived_in.github("update")

    assert jobs["update"].result == "success", jobs["update"].said
    assert [
        call
        for call in lived_in.programs.calls("gh")
        if call.startswith("gh pr list --head chassis-update --state open")
    ]
    assert [call for call in lived_in.programs.calls("gh") if call.startswith("gh pr edit 8 ")]
    assert not [call for call in lived_in.programs.calls("gh") if "pr create" in call]


def test_G6_update_with_nothing_new_opens_nothing(lived_in: Repository) -> None:
    lived_in.github("update")
    lived_in.git("checkout", "--quiet", "-B", "main")
    before = len(lived_in.programs.calls("gh"))

    jobs = lived_in.github("update")

    assert jobs["update"].result == "success"
    assert "Nothing new since v2.0.0" in jobs["update"].said
    assert [call for call in lived_in.programs.calls("gh")[before:] if " pr " in call] == []


def edit_a_file_of_the_templates(here: Repository) -> None:
    """Add a line where the template's second version adds another, and commit it."""
    path = here.project / "deploy/Dockerfile"
    path.write_text(path.read_text(encoding="utf-8") + "\nMine.\n", encoding="utf-8")
    here.git("commit", "--quiet", "--all", "--message=mine")


def test_G6_update_that_leaves_an_unmerged_file_fails_and_names_it(lived_in: Repository) -> None:
    edit_a_file_of_the_templates(lived_in)

    jobs = lived_in.github("update")

    assert jobs["update"].result == "failure"
    assert jobs["update"].outcomes["Update"] == "failure"
    assert "from v1.0.0 to v2.0.0 does not fit" in jobs["update"].said
    assert "\ndeploy/Dockerfile\n" in jobs["update"].said
    assert run("git", "rev-parse", "chassis-update", cwd=lived_in.remote).returncode != 0
    assert [call for call in lived_in.programs.calls("gh") if " pr " in call] == []


def test_G6_update_without_a_token_stops_with_instructions_before_anything(lived_in: Repository) -> None:
    del lived_in.secrets["UPDATE_TOKEN"]

    jobs = lived_in.github("update")

    assert jobs["update"].result == "failure"
    assert "gh secret set UPDATE_TOKEN" in jobs["update"].said
    assert [name for name, outcome in jobs["update"].outcomes.items() if outcome != "skipped"] == [
        "A token that may change workflows"
    ]
    assert lived_in.programs.calls() == []


def test_C3_on_each_push_every_gate_is_called_in_order(repository: Make) -> None:
    here = repository()

    jobs = here.github("ci")

    assert {name: job.result for name, job in jobs.items()} == dict.fromkeys(
        ("check", "deployment", "image", "scan", "ci"), "success"
    ), [job.said for job in jobs.values()]
    assert [call for call in here.programs.calls("uv") if call in COMMANDS] == COMMANDS
    others = [
        "check timeouts",
        "check manifests",
        "docker build",
        "gitleaks git --no-banner --redact",
        "audit --locked",
    ]
    assert [part for part in others if not [call for call in here.programs.calls() if part in call]] == []


@pytest.mark.parametrize("gate", [*COMMANDS, "check timeouts", "check manifests", "gitleaks git", "audit --locked"])
def test_C3_one_red_gate_fails_the_required_job(repository: Make, gate: str) -> None:
    here = repository()
    here.programs.fail(gate)

    jobs = here.github("ci")

    assert jobs["ci"].result == "failure"
    assert "not every job succeeded" in jobs["ci"].said


def test_C3_gitlab_calls_the_same_gates(repository: Make) -> None:
    here = repository(("ci", "gitlab"))

    ended = {job: here.gitlab(job) for job in ("check", "deployment", "build", "scan", "sbom", "gates")}

    assert {job: code for job, (code, _) in ended.items()} == dict.fromkeys(ended, 0), ended
    assert [call for call in here.programs.calls("uv") if call in COMMANDS] == COMMANDS


def test_C3_image_is_built_on_the_base_that_is_pinned(repository: Make) -> None:
    here = repository()
    pinned = "python:3.13-slim-trixie@sha256:" + "ab" * 32
    (here.project / "deploy/base.Dockerfile").write_text(f"# Yours.\nFROM {pinned}\n", encoding="utf-8")

    here.github("ci")
    (here.project / "deploy/base.Dockerfile").unlink()
    said = here.github("ci")["image"].said

    assert "No such file" not in said
    first, second = here.programs.calls("docker")
    assert f"--build-arg BASE_IMAGE={pinned} " in first
    assert "BASE_IMAGE" not in second
