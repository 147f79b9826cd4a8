"""What `kustomize build` makes of a rendered project, whole or as objects."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.render.support import ROOT, Answers, by_copier, scratch, succeed

OVERLAY = "deploy/kubernetes/overlays/production"
PAGE = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")

Object = dict[str, Any]
Edit = Callable[[Path], None]
"""A change that a user makes to the copy of a project."""


@functools.cache
def tool(name: str) -> str:
    """Return the path of a program of a newer Debian, unpacked on its first use."""
    home = succeed(ROOT / "scripts" / "newer_debian.sh", "trixie", name, cwd=ROOT).splitlines()[-1]
    return str(Path(home) / "usr" / "bin" / name)


def build(folder: Path) -> str:
    """Return what a folder's kustomization builds; a warning is a failure."""
    command = [tool("kustomize"), "build", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def parse(text: str) -> list[Object]:
    """Return the objects of a stream."""
    return [one for one in yaml.safe_load_all(text) if one]


@functools.cache
def production(answers: Answers = ()) -> str:
    """Return what the overlay builds as it was seeded."""
    return build(by_copier(answers) / OVERLAY)


def edited(answers: Answers, *edits: Edit) -> str:
    """Return what the overlay builds after a user's edits of the project."""
    copy = Path(tempfile.mkdtemp(dir=scratch())) / "project"
    shutil.copytree(by_copier(answers), copy)
    for edit in edits:
        edit(copy)
    return build(copy / OVERLAY)


def replaced(name: str, old: str, new: str) -> Edit:
    """Return the edit of one text in one file of the overlay; the text must be there."""

    def edit(project: Path) -> None:
        path = project / OVERLAY / name
        text = path.read_text(encoding="utf-8")
        assert old in text, f"{name} holds no {old!r}"
        path.write_text(text.replace(old, new), encoding="utf-8")

    return edit


def with_ingress(project: Path) -> None:
    """Choose the Ingress, as the docs say."""
    replaced("kustomization.yaml", "# - ../../ingress", "- ../../ingress")(project)
    path = project / OVERLAY / "kustomization.yaml"
    before, _, rest = path.read_text(encoding="utf-8").partition("  # The gateway that clients arrive at")
    path.write_text(before + rest[rest.index("  # Replicas.\n") :], encoding="utf-8")


def with_external_secrets(project: Path) -> None:
    """Choose the secret store, as the docs say."""
    (text,) = re.findall(r"```yaml\n([^`]*kind: ExternalSecret\n.*?)```", PAGE, flags=re.DOTALL)
    (project / OVERLAY / "secrets.yaml").write_text(text, encoding="utf-8")
    replaced("kustomization.yaml", "  - namespace.yaml\n", "  - namespace.yaml\n  - secrets.yaml\n")(project)


def of_kind(objects: Iterable[Object], kind: str) -> list[Object]:
    """Return the objects of one kind."""
    return [one for one in objects if one["kind"] == kind]


def only(objects: Iterable[Object], kind: str) -> Object:
    """Return the one object of a kind."""
    (one,) = of_kind(objects, kind)
    return one


def pods(objects: Iterable[Object]) -> Iterator[tuple[str, Object]]:
    """Return each pod that the objects make, by the name of its owner."""
    for one in objects:
        if one["kind"] in ("Deployment", "Job", "CronJob"):
            template = (one["spec"]["jobTemplate"] if one["kind"] == "CronJob" else one)["spec"]["template"]
            yield f"{one['kind']}/{one['metadata']['name']}", template["spec"]


def containers(pod: Object) -> list[Object]:
    """Return all containers of a pod."""
    return [*pod.get("initContainers", []), *pod["containers"]]


def built(**answers: str) -> list[Object]:
    """Return what the overlay builds for these answers, as objects."""
    return parse(production(tuple(answers.items())))


def server_pod(objects: Iterable[Object]) -> Object:
    """Return the `spec` of the server's pod."""
    pod: Object = only(objects, "Deployment")["spec"]["template"]["spec"]
    return pod
