"""What GitLab's jobs do that differs from GitHub's: release, way back, credentials, schedules (C3, G3, G5, G6)."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.pipelines.conftest import IMAGE, Repository
from tests.pipelines.executor import gitlab_resolved
from tests.pipelines.stand_ins import DIGEST
from tests.pipelines.test_deploy import IMAGE_FILE, OVERLAY_FILE, PUBLIC, in_order
from tests.pipelines.test_scheduled import first_version as first_version
from tests.render.support import by_copier, succeed

Make = Callable[..., Repository]

GITLAB = ("ci", "gitlab")


@pytest.mark.parametrize("delivery", ["push", "gitops"])
def test_G6_gitlab_deploys_probes_and_publishes(repository: Make, delivery: str) -> None:
    here = repository(GITLAB, ("delivery", delivery), PUBLIC)
    here.secrets["GITOPS_TOKEN"] = TOKEN

    pushed, deploy = here.gitlab("push"), here.gitlab("deploy", DIGEST=DIGEST)
    publish = here.gitlab("publish")

    assert (pushed[0], deploy[0], publish[0]) == (0, 0, 0), deploy[1]
    assert (here.project / "image.env").read_text(encoding="utf-8") == f"DIGEST={DIGEST}\n"
    applied = "kubectl apply" if delivery == "push" else "check manifests"
    assert in_order(
        here.programs.calls(),
        "grype --fail-on high --only-fixed",
        "docker push",
        applied,
        "--expect-version 0.1.0",
        "check publish",
        "mcp-publisher publish",
    )


@pytest.mark.parametrize("delivery", ["push", "gitops"])
def test_G3_gitlab_goes_back_when_production_fails(repository: Make, delivery: str) -> None:
    here = repository(GITLAB, ("delivery", delivery), PUBLIC)
    here.secrets["GITOPS_TOKEN"] = TOKEN
    before = here.on_main(IMAGE_FILE)
    here.programs.break_probe("no answer", times=1)

    code, said = here.gitlab("deploy", DIGEST=DIGEST)

    assert code != 0
    assert here.on_main(IMAGE_FILE) == before
    undone = [call for call in here.programs.calls("kubectl") if "undo" in call]
    assert len(undone) == (1 if delivery == "push" else 0), said
    assert ("revision 41 serves again" in said) is (delivery == "push")
    if delivery == "gitops":
        assert 'Revert "Deploy v0.1.0"' in here.git("log", "--format=%s", "release", "-1")


@pytest.mark.parametrize("gate", ["pytest chassis/gate", "schema check"])
def test_G6_gitlab_release_whose_gate_is_red_goes_no_further(repository: Make, gate: str) -> None:
    here = repository(GITLAB)
    here.programs.fail(gate)
    jobs = yaml.safe_load((here.project / ".gitlab/chassis.yml").read_text(encoding="utf-8"))

    assert here.gitlab("gates")[0] != 0
    assert (jobs["sbom"]["needs"], jobs["push"]["needs"]) == (["gates"], ["sbom"])


@pytest.mark.parametrize("job", ["build", "push"])
def test_C3_gitlab_image_with_a_hole_is_not_pushed(repository: Make, job: str) -> None:
    here = repository(GITLAB)
    here.programs.fail("grype")

    assert here.gitlab(job)[0] != 0
    assert not [call for call in here.programs.calls("docker") if "push" in call or "login" in call]


def test_C3_gitlab_credentials_go_to_the_registry_that_they_are_for(repository: Make) -> None:
    here = repository(GITLAB)
    del here.secrets["REGISTRY_PASSWORD"], here.secrets["REGISTRY_USERNAME"]

    code, said = here.gitlab("push")
    calls = here.programs.calls("docker")
    own, _ = here.gitlab("push", CI_REGISTRY=IMAGE.split("/", maxsplit=1)[0])

    assert (code != 0, calls, own) == (True, [], 0)
    assert "needs the variables REGISTRY_USERNAME and REGISTRY_PASSWORD" in said
    assert "docker login --username gitlab-ci-token --password-stdin registry.acme.test" in here.programs.calls()


def test_C3_gitlab_registry_of_the_example_is_refused_before_the_build(repository: Make) -> None:
    here = repository(GITLAB, ("team", "{}"))

    code, said = here.gitlab("push")

    assert code != 0
    assert "team={image_registry: HOST/PATH}" in said
    assert here.programs.calls("docker") == []


@pytest.mark.parametrize("written", ["namespace: 'notes'", ""])
def test_G3_gitlab_takes_the_namespace_of_the_manifests_or_stops(repository: Make, written: str) -> None:
    here = repository(GITLAB)
    overlay = here.project / OVERLAY_FILE
    overlay.write_text(re.sub("(?m)^namespace: .*", written, overlay.read_text("utf-8")), encoding="utf-8")

    code, said = here.gitlab("deploy", DIGEST=DIGEST)

    applied = [call for call in here.programs.calls("kubectl") if " apply " in call]
    assert (code, len(applied)) == ((0, 1) if written else (1, 0)), said
    assert written or "no namespace in the manifests" in said


@pytest.mark.parametrize("state", ["Failed", "Complete"])
def test_D6_gitlab_migration_gets_what_it_needs_and_its_end_is_seen(repository: Make, state: str) -> None:
    here = repository(GITLAB, ("database", "postgres"))
    here.programs.say("migration", state)

    code, said = here.gitlab("deploy", DIGEST=DIGEST)

    first = (here.programs.state / "applied").read_text(encoding="utf-8").split("# end of one call\n")[0]
    assert {one["kind"] for one in yaml.safe_load_all(first) if one} == {
        "Namespace",
        "ServiceAccount",
        "ConfigMap",
        "Job",
    }
    assert (code == 0) is (state == "Complete")
    assert ("the old version goes on serving" in said) is (state == "Failed")
    assert here.programs.calls("sleep") == []
    assert bool([call for call in here.programs.calls() if "logs job/" in call]) is (state == "Failed")


@pytest.mark.parametrize("missing", ["KUBE_CONFIG", "PROBE_TOKEN"])
def test_G6_gitlab_missing_variable_stops_before_anything_is_applied(repository: Make, missing: str) -> None:
    here = repository(GITLAB)
    del here.secrets[missing]

    code, said = here.gitlab("deploy", DIGEST=DIGEST)

    assert code != 0
    assert "variables KUBE_CONFIG and PROBE_TOKEN, of type file" in said
    assert here.programs.calls("kubectl") == []


def seconds(text: str) -> int:
    """Return a time of GitLab's, such as `44m` or `60 minutes`."""
    return int(re.findall(r"\d+", text)[0]) * 60


