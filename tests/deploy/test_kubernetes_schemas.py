"""Every object of every combination of answers is what a cluster takes and a policy checker lets pass (D5, D6)."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Final

import pytest

from tests.deploy.kubernetes_build import (
    OVERLAY,
    Edit,
    build,
    edited,
    of_kind,
    only,
    parse,
    production,
    with_external_secrets,
    with_ingress,
)
from tests.deploy.kubernetes_schemas import is_custom, refused_by_operators, refused_by_the_server, versions
from tests.render.support import Answers, by_copier, label, matrix, run, succeed

pytestmark = pytest.mark.xdist_group("kubernetes")

CHECKOV: Final = ("uv", "tool", "run", "--quiet", "--from", "checkov==3.3.30", "python")
EACH_APART: Final = """
import os, sys
from checkov.main import Checkov
for name in sys.argv[1:]:
    if os.fork() == 0:
        sys.stdout = open(f"{name}.json", "w", encoding="utf-8")
        options = ["--framework", "kubernetes", "--skip-download", "--compact", "--quiet", "--output", "json"]
        try:
            Checkov([*options, "--file", name]).run()
        finally:
            sys.stdout.close()
            os._exit(0)
    os.wait()
"""
"""It starts slowly, and keeps what it read: it starts once, and reads each file in a copy of itself."""
SUPPRESSED: Final = {
    "CKV_K8S_15": "pull always: tags are never moved, and a registry's outage must not keep a pod from starting",
    "CKV_K8S_35": "secrets as files: one Secret, read as a whole; in this pod nobody else reads an environment",
    "CKV_K8S_43": "image by digest: the overlay names the image, and there a digest is welcome",
}
SUPPRESSED_FOR_CADDY: Final = {
    "CKV_K8S_25": "added capability: caddy's file carries NET_BIND_SERVICE and cannot run where it is forbidden",
}
YAMLLINT: Final = "{extends: relaxed, rules: {line-length: disable, key-duplicates: enable}}"

every_answer = pytest.mark.parametrize("answers", matrix(), ids=label)
plain_answers = pytest.mark.parametrize(
    "answers", [one for one in matrix() if "project_slug" not in dict(one)], ids=label
)
variants = pytest.mark.parametrize("edit", [with_ingress, with_external_secrets])


@every_answer
def test_D5_api_servers_of_three_versions_take_every_object(answers: Answers) -> None:
    objects = parse(production(answers))

    assert len(versions()) == 3
    assert {"Deployment", "Service", "NetworkPolicy"} <= {one["kind"] for one in objects if not is_custom(one)}
    assert refused_by_the_server(objects) == []


@every_answer
def test_D5_operators_take_every_custom_resource(answers: Answers, tmp_path: Path) -> None:
    assert refused_by_operators(parse(production(answers)), tmp_path) == ""


@plain_answers
def test_D5_base_builds_and_is_valid_alone(answers: Answers) -> None:
    assert refused_by_the_server(parse(build(by_copier(answers) / "deploy/kubernetes/base"))) == []


@variants
@plain_answers
def test_D5_what_the_overlay_offers_beside_is_valid_too(answers: Answers, edit: Edit, tmp_path: Path) -> None:
    objects = parse(edited(answers, edit))

    assert refused_by_the_server(objects) == []
    assert refused_by_operators(objects, tmp_path) == ""
    assert bool(of_kind(objects, "Ingress")) is (edit is with_ingress)
    assert bool(of_kind(objects, "HTTPRoute")) is (edit is not with_ingress)
    assert bool(of_kind(objects, "ExternalSecret")) is (edit is with_external_secrets)


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("Deployment", ("spec", "template", "spec", "enableServiceLink"), False),
        ("Deployment", ("spec", "template", "spec", "terminationGracePeriodSeconds"), "150s"),
        ("HorizontalPodAutoscaler", ("spec", "minReplica"), 2),
        ("Deployment", ("apiVersion",), "apps/v9"),
    ],
)
def test_D5_a_broken_object_is_refused_by_every_version(kind: str, path: tuple[str, ...], value: object) -> None:
    broken = copy.deepcopy(only(parse(production()), kind))
    place = broken
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value

    assert len(refused_by_the_server([broken])) == len(versions())


@pytest.mark.parametrize(
    ("edge", "kind", "field", "value", "complaint"),
    [
        ("nginx", "HTTPRoute", "hostname", ["a.example.com"], "hostname"),
        ("nginx", "HTTPRoute", "hostnames", ["https://a.example.com"], "hostnames"),
        ("nginx", "PodMonitor", "podMetricsEndpoints", [{"interval": "soon"}], "interval"),
        ("mesh", "Sidecar", "ingress", [{"defaultEndpoint": "127.0.0.1:8080"}], "port"),
        ("mesh", "PeerAuthentication", "mtls", {"mode": "strict"}, "strict"),
    ],
)
def test_D5_a_broken_custom_resource_is_refused(
    edge: str, kind: str, field: str, value: object, complaint: str, tmp_path: Path
) -> None:
    broken = copy.deepcopy(only(parse(production((("edge", edge),))), kind))
    broken["spec"][field] = value

    assert complaint in refused_by_operators([broken], tmp_path)


@every_answer
def test_D5_no_file_says_a_key_twice(answers: Answers, tmp_path: Path) -> None:
    (tmp_path / "twice.yaml").write_text("a: 1\na: 2\n", encoding="utf-8")
    deploy = by_copier(answers) / "deploy"
    folders = [deploy / "kubernetes", *deploy.glob("*/kustomization.yaml")]

    succeed("yamllint", "--strict", "-d", YAMLLINT, *folders, cwd=tmp_path)
    assert "duplication" in run("yamllint", "-d", YAMLLINT, "twice.yaml", cwd=tmp_path).stdout


def careless() -> str:
    """Return a build with a container that may do anything."""
    return production().replace("readOnlyRootFilesystem: true", "privileged: true")


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Return the rules by which the policy checker objects to each build."""
    folder = tmp_path_factory.mktemp("policies")
    builds = {edge: production((("edge", edge), ("database", "postgres"))) for edge in ("nginx", "caddy", "mesh")}
    builds["careless"] = careless()
    for name, text in builds.items():
        (folder / name).with_suffix(".yaml").write_text(text, encoding="utf-8")
    succeed(*CHECKOV, "-c", EACH_APART, *(f"{name}.yaml" for name in builds), cwd=folder)
    reports = {name: json.loads((folder / f"{name}.yaml.json").read_text(encoding="utf-8")) for name in builds}
    assert {report["summary"]["parsing_errors"] for report in reports.values()} == {0}
    return {name: {one["check_id"] for one in report["results"]["failed_checks"]} for name, report in reports.items()}


@pytest.mark.parametrize("edge", ["nginx", "caddy", "mesh"])
def test_D5_policy_checker_objects_to_nothing_without_a_reason(edge: str, complaints: dict[str, set[str]]) -> None:
    allowed = SUPPRESSED | (SUPPRESSED_FOR_CADDY if edge == "caddy" else {})

    # Equal, so that a suppression that nothing needs any more goes.
    assert complaints[edge] == allowed.keys()


def test_D5_policy_checker_objects_to_a_careless_pod(complaints: dict[str, set[str]]) -> None:
    assert {"CKV_K8S_16", "CKV_K8S_22"} <= complaints["careless"]


def test_M4_overlay_is_in_every_project() -> None:
    assert {path.name for path in (by_copier() / OVERLAY).iterdir()} == {
        "image",
        "kustomization.yaml",
        "namespace.yaml",
    }
