"""What a release is refused for before it does harm, and what it goes by: gates, namespace, registry (C3, G3, G6)."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.pipelines.conftest import Repository
from tests.pipelines.test_deploy import GITOPS, OVERLAY_FILE

Make = Callable[..., Repository]


@pytest.mark.parametrize("gate", ["pytest chassis/gate", "schema check"])
def test_G6_release_whose_gate_is_red_builds_nothing(repository: Make, gate: str) -> None:
    here = repository()
    here.programs.fail(gate)

    jobs = here.github("deploy")

    assert [job.result for job in jobs.values()] == ["failure", "skipped", "skipped"]
    assert here.programs.calls("docker", "kubectl") == []


@pytest.mark.parametrize("written", ["namespace: 'notes'", 'namespace: "notes"', "namespace: notes  # ours"])
def test_G3_namespace_is_the_one_that_the_manifests_have(repository: Make, written: str) -> None:
    here = repository()
    overlay = here.project / OVERLAY_FILE
    overlay.write_text(re.sub("(?m)^namespace: .*", written, overlay.read_text("utf-8")), encoding="utf-8")
    here.programs.fail("rollout status")

    here.github("deploy")

    calls = [call for call in here.programs.calls("kubectl") if " deployment" in call]
    assert calls
    assert [call for call in calls if "--namespace notes " not in call] == []
    assert [call for call in calls if "undo" in call]


def test_G3_manifests_without_a_namespace_are_not_applied(repository: Make) -> None:
    here = repository()
    overlay = here.project / OVERLAY_FILE
    overlay.write_text(re.sub("(?m)^namespace: .*", "", overlay.read_text("utf-8")), encoding="utf-8")

    jobs = here.github("deploy")

    assert "write one into deploy/kubernetes/overlays/production/kustomization.yaml" in jobs["deploy"].said
    assert not [call for call in here.programs.calls("kubectl") if "kustomize" not in call]


def test_C3_registry_of_the_example_is_refused_before_the_build(repository: Make) -> None:
    here = repository(("team", "{}"))

    jobs = here.github("deploy")

    assert jobs["image"].result == "failure"
    assert "team={image_registry: HOST/PATH}" in jobs["image"].said
    assert here.programs.calls("docker") == []


def test_C3_workflow_s_own_token_goes_to_the_registry_that_is_named_and_to_no_other(repository: Make) -> None:
    here = repository()
    del here.secrets["REGISTRY_PASSWORD"], here.secrets["REGISTRY_USERNAME"]

    refused = here.github("deploy")["image"]
    calls = here.programs.calls("docker")
    here.settings["OWN_REGISTRY"] = "registry.acme.test"
    pushed = here.github("deploy")["image"]

    assert (refused.result, calls) == ("failure", [])
    assert "gh variable set OWN_REGISTRY --body registry.acme.test" in refused.said
    assert pushed.result == "success", pushed.said


def test_G6_gitops_waits_as_long_as_the_variable_says(repository: Make) -> None:
    here = repository(GITOPS)

    here.github("deploy")
    here.settings["SYNC_TIMEOUT"] = "77"
    here.github("deploy")

    waits = [re.findall(r"--wait (\d+)", call)[0] for call in here.programs.calls("uv") if " probe " in call]
    assert waits == ["1200", "77"]
