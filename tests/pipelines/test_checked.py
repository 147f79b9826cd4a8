"""What the linters of others say about the pipelines of every render, and what is pinned (C3, G6, M5)."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from mcp_chassis.checks.policy import LISTS, NUMBERS
from tests.pipelines.executor import gitlab_resolved
from tests.render.support import QUESTIONS, ROOT, TEMPLATE, Answers, by_copier, label, matrix, run

every_answer = pytest.mark.parametrize("answers", matrix(), ids=label)
SEEN: dict[str, list[dict[str, str]]] = tomllib.loads(Path(__file__).with_name("actions.toml").read_text("utf-8"))
LARGEST: Answers = (
    ("ci", "both"),
    ("registry", "public"),
    ("database", "postgres"),
    ("organisation", "io.github.acme"),
)


def workflows(project: Path) -> list[Path]:
    """Return the workflows of a project."""
    return sorted((project / ".github/workflows").glob("*.yaml"))


def jobs(project: Path) -> dict[str, dict[str, Any]]:
    """Map each job of GitHub's workflows, by file and name, to what it says."""
    return {
        f"{path.stem}: {name}": job
        for path in workflows(project)
        for name, job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].items()
    }


def gitlab(project: Path) -> dict[str, dict[str, Any]]:
    """Map each job that GitLab runs to what it says, with what it extends."""
    path = project / ".gitlab/chassis.yml"
    document = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {
        name: gitlab_resolved(document, name)
        for name, job in document.items()
        if isinstance(job, dict) and "stage" in gitlab_resolved(document, name) and not name.startswith(".")
    }


def actionlint(project: Path, *paths: Path) -> str:
    """Return what actionlint finds, shellcheck included; the labels of a team's runners are nobody's business."""
    done = run("actionlint", "-no-color", "-oneline", "-ignore", 'label ".+" is unknown', *paths, cwd=project)
    return done.stdout


def zizmor(project: Path) -> tuple[int, str]:
    """Return zizmor's exit code and what it says."""
    done = run("zizmor", "--offline", "--no-progress", "--no-config", ".github", cwd=project)
    return done.returncode, done.stdout


@every_answer
def test_G6_files_of_the_chosen_system_are_there_and_the_others_are_not(answers: Answers) -> None:
    project, ci = by_copier(answers), dict(answers)["ci"]

    assert [path.stem for path in workflows(project)] == ([] if ci == "gitlab" else ["ci", "deploy", "probe", "update"])
    assert [(project / name).exists() for name in (".gitlab-ci.yml", ".gitlab/chassis.yml")] == [ci != "github"] * 2
    assert (project / ".github").exists() is (ci != "gitlab")
    gitops = (project / "deploy/kubernetes/gitops").exists()
    assert gitops is (dict(answers)["delivery"] == "gitops")


@every_answer
def test_G6_actionlint_and_shellcheck_find_nothing(answers: Answers) -> None:
    if found := workflows(by_copier(answers)):
        assert actionlint(by_copier(answers), *found) == ""


@every_answer
def test_G6_zizmor_finds_nothing(answers: Answers) -> None:
    if workflows(by_copier(answers)):
        code, said = zizmor(by_copier(answers))
        assert code == 0, said


@every_answer
@pytest.mark.parametrize(
    ("schema", "pattern"),
    [("github-workflows", ".github/workflows/*"), ("gitlab-ci", ".gitlab*/**/*.yml"), ("renovate", "renovate.json")],
)
def test_G6_schemas_of_the_systems_accept_the_files(answers: Answers, schema: str, pattern: str) -> None:
    paths = sorted({*by_copier(answers).glob(pattern), *by_copier(answers).glob(pattern.replace("*/**/*", "-ci"))})

    if paths:
        done = run("check-jsonschema", "--builtin-schema", f"vendor.{schema}", *paths, cwd=by_copier(answers))
        assert done.returncode == 0, done.stdout


