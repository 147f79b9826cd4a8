"""M5: nothing hides from `check policy`: what it cannot follow or read is told, never passed."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_chassis.checks import failed
from mcp_chassis.checks.policy import POLICY
from tests.deploy.test_check_policy import OWN, checked, project, red  # noqa: F401  # the fixture
from tests.deploy.timeouts_saboteurs import append

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
