"""Walks over all that a render holds, and tells each job, image and object that ignores the answer `team` (M5).

Nothing here knows a job or an object by name: what a later template brings is walked over, too.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from tests.deploy.kubernetes_build import Object, build, parse, pods
from tests.pipelines.test_checked import gitlab
from tests.render.support import is_yours

OURS: Final = "acme-notes"
DEFAULTS: Final = re.compile(r"registry\.example\.com|ubuntu-\d|python:3\.13-slim")
"""What the template uses where a team says nothing; with a team's answer no file of the template's may hold it."""
CERTIFICATES: Final = ("SSL_CERT_FILE", "PIP_CERT", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS")
_BUILD: Final = ("id=ca,src=$SSL_CERT_FILE", "--build-arg SSL_CERT_FILE=", "--build-arg PIP_CERT=")
_INSTALLS: Final = re.compile(r"\b(pip install|uv (sync|build|pip|export)|apt-get)\b")
_ARGUMENTS: Final = {"pip": ("PIP_INDEX_URL",), "uv": ("UV_DEFAULT_INDEX",)}
Team = dict[str, Any]


def variables(team: Team) -> dict[str, str]:
    """Return what every job has in its environment."""
    near = f"localhost,127.0.0.1,::1,docker,.svc,.cluster.local,{team['no_proxy']}"
    given = {"UV_DEFAULT_INDEX": "package_index", "PIP_INDEX_URL": "package_index", "http_proxy": "proxy"}
    given |= {"https_proxy": "proxy", **dict.fromkeys(CERTIFICATES, "ca_bundle")}
    return {"no_proxy": near, **{name: str(team[key]) for name, key in given.items()}}


def in_jobs(project: Path, team: Team) -> Iterator[str]:
    """Yield what the jobs of both systems ignore."""
    for path in sorted((project / ".github/workflows").iterdir()):
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        for name, job in document["jobs"].items():
            if job.get("runs-on") != team["runner"]:
                yield f"{path.name}: {name}: runner"
            yield from _job(f"{path.name}: {name}", job, document.get("env", {}), team)
            for number, step in enumerate(job["steps"]):
                yield from _overrides(f"{path.name}: {name}: step {number}", step.get("env", {}), team)
    document = yaml.safe_load((project / ".gitlab/chassis.yml").read_text(encoding="utf-8"))
    for name, job in gitlab(project).items():
        if job.get("tags") != [team["runner"]]:
            yield f"gitlab: {name}: runner"
        if "uv " in str(job["script"]) and job["image"] != team["image_base"]:
            yield f"gitlab: {name}: image"
        yield from _job(f"gitlab: {name}", job, document["variables"], team)


def _job(place: str, job: dict[str, Any], inherited: dict[str, str], team: Team) -> Iterator[str]:
    given = {**inherited, **job.get("env", {}), **job.get("variables", {})}
    yield from [f"{place}: {name}" for name, value in variables(team).items() if given.get(name) != value]
    steps = [str(step.get("run", "")) for step in job.get("steps", ())] or list(map(str, job.get("script", ())))
    for command in [one for one in steps if re.search(r"\bdocker (buildx )?build\b", one)]:
        wanted = (*_BUILD, "--build-arg UV_DEFAULT_INDEX", "--build-arg PIP_INDEX_URL")
        yield from [f"{place}: build without {one}" for one in wanted if one not in command]


def _overrides(place: str, given: dict[str, str], team: Team) -> Iterator[str]:
    wanted = variables(team)
    yield from [f"{place}: {name}" for name in wanted.keys() & given.keys() if given[name] != wanted[name]]


def in_images(project: Path, team: Team) -> Iterator[str]:
    """Yield what the image's stages ignore, and compose."""
    text = (project / "deploy/Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    if f"ARG BASE_IMAGE={team['image_base']}\n" not in text:
        yield "Dockerfile: base"
    for stage in re.split(r"^(?=FROM )", text, flags=re.MULTILINE)[1:]:
        title, body = stage.splitlines()[0], re.sub(r"^#.*\n", "", stage, flags=re.MULTILINE)
        found = [line for line in body.splitlines() if line.startswith("RUN") and _INSTALLS.search(line)]
        before = body[: body.index(found[0])] if found else ""
        wanted = [f"ARG http_proxy={team['proxy']}", f"ARG https_proxy={team['proxy']}", "ARG no_proxy="]
        for program, names in _ARGUMENTS.items():
            if any(re.search(rf"\b{program} ", line) for line in found) and "AS dependencies" in title:
                wanted += [f"ARG {name}={team['package_index']}" for name in names]
        yield from [f"{title}: {one}" for one in wanted if found and one not in before]
        yield from [
            f"{title}: {line[:60]} without ca" for line in found if "apt-get" not in line and "id=ca" not in line
        ]
    document = yaml.safe_load((project / "deploy/compose.yaml").read_text(encoding="utf-8"))
    for name, service in document["services"].items():
        if "build" not in service:
            continue
        if not service["image"].startswith(f"{team['image_registry']}/{OURS}:"):
            yield f"compose: {name}: registry"
        if service["build"].get("secrets") != ["ca"] or document["secrets"]["ca"] != {"file": team["ca_bundle"]}:
            yield f"compose: {name}: ca"
        limits = {key: str(value) for key, value in team["limits"].items() if key.startswith("MCP_")}
        if "environment" in service and not limits.items() <= service["environment"].items() and name == "server":
            yield f"compose: {name}: limits"


def overlays(project: Path) -> list[Path]:
    """Return the project's own overlay, and made for this: one for each part of the template's by itself."""
    found = [project / "deploy/kubernetes/overlays/production"]
    for path in sorted((project / "deploy/kubernetes").glob("*/kustomization.yaml")):
        overlay = project / "deploy/kubernetes/overlays" / f"only-{path.parent.name}"
        overlay.mkdir(exist_ok=True)
        image = shutil.copytree(found[0] / "image", overlay / "image", dirs_exist_ok=True).name
        more = [] if path.parent.name == "base" else [f"../../{path.parent.name}"]
        parts = {"resources": ["../../base"], "components": [*more, image]}
        (overlay / "kustomization.yaml").write_text(yaml.safe_dump(parts), encoding="utf-8")
        found.append(overlay)
    return found


def in_objects(project: Path, team: Team, name: str = "") -> Iterator[str]:
    """Yield what objects and pods of a cluster ignore, whichever components are used; or of one overlay."""
    for overlay in [one for one in overlays(project) if name in ("", one.name)]:
        objects = parse(build(overlay))
        for one in objects:
            title = f"{overlay.name}: {one['kind']}/{one['metadata']['name']}"
            yield from [f"{title}: {what}" for what in _marks(one["metadata"], team)]
            for template in _templates(one):
                yield from [f"{title}: pod: {what}" for what in _marks(template.get("metadata", {}), team)]
        for name, pod in pods(objects):
            containers = [*pod["containers"], *pod.get("initContainers", [])]
            for container in [one for one in containers if OURS in one["image"]]:
                if not container["image"].startswith(f"{team['image_registry']}/{OURS}"):
                    yield f"{overlay.name}: {name}: registry"
                if not _trusts(pod, container, team):
                    yield f"{overlay.name}: {name}: ca"
        settings = {key: str(value) for key, value in team["limits"].items() if key.startswith("MCP_")}
        if not any(settings.items() <= one.get("data", {}).items() for one in objects if one["kind"] == "ConfigMap"):
            yield f"{overlay.name}: settings"
        for one in [one for one in objects if one["kind"] == "Deployment"]:
            (server,) = one["spec"]["template"]["spec"]["containers"]
            if server["resources"]["limits"] != {key: team["limits"][key] for key in ("cpu", "memory")}:
                yield f"{overlay.name}: limits"


def _templates(one: Any) -> Iterator[Object]:
    inner = [one] if isinstance(one, dict) else []
    for item in inner:
        for key, value in item.items():
            if key == "template" and isinstance(value, dict) and "containers" in value.get("spec", {}):
                yield value
            yield from _templates(value)


def _marks(metadata: Object, team: Team) -> Iterator[str]:
    for key in ("labels", "annotations"):
        if not team[key].items() <= metadata.get(key, {}).items():
            yield key


def _trusts(pod: Object, container: Object, team: Team) -> bool:
    volumes = [one["name"] for one in pod["volumes"] if one.get("configMap", {}).get("name") == team["ca_config_map"]]
    mounts = [one["mountPath"] for one in container["volumeMounts"] if one["name"] in volumes]
    files = [one.get("value") for one in container.get("env", []) if one["name"] == "SSL_CERT_FILE"]
    return files == [f"{path}/ca.crt" for path in mounts] != []


def in_texts(project: Path) -> Iterator[str]:
    """Yield each file of the template's that still holds a value of the template's own."""
    for path in sorted(path for path in project.rglob("*") if path.is_file() and path.suffix != ".pyc"):
        name = path.relative_to(project).as_posix()
        if is_yours(name) or name == ".copier-answers.yml" or name.startswith(".git/"):
            continue
        if found := DEFAULTS.search(path.read_text(encoding="utf-8")):
            yield f"{name}: {found[0]}"


def ignored(project: Path, team: Team) -> list[str]:
    """Return every place of a render with all standards that ignores one of them."""
    walks = (in_jobs, in_images, in_objects)
    return [*(place for walk in walks for place in walk(project, team)), *in_texts(project)]