@every_answer
def test_G6_each_job_has_a_time_limit_and_the_teams_runner(answers: Answers) -> None:
    project = by_copier(answers)
    recorded = yaml.safe_load((project / ".copier-answers.yml").read_text(encoding="utf-8"))["team"]

    for name, job in jobs(project).items():
        assert 5 <= job["timeout-minutes"] <= 60, name
        assert job["runs-on"] == recorded.get("runner", "ubuntu-24.04"), name
    for name, job in gitlab(project).items():
        assert re.fullmatch(r"\d+ minutes", job["timeout"]), name
        assert job.get("tags") == ([recorded["runner"]] if "runner" in recorded else None), name


@every_answer
def test_G6_workflows_begin_with_no_permission_and_name_a_concurrency(answers: Answers) -> None:
    for path in workflows(by_copier(answers)):
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert document["permissions"] == {}, path
        assert document["concurrency"]["group"], path


def test_G6_permissions_are_these_and_no_more() -> None:
    may = {
        name: {scope for scope, right in job.get("permissions", {}).items() if right == "write"}
        for name, job in jobs(by_copier(LARGEST)).items()
    }

    assert {name: scopes for name, scopes in may.items() if scopes} == {
        "deploy: image": {"packages", "id-token", "attestations"},
        "deploy: publish": {"id-token"},
        "probe: probe": {"issues"},
    }


def test_G6_required_job_waits_for_every_other() -> None:
    names = {name.removeprefix("ci: ") for name in jobs(by_copier()) if name.startswith("ci: ")}

    assert set(jobs(by_copier())["ci: ci"]["needs"]) == names - {"ci"}


def test_C3_each_action_is_pinned_by_a_digest_that_was_seen() -> None:
    pinned = {f"{one['name']}@{one['digest']} # {one['version']}" for one in SEEN["action"]}

    used = {
        match
        for path in workflows(ROOT / TEMPLATE)
        for match in re.findall(r"uses: (.+)", path.read_text(encoding="utf-8"))
    }

    assert used == pinned
    assert all(re.fullmatch("[0-9a-f]{40}", one["digest"]) and one["seen"] for one in SEEN["action"])


@pytest.mark.parametrize("folder", [".github", ".gitlab"])
def test_C3_each_downloaded_program_is_pinned_by_a_digest_that_was_seen(folder: str) -> None:
    pinned = {f"{one['digest']}  {one['name']}" for one in SEEN["archive"] if one.get("only", folder) == folder}

    texts = [path.read_text(encoding="utf-8") for path in (ROOT / TEMPLATE / folder).rglob("*.y*ml")]

    assert {match for text in texts for match in re.findall(r"[0-9a-f]{64}  \S+", text)} == pinned
    downloads = [text.count("curl --fail --silent --show-error --location") for text in texts]
    assert downloads == [text.count("sha256sum --check") for text in texts]


def test_C3_uv_and_python_are_the_images_own_versions() -> None:
    image = (ROOT / TEMPLATE / "deploy/Dockerfile").read_text(encoding="utf-8")
    (uv,) = re.findall(r"ARG UV_VERSION=(\S+)", image)
    (python,) = re.findall(r"'python:([\d.]+)-", image)

    for path in workflows(ROOT / TEMPLATE):
        for given in re.findall(r"version: ([\d.]+), python-version: \"([\d.]+)\"", path.read_text(encoding="utf-8")):
            assert given == (uv, python), path
    text = (ROOT / TEMPLATE / ".gitlab/chassis.yml").read_text(encoding="utf-8")
    assert f"uv=={uv}\n" in text
    assert f'UV_PYTHON: "{python}"' in text
    assert f"FROM python:{python}-slim-trixie\n" in (by_copier() / "deploy/base.Dockerfile").read_text(encoding="utf-8")


