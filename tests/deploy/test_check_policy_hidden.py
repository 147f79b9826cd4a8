"""M5: nothing hides from `check policy`: what it cannot follow or read is told, never passed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mcp_chassis.checks import failed
from mcp_chassis.checks.policy import POLICY
from tests.deploy.test_check_policy import OWN, checked, project, red  # noqa: F401  # the fixture
from tests.deploy.timeouts_saboteurs import append, exchange

pytestmark = pytest.mark.usefixtures("project")
STAGING = "deploy/kubernetes/overlays/staging/kustomization.yaml"
UNFOLLOWED = {
    "labelSelector": "patches:\n  - target: {labelSelector: a=b}\n    patch: '{spec: {minReplicas: 1}}'\n",
    "annotationSelector": "patches:\n  - target: {kind: X, annotationSelector: a=b}\n    patch: '{spec: {}}'\n",
    "namespace": "patches:\n  - target: {kind: X, namespace: b}\n    patch: '{spec: {}}'\n",
    "patchesStrategicMerge": "patchesStrategicMerge: [mine.yaml]\n",
    "replacements": "replacements: [{path: mine.yaml}]\n",
    "transformers": "transformers: [mine.yaml]\n",
    "generators": "generators: [mine.yaml]\n",
    "namePrefix": "namePrefix: x-\n",
    "nameSuffix": "nameSuffix: -x\n",
    "secretGenerator": "secretGenerator: [{name: x, literals: [MCP_AUTH=none]}]\n",
    "helmCharts": "helmCharts: [{name: x}]\n",
    "env": "configMapGenerator:\n  - {name: x, env: none.env}\n",
    "tagSuffix": "images:\n  - {name: x, tagSuffix: -dev}\n",
    "github.com/a/b is no file": "resources: [../production, github.com/a/b]\n",
    "https://example.com/a//b?ref=v1 is no file": "resources: ['https://example.com/a//b?ref=v1']\n",
    "$patch": "patches:\n  - patch: '{kind: X, metadata: {name: x, labels: {$patch: replace}}}'\n",
    "$retainKeys": "patches:\n  - {target: {kind: X}, patch: '{spec: {strategy: {$retainKeys: [type]}}}'}\n",
    "$setElementOrder/env": "patches:\n  - {target: {kind: X}, patch: '{$setElementOrder/env: []}'}\n",
    "move": "patches:\n  - {target: {kind: X}, patch: '[{op: move, from: /a, path: /b}]'}\n",
    "lost.yaml is no file": "components: [lost.yaml]\n",
    "not YAML": "a: [\n",
}
"""What an overlay of one's own may hold, by the words of what is said of it."""


@pytest.mark.parametrize("words", UNFOLLOWED)
def test_M5_overlay_that_the_rules_cannot_follow_is_not_passed(words: str) -> None:
    append(STAGING, f"kind: Kustomization\n{UNFOLLOWED[words]}")

    (found,) = [item for items in checked().values() for item in items if failed([item])]

    assert found.name == "followed"
    assert found.found.startswith(words)
    assert found.where.startswith(f"{STAGING}:")


def test_M5_what_cannot_be_followed_is_nobodys_business_without_a_rule_about_the_cluster() -> None:
    append(OWN, "namePrefix: x-\n")
    Path(POLICY).write_text("required_alerts: [McpServerDown]\n", encoding="utf-8")

    assert red() == set()


@pytest.mark.parametrize("target", ["{name: acme-.*}", "{kind: Horizontal.*}", "{group: autoscaling, version: v.}"])
def test_M5_targets_are_patterns(target: str) -> None:
    append(
        STAGING,
        "kind: Kustomization\nresources: [../production]\n"
        f"patches:\n  - target: {target}\n    patch: '{{spec: {{minReplicas: 2}}}}'\n",
    )

    assert red() == {"minimum_replicas"}