@pytest.mark.parametrize("delivery", ["push", "gitops"])
def test_G3_gitlab_job_that_hangs_has_time_left_for_the_way_back(delivery: str) -> None:
    text = (by_copier((GITLAB, ("delivery", delivery))) / ".gitlab/chassis.yml").read_text(encoding="utf-8")

    job = gitlab_resolved(yaml.safe_load(text), "deploy")

    script, after = (job["variables"][f"RUNNER_{part}_TIMEOUT"] for part in ("SCRIPT", "AFTER_SCRIPT"))
    assert seconds(script) + seconds(after) < seconds(job["timeout"])
    back = [seconds(one) for one in re.findall(r"--timeout (\d+m)", "\n".join(job["after_script"]))]
    assert sum(back) + 120 < seconds(after)


WATCHER = """#!/bin/bash
printf 'git %s\\n' "$*" >>"{state}/calls"
before=()
for word in "$@"; do
  [ "$word" != push ] || printf 'protocol=https\\nhost=git.example.com\\n\\n' |
    {git} "${{before[@]}}" credential fill >>"{state}/credentials"
  before+=("$word")
done
exec {git} "$@"
"""
TOKEN = "s3cret-of-the-push"


def watch_git(here: Repository) -> Path:
    """Write down git's calls, and what it would log in with at each push; return that file."""
    path = here.programs.programs / "git"
    path.write_text(WATCHER.format(state=here.programs.state, git=shutil.which("git")), encoding="utf-8")
    path.chmod(0o755)
    return here.programs.state / "credentials"


