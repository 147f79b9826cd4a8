"""A release, run from the tag to the registry: what passes is published, what fails is rolled back (G3, G4, G6)."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import yaml

from tests.pipelines.conftest import Repository
from tests.pipelines.stand_ins import DIGEST

Make = Callable[..., Repository]

IMAGE_FILE = "deploy/kubernetes/overlays/production/image/kustomization.yaml"
OVERLAY_FILE = "deploy/kubernetes/overlays/production/kustomization.yaml"
PUBLIC = ("registry", "public")
FAULTS = {
    "dead server": "no answer within 120 s",
    "vanished tools": "tools/list is empty",
    "buffered stream": "3 events arrived at once",
    "schema drift": "schema/tools.sha256 does not match",
}


def places(calls: list[str], *parts: str) -> list[int]:
    """Return where each part is found first; -1 where it is not."""
    return [next((place for place, call in enumerate(calls) if part in call), -1) for part in parts]


def in_order(calls: list[str], *parts: str) -> bool:
    """Tell whether each part is in a call, one after the other."""
    found = places(calls, *parts)
    return -1 not in found and found == sorted(found)


def test_G6_healthy_release_is_deployed_by_digest_probed_and_published(repository: Make) -> None:
    here = repository(PUBLIC)

    jobs = here.github("deploy")

    assert {name: job.result for name, job in jobs.items()} == dict.fromkeys(
        ("gates", "image", "deploy", "publish"), "success"
    )
    assert jobs["image"].outputs == {"digest": DIGEST}
    assert in_order(
        here.programs.calls(),
        "uv run --locked pytest chassis/gate",
        "uv run --locked acme-notes schema check",
        "uv version --short",
        "docker build --file deploy/Dockerfile --tag registry.acme.test/acme-notes:0.1.0",
        "--format cyclonedx1.5",
        "docker login --username someone --password-stdin registry.acme.test",
        "docker push registry.acme.test/acme-notes:0.1.0",
        "check manifests -f -",
        "kubectl get deployment acme-notes --namespace acme-notes",
        "kubectl apply --filename",
        "kubectl rollout status deployment/acme-notes --namespace acme-notes",
        "probe https://acme-notes.example.com/mcp --token-file",
        "check publish --token-file",
        "mcp-publisher login dns --domain example.com --private-key k3y",
        "mcp-publisher publish",
    )
    assert not [call for call in here.programs.calls() if "undo" in call]
    assert f"digest: {DIGEST}" in (here.project / IMAGE_FILE).read_text(encoding="utf-8")


def test_G3_probe_has_two_minutes_and_expects_schema_and_stream(repository: Make) -> None:
    here = repository()

    here.github("deploy")

    (call,) = [call for call in here.programs.calls("uv") if " probe " in call]
    assert call.endswith("--wait 120 --expect-version 0.1.0 --expect-schema schema/tools.sha256 --stream --days 0")


@pytest.mark.parametrize("fault", FAULTS)
def test_G3_release_that_fails_its_probe_is_rolled_back_and_not_published(repository: Make, fault: str) -> None:
    here = repository(PUBLIC)
    here.programs.break_probe(FAULTS[fault], times=1)

    jobs = here.github("deploy")

    assert FAULTS[fault] in jobs["deploy"].said
    assert [jobs[name].result for name in ("image", "deploy", "publish")] == ["success", "failure", "skipped"]
    assert in_order(
        here.programs.calls(),
        " probe ",
        "kubectl rollout undo deployment/acme-notes --namespace acme-notes --to-revision 41",
    )
    status, again = here.programs.calls()[-2:]
    assert status.startswith("kubectl rollout status")
    assert again.endswith("--wait 120 --stream --days 0"), "the version of before has another schema"
    assert here.programs.calls("mcp-publisher") == []
    assert "revision 41 serves again" in jobs["deploy"].said


def test_G3_version_of_before_that_fails_too_is_not_said_to_serve(repository: Make) -> None:
    here = repository()
    here.programs.break_probe("no answer within 120 s")

    jobs = here.github("deploy")

    assert "serves again" not in jobs["deploy"].said
    assert "revision 41, which is back, fails its probe, too" in jobs["deploy"].said


def test_G3_rollout_that_does_not_end_is_rolled_back_without_a_probe(repository: Make) -> None:
    here = repository(PUBLIC)
    here.programs.fail("rollout status")

    jobs = here.github("deploy")

    assert jobs["publish"].result == "skipped"
    assert [call for call in here.programs.calls() if "rollout undo" in call]
    assert [call for call in here.programs.calls() if "--expect-schema" in call] == []


def test_G3_first_release_that_fails_says_that_there_is_no_way_back(repository: Make) -> None:
    here = repository(PUBLIC)
    here.programs.say("deployed", "")
    here.programs.fail(" probe ")

    jobs = here.github("deploy")

    assert jobs["deploy"].result == "failure"
    assert "no version to go back to" in jobs["deploy"].said
    assert not [call for call in here.programs.calls() if "undo" in call]


@pytest.mark.parametrize("named", ["server.json", "pyproject.toml"])
def test_G4_tag_that_is_not_the_recorded_version_stops_before_the_build(repository: Make, named: str) -> None:
    here = repository(PUBLIC)
    path = here.project / named
    path.write_text(path.read_text(encoding="utf-8").replace("0.1.0", "0.2.0", 1), encoding="utf-8")

    jobs = here.github("deploy")

    assert [job.result for job in jobs.values()] == ["success", "failure", "skipped", "skipped"]
    assert "v0.1.0" in jobs["image"].said
    assert "0.2.0" in jobs["image"].said
    assert here.programs.calls("docker", "kubectl") == []


def test_G4_nothing_is_published_when_the_recorded_address_does_not_answer(repository: Make) -> None:
    here = repository(PUBLIC)
    here.programs.fail("check publish")

    jobs = here.github("deploy")

    assert (jobs["deploy"].result, jobs["publish"].result) == ("success", "failure")
    assert here.programs.calls("mcp-publisher") == []


@pytest.mark.parametrize("registry", ["public", "https://registry.example.com:8443"])
def test_G4_repository_on_github_proves_itself_by_oidc(repository: Make, registry: str) -> None:
    here = repository(("registry", registry), ("organisation", "io.github.acme"))

    here.github("deploy")

    login, publish = here.programs.calls("mcp-publisher")
    more = "" if registry == "public" else f" --registry {registry}"
    assert (login, publish) == (f"mcp-publisher login github-oidc{more}", "mcp-publisher publish")


def test_G4_without_a_registry_there_is_no_job_that_publishes(repository: Make) -> None:
    assert "publish" not in repository().github("deploy")


def test_C3_tampered_publisher_is_not_run(repository: Make) -> None:
    here = repository(PUBLIC)
    (here.programs.programs / "sha256sum").unlink()

    jobs = here.github("deploy")

    assert jobs["publish"].result == "failure"
    assert "FAILED" in jobs["publish"].said
    assert here.programs.calls("mcp-publisher") == []


@pytest.mark.parametrize("secret", ["KUBE_CONFIG", "PROBE_TOKEN"])
def test_G6_missing_secret_stops_with_instructions_before_anything_is_applied(repository: Make, secret: str) -> None:
    here = repository()
    del here.secrets[secret]

    jobs = here.github("deploy")

    assert jobs["deploy"].result == "failure"
    assert "gh secret set" in jobs["deploy"].said
    assert here.programs.calls("kubectl") == []


def test_G6_overlay_that_does_not_use_the_released_image_is_not_applied(repository: Make) -> None:
    here = repository()
    overlay = here.project / "deploy/kubernetes/overlays/production/kustomization.yaml"
    overlay.write_text(re.sub("  - image .*\n", "", overlay.read_text(encoding="utf-8")), encoding="utf-8")

    jobs = here.github("deploy")

    assert "does not use the image of this release" in jobs["deploy"].said
    assert not [call for call in here.programs.calls("kubectl") if "apply" in call or "undo" in call]


def test_D6_migration_ends_before_the_new_version_starts(repository: Make) -> None:
    here = repository(("database", "postgres"))

    here.github("deploy")

    assert in_order(
        here.programs.calls("kubectl"),
        "delete job acme-notes-migration --namespace acme-notes --ignore-not-found",
        "apply --filename",
        "get job acme-notes-migration",
        "rollout status",
    )
    first = (here.programs.state / "applied").read_text(encoding="utf-8").split("# end of one call\n")[0]
    kinds = {one["kind"] for one in yaml.safe_load_all(first) if one}
    assert kinds == {"Namespace", "ServiceAccount", "ConfigMap", "Job"}


def test_D6_failed_migration_leaves_the_old_version_serving(repository: Make) -> None:
    here = repository(("database", "postgres"))
    here.programs.say("migration", "FailureTarget Failed")

    jobs = here.github("deploy")

    assert jobs["deploy"].result == "failure"
    assert "the old version goes on serving" in jobs["deploy"].said
    assert not [call for call in here.programs.calls("kubectl") if "rollout" in call]
    assert here.programs.calls("sleep") == [], "a migration that failed is not waited for"
    assert [call for call in here.programs.calls("kubectl") if "logs job/acme-notes-migration" in call]


GITOPS = ("delivery", "gitops")


def test_G6_gitops_commits_the_digest_and_publishes_when_that_version_answers(repository: Make) -> None:
    here = repository(GITOPS, PUBLIC)

    jobs = here.github("deploy")

    assert {job.result for job in jobs.values()} == {"success"}, jobs["deploy"].said
    assert f"digest: {DIGEST}" in here.on_main(IMAGE_FILE)
    assert in_order(here.programs.calls(), "--expect-version 0.1.0", "mcp-publisher publish")
    assert not [call for call in here.programs.calls("kubectl") if "kustomize" not in call]


def test_G6_gitops_deploys_onto_what_main_became_meanwhile(repository: Make) -> None:
    here = repository(GITOPS)
    here.git("checkout", "--quiet", "-b", "other")
    (here.project / "notes.txt").write_text("Later.\n", encoding="utf-8")
    here.git("add", "notes.txt")
    here.git("commit", "--quiet", "--message=Later")
    here.git("push", "--quiet", "origin", "other:main")
    here.git("checkout", "--quiet", "main")

    jobs = here.github("deploy")

    assert jobs["deploy"].result == "success", jobs["deploy"].said
    assert here.on_main("notes.txt") == "Later.\n"
    assert f"digest: {DIGEST}" in here.on_main(IMAGE_FILE)


@pytest.mark.parametrize("fault", FAULTS)
def test_G3_gitops_reverts_its_commit_when_production_fails(repository: Make, fault: str) -> None:
    here = repository(GITOPS, PUBLIC)
    before = here.on_main(IMAGE_FILE)
    here.programs.break_probe(FAULTS[fault])

    jobs = here.github("deploy")

    assert (jobs["deploy"].result, jobs["publish"].result) == ("failure", "skipped")
    assert here.on_main(IMAGE_FILE) == before
    assert here.git("log", "--format=%s", "FETCH_HEAD", "-1") == "Deploy v0.1.0"
    assert here.programs.calls("mcp-publisher") == []