def test_M5_replicas_and_old_patches_are_read() -> None:
    append(
        STAGING,
        "kind: Kustomization\nresources: [../production]\nreplicas: [{name: acme-notes, count: 1}]\n"
        "patchesJson6902:\n  - target: {version: v1, kind: HorizontalPodAutoscaler, name: acme-notes}\n"
        "    patch: '[]'\npatches:\n"
        "  - patch: '{$patch: delete, kind: HorizontalPodAutoscaler, metadata: {name: acme-notes}}'\n",
    )

    (found,) = [item for items in checked().values() for item in items if failed([item])]

    assert (found.name, found.found) == ("minimum_replicas", "1 of 3 replicas")


def test_M5_images_are_named_by_patterns() -> None:
    images = "images: [{name: '.*/nginx', newTag: dev}]\n"
    append(STAGING, f"kind: Kustomization\nresources: [../production]\n{images}")

    assert red() == {"forbid_image_tags"}


def test_M5_compose_files_that_are_included_are_told() -> None:
    append("deploy/compose.override.yaml", "include: [other.yaml]\n")

    (found,) = [item for items in checked().values() for item in items if failed([item])]

    assert (found.name, found.found) == ("followed", "include is not followed")
    assert found.where == "deploy/compose.override.yaml:1"


REFUSED = {
    "forbid_image_tags: [latest, 1.10]": "forbid_image_tags must be a list of texts, quoted where they look like num",
    "required_labels: [owner, true]": "required_labels must be a list of texts, quoted",
    "required_alerts: [[a]]": "required_alerts must be a list of texts, quoted",
    "required_labels: ['']": "required_labels must be a list of texts, quoted",
    "forbid_image_tags: [latest, 'nginx:dev']": "forbid_image_tags names tags alone, like dev; nginx:dev is none",
}


@pytest.mark.parametrize("text", REFUSED)
def test_M5_list_of_what_no_rule_can_mean_is_refused(text: str) -> None:
    Path(POLICY).write_text(f"{text}\n", encoding="utf-8")

    found = [item.found for item in checked()["rules"] if failed([item])]

    assert [words.startswith(REFUSED[text]) for words in found] == [True]


def test_M5_policy_under_another_name_or_behind_a_link_to_nowhere_is_told() -> None:
    Path(POLICY).rename("policy.yml")
    other = checked()["rules"]
    Path("policy.yml").unlink()
    Path(POLICY).symlink_to("nowhere.yaml")
    link = checked()["rules"]

    assert [(item.result, item.where) for item in other] == [("fail", "policy.yml")]
    assert [(item.result, item.where) for item in link] == [("fail", POLICY)]


@pytest.mark.parametrize("kind", ["labels", "annotations"])
def test_M5_empty_label_is_none(kind: str) -> None:
    append(
        STAGING,
        "kind: Kustomization\nresources: [../production]\n"
        f"patches:\n  - target: {{kind: Service}}\n    patch: '{{metadata: {{{kind}: {{OWN: \"\"}}}}}}'\n",
    )
    name = yaml.safe_load(Path(POLICY).read_text(encoding="utf-8"))[f"required_{kind}"][0]
    exchange(STAGING, "OWN", name)

    assert red() == {f"required_{kind}"}


SERVICE = "services: {server: {environment: {MCP_AUTH: mtls}}}\n"


@pytest.mark.parametrize("name", ["compose.override.yml", "docker-compose.override.yaml"])
def test_M5_each_name_of_an_override_of_compose_is_read(name: str) -> None:
    append(f"deploy/{name}", SERVICE)

    assert red() == {"forbid_auth"}


@pytest.mark.parametrize("form", ["own.env", "[own.env]", "[{path: own.env}]"])
@pytest.mark.parametrize("text", ["MCP_AUTH=mtls", "export MCP_AUTH='mtls' # ours", None])
def test_M5_variables_of_compose_are_read_from_files_or_unseen(form: str, text: str | None) -> None:
    append("deploy/compose.override.yaml", f"services: {{other: {{build: ., env_file: {form}}}}}\n")
    if text is not None:
        append("deploy/own.env", f"# Ours.\nMCP_EXPOSURE=x\n{text}\n")

    found = [item.result for item in checked()["forbid_auth"] if failed([item])]

    assert found == ["fail" if text else "unseen"]


def test_M5_others_with_a_file_that_is_not_here_are_no_servers() -> None:
    append("deploy/compose.override.yaml", "services: {other: {image: postgres, env_file: own.env}}\n")

    assert red() == set()