def kept_out(here: Repository) -> bool:
    """Tell whether the token is in no argument and not in the clone's configuration."""
    texts = [*here.programs.calls(), (here.project / ".git/config").read_text(encoding="utf-8")]
    return not [text for text in texts if TOKEN in text]


def test_C3_gitlab_token_of_gitops_is_given_for_the_push_alone(repository: Make) -> None:
    here = repository(GITLAB, ("delivery", "gitops"))
    here.secrets["GITOPS_TOKEN"] = TOKEN
    asked = watch_git(here)
    here.programs.break_probe("no answer")

    here.gitlab("deploy", DIGEST=DIGEST)

    assert asked.read_text(encoding="utf-8").count(f"username=gitops\npassword={TOKEN}\n") == 2, "deploy and revert"
    assert kept_out(here)


def test_G6_gitlab_update_pushes_with_its_token_and_brings_the_changelog(repository: Make, first_version: Path) -> None:
    here = repository(source=first_version)
    gitlab = by_copier((GITLAB,)) / ".gitlab"
    shutil.copytree(gitlab, here.project / ".gitlab")
    here.git("add", "--all")
    here.git("commit", "--quiet", "--message=gitlab")
    here.secrets["UPDATE_TOKEN"] = TOKEN
    asked = watch_git(here)

    code, said = here.gitlab("update")

    assert code == 0, said
    message = succeed("git", "log", "-1", "--format=%B", "chassis-update", cwd=here.remote)
    assert message.startswith("Update MCP Chassis to v2.0.0\n")
    assert "The new one." in message
    assert "The first." not in message
    assert f"password={TOKEN}" in asked.read_text(encoding="utf-8")
    assert kept_out(here)


def test_G4_gitlab_cannot_prove_a_repository_of_github_and_has_no_job_for_it() -> None:
    answers = (GITLAB, PUBLIC, ("organisation", "io.github.acme"))

    jobs = yaml.safe_load((by_copier(answers) / ".gitlab/chassis.yml").read_text(encoding="utf-8"))

    assert "publish" not in jobs


@pytest.mark.parametrize(("times", "code"), [(0, 0), (99, 1)])
def test_G5_gitlab_probe_without_a_token_for_issues_is_as_green_as_production(
    repository: Make, times: int, code: int
) -> None:
    here = repository(GITLAB)
    here.programs.break_probe("tools/list is empty", times=times)

    assert here.gitlab("probe")[0] == code
    assert [call for call in here.programs.calls("curl") if "issues" in call] == []


def test_G5_gitlab_probe_that_cannot_look_opens_no_issue(repository: Make) -> None:
    here = repository(GITLAB)
    here.secrets["ISSUE_TOKEN"] = "t"
    here.programs.break_probe("no such file")
    here.programs.say("probe-code", "2")

    code, said = here.gitlab("probe")

    assert code == 1
    assert "this is no outage" in said
    assert [call for call in here.programs.calls("curl") if "issues" in call] == []


def test_G5_gitlab_probe_expects_the_schema_of_the_newest_release(repository: Make) -> None:
    here = repository(GITLAB)
    here.gitlab("probe")
    (here.project / "schema").mkdir()
    (here.project / "schema/tools.sha256").write_text("released  tools.json\n", encoding="utf-8")
    here.git("add", "schema")
    here.git("commit", "--quiet", "--message=Schema")
    here.git("tag", "v0.1.0")
    (here.project / "schema/tools.sha256").write_text("merged  tools.json\n", encoding="utf-8")
    here.gitlab("probe")

    before, after = [call for call in here.programs.calls("uv") if " probe " in call]
    assert "--expect-schema" not in before
    (expected,) = re.findall(r"--expect-schema (\S+)", after)
    assert Path(expected).read_text(encoding="utf-8") == "released  tools.json\n"
