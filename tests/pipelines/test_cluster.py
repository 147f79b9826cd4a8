"""What pipelines leave to the cluster: a probe each minute, gate 3 after a sync, the image by digest (D6, G3, G5)."""

from __future__ import annotations

import re

import pytest
import yaml

from tests.deploy.kubernetes_build import OVERLAY, Object, build, edited, of_kind, only, parse, pods, replaced
from tests.deploy.kubernetes_schemas import refused_by_the_server
from tests.pipelines.stand_ins import DIGEST
from tests.render.support import AWKWARD, ROOT, Answers, by_copier

GITOPS: Answers = (("delivery", "gitops"), ("database", "postgres"))


@pytest.mark.parametrize("answers", [(), GITOPS, (*GITOPS, *AWKWARD)], ids=["push", "gitops", "awkward"])
def test_D6_probe_and_gate_are_valid_and_as_restricted_as_the_server(answers: Answers) -> None:
    objects = parse(build(by_copier(answers) / OVERLAY))

    assert refused_by_the_server(objects) == []
    for name, pod in pods(objects):
        (container, *_) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name


def test_G5_probe_looks_each_minute_through_the_public_address_and_is_over_before_the_next() -> None:
    job = only(parse(build(by_copier() / OVERLAY)), "CronJob")["spec"]

    assert (job["schedule"], job["concurrencyPolicy"]) == ("* * * * *", "Forbid")
    assert job["jobTemplate"]["spec"]["activeDeadlineSeconds"] < 60
    (container,) = job["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["args"][:2] == ["probe", "https://acme-notes.example.com/mcp"]
    assert "--stream" in container["args"]


def test_G5_probe_s_credential_is_a_secret_that_the_page_names() -> None:
    (one,) = of_kind(parse(build(by_copier() / OVERLAY)), "CronJob")

    volumes = one["spec"]["jobTemplate"]["spec"]["template"]["spec"]["volumes"]
    (secret,) = [volume["secret"]["secretName"] for volume in volumes if "secret" in volume]
    page = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    assert f"the Secret `{secret}` with the key `token`" in page


def test_G3_argo_migrates_then_rolls_out_then_asks_for_two_minutes() -> None:
    objects = parse(build(by_copier(GITOPS) / OVERLAY))
    jobs = {one["metadata"]["name"]: one for one in of_kind(objects, "Job")}

    def told(one: Object, word: str) -> str:
        return str(one["metadata"].get("annotations", {}).get(f"argocd.argoproj.io/{word}", ""))

    migration, gate = jobs["acme-notes-migration"], jobs["acme-notes-gate"]
    assert (told(migration, "hook"), told(gate, "hook")) == ("Sync", "PostSync")
    assert told(migration, "hook-delete-policy") == told(gate, "hook-delete-policy") == "BeforeHookCreation"
    assert int(told(migration, "sync-wave")) < int(told(only(objects, "Deployment"), "sync-wave"))
    (container,) = gate["spec"]["template"]["spec"]["containers"]
    assert "--wait 120 --days 0 --stream" in " ".join(container["args"])
    assert 120 < gate["spec"]["activeDeadlineSeconds"] <= 180


def test_C3_every_container_of_ours_has_the_image_that_the_pipeline_wrote() -> None:
    image = replaced("image/kustomization.yaml", "newTag: 0.1.0", f"digest: {DIGEST}")

    objects = parse(edited(GITOPS, image))

    ours = [container["image"] for _, pod in pods(objects) for container in pod["containers"]]
    assert len(ours) == 4
    assert set(ours) == {f"registry.example.com/acme-notes@{DIGEST}"}


def test_M5_what_a_team_prescribes_is_in_every_object_that_can_hold_it() -> None:
    team = ("team", "{namespace: notes, image_registry: reg.example.com/a, labels: {cost-centre: payments}}")

    objects = parse(build(by_copier((team,)) / OVERLAY))

    assert {one["metadata"].get("namespace", "notes") for one in objects} == {"notes"}
    labelled = {one["kind"] for one in objects if one["metadata"].get("labels", {}).get("cost-centre") == "payments"}
    assert {"Deployment", "Service", "ConfigMap", "NetworkPolicy"} <= labelled
    (container,) = only(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "reg.example.com/a/acme-notes:0.1.0"


MESH: Answers = (("edge", "mesh"), ("database", "postgres"))


@pytest.mark.parametrize("answers", [(), MESH, (("edge", "caddy"),)], ids=["nginx", "mesh", "caddy"])
def test_G6_rights_on_the_page_are_those_that_the_overlay_and_the_pipeline_need(answers: Answers) -> None:
    page = (ROOT / "docs/pipelines.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"<!-- rights -->\n```yaml\n(.*?)```", page, flags=re.DOTALL)
    may = {
        (group, resource): set(rule["verbs"])
        for role in yaml.safe_load_all(block)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }

    for one in parse(build(by_copier(answers) / OVERLAY)):
        group, _, _ = one["apiVersion"].rpartition("/")
        kind = one["kind"].lower()
        right = may[group, f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"]
        assert right >= ({"get", "patch"} if kind == "namespace" else {"get", "create", "patch"}), kind
    assert may["batch", "jobs"] >= {"delete", "get"}
    assert may["apps", "replicasets"] >= {"list"}
    assert not [verb for verbs in may.values() for verb in verbs if verb == "*"]
