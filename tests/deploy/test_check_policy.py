"""M5: `check policy` holds a project to what its organisation demands beyond the template, and never to less."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
import yaml
from typer.testing import CliRunner

from mcp_chassis import Server
from mcp_chassis.checks import Result, examine, failed
from mcp_chassis.checks.cluster import Workload
from mcp_chassis.checks.kustomize import Builder
from mcp_chassis.checks.policy import LISTS, NUMBERS, POLICY, Policed, policy
from mcp_chassis.checks.timeouts import Project
from mcp_chassis.cli import application
from tests.deploy.kubernetes_build import build, parse, pods
from tests.deploy.timeouts_saboteurs import DEPLOYMENT, OVERLAY, append, exchange, patch
from tests.render.support import ROOT, by_copier

SAMPLE = ROOT / "examples/team/policy.yaml"
TEAM = yaml.safe_load((ROOT / "examples/team/team.yml").read_text(encoding="utf-8"))["team"]
OWN = f"{OVERLAY}/kustomization.yaml"
IMAGES = """
images:
  - {name: nginx, newName: images.acme.example/nginx}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project that keeps the sample's policy, and that a test may change; it is the working folder."""
    monkeypatch.setattr("mcp_chassis.checks.cluster.answer", lambda _: "120")
    shutil.copytree(by_copier((("team", yaml.safe_dump(TEAM)),)), tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    shutil.copy(SAMPLE, POLICY)
    exchange(OWN, "minReplicas: 2", "minReplicas: 3")
    append(OWN, IMAGES)
    return tmp_path / "project"


def checked(**declared: float) -> dict[str, list[Result]]:
    """Return what the profile says of the working folder, by check."""
    found: dict[str, list[Result]] = {}
    for item in anyio.run(examine, policy, Policed(Project(Path(), {}, lambda: declared))):
        found.setdefault(item.name, []).append(item)
    return found


def red(**declared: float) -> set[str]:
    """Return the checks that fail."""
    return {name for name, items in checked(**declared).items() if failed(items)}


def test_M5_project_that_keeps_the_sample_passes_every_rule(project: Path) -> None:
    found = checked(countdown=70.0)

    assert {name: items[0].result for name, items in found.items()} == dict.fromkeys(
        ["rules", "followed", *RULES], "pass"
    )


RULES = {*LISTS, *NUMBERS}


def test_M5_sample_shows_every_rule() -> None:
    assert yaml.safe_load(SAMPLE.read_text(encoding="utf-8")).keys() == RULES


SABOTEURS: dict[str, tuple[str, Callable[[], str]]] = {
    "none in the overlay": (
        "forbid_auth",
        lambda: exchange(OWN, "MCP_AUTH=keys", "MCP_AUTH=none"),
    ),
    "one of several ways": (
        "forbid_auth",
        lambda: exchange(OWN, "MCP_AUTH=keys", '"MCP_AUTH=keys, mtls"'),
    ),
    "nothing in the overlay": (
        "forbid_auth",
        lambda: exchange(OWN, "      - MCP_AUTH=keys\n", ""),
    ),
    "mtls in compose": (
        "forbid_auth",
        lambda: append("deploy/compose.override.yaml", "services: {server: {environment: {MCP_AUTH: mtls}}}\n"),
    ),
    "two replicas": (
        "minimum_replicas",
        lambda: exchange(OWN, "minReplicas: 3", "minReplicas: 2"),
    ),
    "a longer call in the overlay": (
        "maximum_tool_seconds",
        lambda: exchange(OWN, "- MCP_AUTH=keys", "- MCP_AUTH=keys\n      - MCP_TOOL_TIMEOUT=121"),
    ),
    "a longer call in a patch": (
        "maximum_tool_seconds",
        lambda: patch(DEPLOYMENT % "containers: [{name: server, env: [{name: MCP_TOOL_TIMEOUT, value: '300'}]}]"),
    ),
    "an alert that nobody wrote": ("required_alerts", lambda: exchange(POLICY, "McpServerDown", "McpServerLost")),
    "an object of the project's own": (
        "required_labels",
        lambda: (
            exchange("deploy/kubernetes/monitoring/kustomization.yaml", '"cost-centre"', '"cost-centre-of"')
            and append(f"{OVERLAY}/own.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: own}\n")
            and exchange(OWN, "  - namespace.yaml\n", "  - namespace.yaml\n  - own.yaml\n")
        ),
    ),
    "pods without the label": (
        "required_labels",
        lambda: (
            exchange(
                "deploy/kubernetes/monitoring/kustomization.yaml", "includeTemplates: true", "includeTemplates: false"
            )
            and exchange(
                "deploy/kubernetes/base/kustomization.yaml", "includeTemplates: true", "includeTemplates: false"
            )
        ),
    ),
    "no annotations": (
        "required_annotations",
        lambda: exchange("deploy/kubernetes/monitoring/kustomization.yaml", "commonAnnotations", "metadata"),
    ),
    "a forbidden tag": (
        "forbid_image_tags",
        lambda: exchange(f"{OVERLAY}/image/kustomization.yaml", "newTag: 0.1.0", "newTag: dev"),
    ),
    "an edge without a tag": (
        "forbid_image_tags",
        lambda: patch(DEPLOYMENT % "initContainers: [{name: edge, image: images.acme.example/own}]"),
    ),
    "an image from elsewhere": (
        "allowed_registries",
        lambda: exchange(OWN, "images.acme.example/nginx", "images.acme.example.org/nginx"),
    ),
    "production below another overlay": (
        "minimum_replicas",
        lambda: (
            append(
                "deploy/kubernetes/overlays/above/kustomization.yaml",
                "kind: Kustomization\nresources: [../production]\npatches:\n"
                "  - {target: {kind: HorizontalPodAutoscaler}, patch: '{spec: {minReplicas: 3}}'}\n",
            )
            and exchange(OWN, "minReplicas: 3", "minReplicas: 2")
        ),
    ),
    "another root of the project's own": (
        "minimum_replicas",
        lambda: append(
            "deploy/kubernetes/overlays/staging/kustomization.yaml",
            "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [../production]\n"
            "patches:\n  - patch: |-\n      apiVersion: autoscaling/v2\n      kind: HorizontalPodAutoscaler\n"
            "      metadata: {name: acme-notes}\n      spec: {minReplicas: 2}\n",
        ),
    ),
}


@pytest.mark.parametrize("story", SABOTEURS)
def test_M5_each_rule_turns_red(story: str, project: Path) -> None:
    name, sabotage = SABOTEURS[story]

    sabotage()

    assert red() == {name}


def test_M5_tool_that_declares_more_turns_red(project: Path) -> None:
    assert red(slow=121.0) == {"maximum_tool_seconds"}


def test_M5_every_rule_was_seen_red() -> None:
    assert {name for name, _ in SABOTEURS.values()} == RULES


LOOSER = {
    "minimum_replicas: 1": "minimum_replicas must be a whole number from 2 to 100: a policy can only tighten",
    "minimum_replicas: true": "minimum_replicas must be a whole number from 2",
    "maximum_tool_seconds: 7200": "maximum_tool_seconds must be a whole number from 1 to 3600: a policy",
    "forbid_auth: [mtls]": "forbid_auth must be a list with none, which is refused anyway: a policy can only tighten",
    "forbid_auth: [none, keys, jwt, mtls]": "forbid_auth must leave one of",
    "forbid_auth: [none, passwords]": "name no other",
    "forbid_image_tags: [dev]": "forbid_image_tags must be a list with latest",
    "required_alerts: []": "required_alerts must be a list",
    "required_labels: cost-centre": "required_labels must be a list",
    "allow_auth: [none]": "allow_auth is no rule; use allowed_registries, forbid_auth",
    "[minimum_replicas]": "is no mapping",
    "a: [": "not YAML",
    "minimum_replicas: 3\nminimum_replicas: 2": "stands twice",
}


@pytest.mark.parametrize("text", LOOSER)
def test_M5_policy_that_loosens_or_is_none_is_refused_with_words(text: str, project: Path) -> None:
    Path(POLICY).write_text(f"# Ours.\n{text}\n", encoding="utf-8")

    found = [item for items in checked().values() for item in items if failed([item])]

    assert {item.name for item in found} >= {"rules"}
    assert any(LOOSER[text] in item.found and item.where.startswith(POLICY) for item in found)


def test_M5_rule_that_nothing_can_be_held_to_is_not_passed(project: Path) -> None:
    shutil.rmtree("deploy/kubernetes")

    assert red() == RULES - {"required_alerts"}


def test_M5_without_a_policy_nothing_is_demanded_and_the_command_passes(project: Path) -> None:
    def command() -> tuple[int, str]:
        done = CliRunner().invoke(application(Server("acme-notes")), ["check", "policy"])
        return done.exit_code, done.output

    kept = command()
    exchange(POLICY, "minimum_replicas: 3", "minimum_replicas: 4")
    broken = command()
    Path(POLICY).unlink()
    none = command()

    assert kept == (0, kept[1]), kept[1]
    assert (broken[0], "3 of 4 replicas" in broken[1]) == (1, True)
    assert (none[0], "no policy.yaml: nothing more" in none[1], "\n\n1 skip\n" in none[1]) == (0, True, True)


def test_M5_labels_annotations_and_images_are_what_kustomize_makes(project: Path) -> None:
    ours = {
        (one.text("kind"), one.text("metadata", "name").split("-conf-d-")[0]): one
        for one in Builder().build(Path(OVERLAY), [])
    }
    theirs = parse(build(project / OVERLAY))

    assert len(ours) == len(theirs)
    for one in theirs:
        if one["kind"] == "ConfigMap":  # whose name ends in a digest
            continue
        mine = ours[one["kind"], one["metadata"]["name"]]
        for key in ("labels", "annotations"):
            assert {name: mine.text("metadata", key, name) for name in mine.block("metadata", key)} == {
                name: str(value) for name, value in one["metadata"].get(key, {}).items()
            }
    workloads = {
        one.title: [container.text("image") for container in one.containers]
        for one in (Workload(item) for (kind, _), item in ours.items() if kind in ("Deployment", "CronJob"))
    }
    built = {name: [*pod["containers"], *pod.get("initContainers", [])] for name, pod in pods(theirs)}
    assert workloads == {name: [one["image"] for one in containers] for name, containers in built.items()}