def test_C3_renovate_leaves_the_templates_workflows_and_the_pipelines_file_alone() -> None:
    told = json.loads((by_copier() / "renovate.json").read_text(encoding="utf-8"))

    assert {f".github/workflows/{path.name}" for path in workflows(by_copier())} <= set(told["ignorePaths"])
    assert not [path for path in told["includePaths"] if path.startswith(("chassis", "deploy/Dockerfile", "deploy/**"))]
    assert {"matchManagers": ["copier"], "enabled": False} in told["packageRules"]


BROKEN = {
    "an unknown key": ("timeout-minutes: 20", "time-out: 20", "actionlint"),
    "a variable that splits": ('"$SERVER:ci"', "$SERVER:ci", "actionlint"),
    "a job that is not there": ("needs: [check,", "needs: [chek,", "actionlint"),
    "an action by its tag": ("@3d3c42e5aac5ba805825da76410c181273ba90b1", "@v7", "zizmor"),
    "credentials that stay": ("with: {persist-credentials: false}", "with: {fetch-depth: 1}", "zizmor"),
    "an injection": ("run: uv sync --locked", "run: echo ${{ github.event.pull_request.title }}", "zizmor"),
    "every permission": ("permissions: {}", "permissions: write-all", "zizmor"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_C3_broken_workflow_is_found(fault: str, tmp_path: Path) -> None:
    old, new, finder = BROKEN[fault]
    project = shutil.copytree(by_copier(), tmp_path / "project")
    path = project / ".github/workflows/ci.yaml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")

    assert actionlint(project, path) if finder == "actionlint" else zizmor(project)[0]


def test_G6_page_names_every_secret_variable_and_key_that_the_pipelines_read() -> None:
    page = (ROOT / "docs/pipelines.md").read_text(encoding="utf-8")
    texts = "".join(path.read_text(encoding="utf-8") for path in (ROOT / TEMPLATE).rglob("*") if is_pipeline(path))

    read = set(re.findall(r"(?:secrets|vars)\.(\w+)", texts)) | {"ISSUE_TOKEN", "SYNC_TIMEOUT", "SCHEDULE"}

    assert {name for name in read if name not in page} == set()


def test_M5_page_names_every_key_of_a_team_and_every_rule_of_a_policy() -> None:
    page = (ROOT / "docs/platform.md").read_text(encoding="utf-8")

    keys = {one or other for one, other in re.findall(r"'(\w+)': '\^|key == '(\w+)'", QUESTIONS["team"]["validator"])}

    assert set(re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE)) == keys | {*LISTS, *NUMBERS}


def is_pipeline(path: Path) -> bool:
    """Tell whether a path of the template is a file of a pipeline."""
    return path.suffix in {".yaml", ".yml"} and any(part in {".github", ".gitlab"} for part in path.parts)


def test_G2_new_project_is_told_to_write_its_contract_before_the_first_commit() -> None:
    message = yaml.safe_load((ROOT / "copier.yml").read_text(encoding="utf-8"))["_message_after_copy"]
    hour = (ROOT / "README.md").read_text(encoding="utf-8").partition("<!-- run: copy -->")[2].partition("<!-- run")[0]

    for text in (message, hour):
        assert 0 < text.find(" schema write ") < text.find("git add --all")


def test_G6_updates_run_the_copier_that_was_tested() -> None:
    texts = "".join(path.read_text(encoding="utf-8") for path in (ROOT / TEMPLATE).rglob("*") if is_pipeline(path))

    assert set(re.findall(r"uvx '?copier(\S*) update --defaults --conflict", texts)) == {f"@{version('copier')}"}


def test_G6_page_s_workflow_for_compose_is_a_good_one(tmp_path: Path) -> None:
    page = (ROOT / "docs/pipelines.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(name: compose\n.*?)```", page, flags=re.DOTALL)
    path = tmp_path / "compose.yaml"
    path.write_text(block, encoding="utf-8")

    assert actionlint(tmp_path, path) == ""
