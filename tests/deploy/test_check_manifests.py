"""D5: `check manifests` on what `kustomize build` makes of a rendered project, and on what an edit makes of it."""

from __future__ import annotations

from io import StringIO

import anyio
import pytest

from mcp_chassis.checks import Result, examine, failed, write
from mcp_chassis.checks.manifests import given, manifests
from tests.deploy.kubernetes_build import Edit, edited, production, replaced, with_external_secrets, with_ingress
from tests.deploy.test_check_timeouts import documented, masked
from tests.render.support import Answers, label, matrix

SABOTEURS: dict[str, tuple[str, str, str]] = {
    "probes_through_edge": ("port: 9090", "port: 8080", "livenessProbe"),
    "selectors": ("app.kubernetes.io/component: server", "app.kubernetes.io/component: x", "kind: Service\n"),
    "grace_period": ("terminationGracePeriodSeconds: 150", "terminationGracePeriodSeconds: 140", ""),
    "sidecar_native": ("restartPolicy: Always", "workingDir: /", ""),
    "public_route": ("targetPort: public", "targetPort: internal", ""),
    "backends": ("port: 443\n    matches", "port: 8443\n    matches", ""),
    "image_tag": ("nginx:1.28-alpine", "nginx:latest", ""),
}


@pytest.fixture(autouse=True)
def answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the answer that only a rendered project has."""
    monkeypatch.setattr("mcp_chassis.checks.cluster.answer", lambda _: "120")


def checked(text: str) -> list[Result]:
    """Return what the profile says of a stream."""
    return anyio.run(examine, manifests, given(["-"], StringIO(text)))


def wrong(text: str) -> dict[str, str]:
    """Return what fails, and what was found there."""
    return {item.name: f"{item.found} at {item.where}" for item in checked(text) if failed([item])}


@pytest.mark.parametrize("chosen", [one for one in matrix() if dict(one).get("project_slug") is None], ids=label)
def test_D5_rendered_manifests_hold_every_invariant(chosen: Answers) -> None:
    found = {item.name: item for item in checked(production(chosen))}

    assert {name: item for name, item in found.items() if failed([item])} == {}
    assert found["server_found"].found.endswith("in a mesh" if dict(chosen)["edge"] == "mesh" else "behind its edge")


@pytest.mark.parametrize("edit", [with_ingress, with_external_secrets], ids=["ingress", "external secrets"])
def test_D5_the_overlay_s_choices_hold_every_invariant(edit: Edit) -> None:
    found = {item.name: item.result for item in checked(edited((), edit)) if failed([item]) or item.result == "pass"}

    assert set(found.values()) == {"pass"}
    assert ("ingress_timeouts" in found) == (edit is with_ingress)


@pytest.mark.parametrize("name", SABOTEURS)
def test_D5_each_saboteur_of_the_rendered_manifests_is_told(name: str) -> None:
    old, new, after = SABOTEURS[name]
    head, mark, rest = production().partition(after) if after else ("", "", production())
    assert old in rest

    assert set(wrong(head + mark + rest.replace(old, new, 1))) == {name}


def test_D5_checks_page_shows_what_the_command_says() -> None:
    stream = StringIO()
    write(checked(production()), stream, as_json=False)

    told = "\n".join(line for line in stream.getvalue().splitlines() if not line.startswith("ok"))

    assert masked(told) == documented("check manifests")[0]


def test_D5_an_overlay_that_asks_for_more_than_it_allows_is_told() -> None:
    text = edited(
        (), replaced("kustomization.yaml", "requests: {cpu: 500m, memory: 256Mi}", "requests: {cpu: 2, memory: 1Gi}")
    )

    assert set(wrong(text)) == {"resources"}
