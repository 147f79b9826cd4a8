"""What docs/kubernetes.md shows works when it is copied into an overlay."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest
import yaml

from tests.deploy.kubernetes_build import OVERLAY, PAGE, Object, edited, of_kind, only, parse, replaced, with_ingress
from tests.deploy.kubernetes_schemas import refused_by_operators, refused_by_the_server
from tests.render.support import by_copier

pytestmark = pytest.mark.xdist_group("kubernetes")

BLOCKS: Final = [text for text in re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL) if "kind: Kust" not in text]


def copied(text: str) -> list[Object]:
    """Return the build of an overlay that a block of the page was copied into: as a resource, or as a patch."""
    kind = yaml.safe_load(text)["kind"]

    def edit(project: Path) -> None:
        (project / OVERLAY / "mine.yaml").write_text(text, encoding="utf-8")
        if kind in ("NetworkPolicy", "ExternalSecret"):
            replaced("kustomization.yaml", "  - namespace.yaml\n", "  - namespace.yaml\n  - mine.yaml\n")(project)
        else:
            replaced("kustomization.yaml", "patches:\n", "patches:\n  - path: mine.yaml\n")(project)

    return parse(edited((), *([with_ingress] if kind == "Ingress" else []), edit))


@pytest.mark.parametrize("text", BLOCKS, ids=lambda text: str(yaml.safe_load(text)["kind"]))
def test_D5_each_example_of_the_page_builds_and_is_valid(text: str, tmp_path: Path) -> None:
    objects = copied(text)

    assert refused_by_the_server(objects) == []
    assert refused_by_operators(objects, tmp_path) == ""


def test_D5_examples_of_the_page_do_what_they_say() -> None:
    built = {kind: copied(text) for text in BLOCKS for kind in [yaml.safe_load(text)["kind"]]}

    (server,) = only(built["Deployment"], "Deployment")["spec"]["template"]["spec"]["containers"]
    assert [one["name"] for one in server["env"]] == ["POD_IP"]
    assert len(of_kind(built["NetworkPolicy"], "NetworkPolicy")) == 3
    assert only(built["Ingress"], "Ingress")["spec"]["ingressClassName"] == "alb"
    trusted = only(built["BackendTLSPolicy"], "BackendTLSPolicy")["spec"]["validation"]
    assert trusted.keys() == {"hostname", "caCertificateRefs"}


def test_D5_files_that_the_page_explains_are_there() -> None:
    folder = by_copier((("edge", "mesh"), ("database", "postgres"))) / "deploy" / "kubernetes"
    explained = set(re.findall(r"^\| `((?:base|ingress|monitoring)/[^`]*)`", PAGE, flags=re.MULTILINE))

    there = {f"base/{path.name}" for path in (folder / "base").iterdir()} - {"base/kustomization.yaml"}
    assert explained == there | {"ingress/", "monitoring/"}


def test_T8_numbers_of_the_page_are_those_of_the_manifests() -> None:
    pod = only(parse(edited(())), "Deployment")["spec"]["template"]["spec"]

    assert f"| `terminationGracePeriodSeconds` | {pod['terminationGracePeriodSeconds']} s: 15 + 125 + 10 |" in PAGE
    for name, container in (("edge", pod["initContainers"][0]), ("server", pod["containers"][0])):
        probe = container["livenessProbe"]
        times, period = probe["failureThreshold"], probe["periodSeconds"]
        assert f"| liveness of the {name} | {times * period} s: {times} \N{MULTIPLICATION SIGN} {period} |" in PAGE
