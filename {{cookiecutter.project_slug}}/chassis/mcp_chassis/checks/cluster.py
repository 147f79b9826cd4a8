"""The objects of a cluster, and the questions that checks ask about them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from mcp_chassis.checks import Finding
from mcp_chassis.checks.sources import Block, seconds
from mcp_chassis.settings import DRAIN_MARGIN, answer

PROBES: Final = ("startupProbe", "livenessProbe", "readinessProbe")
SERVING: Final = frozenset({"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Pod"})
POD_OF: Final = {
    "Pod": (),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
    **dict.fromkeys(("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job"), ("spec", "template")),
}
"""By kind, the way to the pod."""
_MERGED_BY: Final = {
    **dict.fromkeys(("containers", "initContainers", "env", "volumes", "imagePullSecrets"), ("name",)),
    "ports": ("containerPort", "port"),
    "volumeMounts": ("mountPath",),
}
"""By list, what its items are known by: `x-kubernetes-patch-merge-key` of the Kubernetes API."""
_OURS: Final = re.compile(
    r"MCP_(ENVIRONMENT|PUBLIC_URL|AUTH|EXPOSURE|HOST|PORT|(STATE|DATABASE|DATABASE_MIGRATION)_URL)"
)
"""A container that is given one of these runs a server of this kind."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds of the longest call and of the drain, as the variables of one process make them."""

    call: float
    drain: float

    @classmethod
    def of(cls, variables: dict[str, str]) -> Limits:
        """Return what a process with these variables does; without them, what the answers say."""
        call = seconds(variables.get("MCP_TOOL_TIMEOUT", ""))
        call = float(answer("tool_timeout")) if call is None else call
        drain = seconds(variables.get("MCP_DRAIN_TIMEOUT", ""))
        return cls(call, call + DRAIN_MARGIN if drain is None else drain)


def is_ours(variables: Iterable[str]) -> bool:
    """Tell whether variables are those of a server of this kind."""
    return any(_OURS.match(name) for name in variables)


@dataclass(frozen=True, slots=True)
class Variables:
    """What a container is given: texts where they are known, and whether more comes from outside the stream."""

    texts: dict[str, str]
    referred: frozenset[str]
    complete: bool

    def __contains__(self, name: str) -> bool:
        return name in self.texts or name in self.referred


def title_of(one: Block) -> str:
    """Return `Kind/name` of an object."""
    return f"{one.text('kind')}/{one.text('metadata', 'name')}"


def image_of(container: Block) -> tuple[str, str, str]:
    """Return the repository, the tag and the digest of a container's image; empty is what it does not name."""
    name, _, digest = container.text("image").partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    return name.removesuffix(f":{tag}"), tag, digest


class Workload:
    """An object that makes pods."""

    def __init__(self, body: Block) -> None:
        template = body.block(*POD_OF[body.text("kind")])
        self.body = body
        self.kind = body.text("kind")
        self.title = title_of(body)
        self.space = body.text("metadata", "namespace")
        self.metadata = template.block("metadata")
        self.pod = template.block("spec")
        self.labels = template.block("metadata", "labels")
        self.inits = self.pod.blocks("initContainers")
        self.main = self.pod.blocks("containers")
        self.containers = [*self.main, *self.inits]

    def ports(self, *containers: Block) -> dict[str, str]:
        """Map each port's name, and its number, to its number; of these containers or of all."""
        found: dict[str, str] = {}
        for port in [port for container in containers or self.containers for port in container.blocks("ports")]:
            number = port.text("containerPort")
            found |= {number: number, port.text("name") or number: number}
        return found


@dataclass(frozen=True, slots=True)
class Probe:
    """One probe; port and path are empty where it has none."""

    container: Block
    name: str
    port: str
    path: str
    place: str

    def __str__(self) -> str:
        return f"{self.container.text('name')} {self.name} {self.port}{self.path}"


def probes(containers: Iterable[Block]) -> Iterator[Probe]:
    """Yield the probes of containers."""
    for container in containers:
        for name in [name for name in PROBES if name in container]:
            probe = container.block(name)
            port = next((found for kind in ("httpGet", "tcpSocket", "grpc") if (found := probe.text(kind, "port"))), "")
            yield Probe(container, name, port, probe.text("httpGet", "path"), probe.place)


class Server:
    """A workload that serves, split into the server's own container and the edge in front of it."""

    def __init__(self, workload: Workload, app: Block, variables: Variables) -> None:
        self.workload, self.app, self.variables = workload, app, variables
        self.limits = Limits.of(variables.texts)
        self.port = variables.texts.get("MCP_PORT", "8080")
        asked = {port for probe in probes([app]) if (port := probe.port)}
        others = [one for one in [*workload.inits, *workload.main] if one is not app and one.blocks("ports")]
        others.sort(key=lambda one: not asked & workload.ports(one).keys())
        self.edge = others[0] if others and asked else None
        """The container that the server's probes go through; None in a mesh, which puts its proxy in by itself."""


class Cluster:
    """All objects of one stream."""

    def __init__(self, objects: Iterable[Block], problems: Iterable[Finding] = ()) -> None:
        self.objects = [one for one in objects if one.text("kind") and one.text("kind") != "Kustomization"]
        self.problems = list(problems)
        self.component = False
        """Whether it is a part that counts only where a kustomization takes it, beside that one's server."""
        self.project_call = 0.0
        """Seconds of the longest call that the project knows elsewhere, for a stream that holds no server."""
        self.workloads = [Workload(one) for one in self.objects if one.text("kind") in POD_OF]
        self.servers = list(self._servers())
        images = {image_of(server.app)[0] for server in self.servers}
        self.ours = [
            workload
            for workload in self.workloads
            if any(image_of(one)[0] in images or is_ours(self.variables(one).texts) for one in workload.containers)
        ]

    def _servers(self) -> Iterator[Server]:
        for workload in self.workloads:
            given = ((container, self.variables(container)) for container in workload.main)
            found = [Server(workload, one, made) for one, made in given if is_ours([*made.texts, *made.referred])]
            if workload.kind in SERVING:
                yield from found[:1]

    @property
    def containers(self) -> Iterator[tuple[Workload, Block]]:
        """Each container, with its workload."""
        return ((workload, container) for workload in self.workloads for container in workload.containers)

    @property
    def edges(self) -> list[tuple[Server, Block]]:
        """Each server that has an edge beside it, with that edge."""
        return [(server, server.edge) for server in self.servers if server.edge is not None]

    def kind(self, *kinds: str) -> list[Block]:
        """Return the objects of these kinds."""
        return [one for one in self.objects if one.text("kind") in kinds]

    def named(self, kind: str, name: str) -> Block | None:
        """Return an object, or None."""
        return next((one for one in self.kind(kind) if one.text("metadata", "name") == name), None)

    def selected(self, by: Block, *path: str) -> list[Workload]:
        """Return the workloads in the same namespace whose pods a selector of `by` takes."""
        space = by.text("metadata", "namespace")
        near = [one for one in self.workloads if one.space == space or not (space and one.space)]
        return [one for one in near if selects(by.block(*path), one.labels)]

    def behind(self, service: Block) -> list[Workload]:
        """Return the workloads that a Service leads to; without a selector it leads to none."""
        return self.selected(service, "spec", "selector") if service.block("spec", "selector") else []

    def variables(self, container: Block) -> Variables:
        """Return what a container is given."""
        texts: dict[str, str] = {}
        referred, complete = set(), True
        for source in container.blocks("envFrom"):
            name = source.text("configMapRef", "name")
            known = self.named("ConfigMap", name) if name else None
            texts |= {key: known.text("data", key) for key in known.block("data")} if known else {}
            complete = complete and known is not None
        for item in container.blocks("env"):
            key = item.block("valueFrom", "configMapKeyRef")
            known = self.named("ConfigMap", key.text("name")) if key else None
            if "value" in item or known:
                texts[item.text("name")] = known.text("data", key.text("key")) if known else item.text("value")
            else:
                texts.pop(item.text("name"), None)
                referred.add(item.text("name"))
        return Variables(texts, frozenset(referred), complete)

    def replicas(self, workload: Workload) -> tuple[int, int]:
        """Return the least and the most pods that a workload runs."""
        count = whole(workload.body.text("spec", "replicas"), 1)
        for scaler in self.kind("HorizontalPodAutoscaler"):
            if scaler.text("spec", "scaleTargetRef", "name") == workload.body.text("metadata", "name"):
                return whole(scaler.text("spec", "minReplicas"), 1), whole(scaler.text("spec", "maxReplicas"), count)
        return count, count


def target_of(port: Block) -> str:
    """Return the name or the number of the pods' port that a port of a Service leads to."""
    return port.text("targetPort") or port.text("port")


def merge(target: Block, patch: Block) -> None:
    """Lay a strategic merge patch over an object: mappings deeply, named containers and variables one by one."""
    for key, value in patch.items():
        there = target.get(key)
        if value is None:
            target.pop(key, None)
        elif isinstance(there, Block) and isinstance(value, Block):
            merge(there, value)
        elif isinstance(there, list) and key in _MERGED_BY:
            for item in patch.blocks(key):
                by = next((name for name in _MERGED_BY[key] if name in item), "name")
                known = next((one for one in target.blocks(key) if one.text(by) == item.text(by)), None)
                if known is None:
                    there.append(item)
                elif item.text("$patch") == "delete":
                    there.remove(known)
                else:
                    merge(known, item)
        else:
            target.put(key, value, patch.at(key))


def whole(text: str, otherwise: int) -> int:
    """Read a number of pods."""
    return int(text) if text.isdecimal() else otherwise


def share(text: str, pods: int, rounded: Callable[[float], int]) -> int | None:
    """Read `2`, or `25%` of some pods; None is neither."""
    found = re.fullmatch(r"(\d+)(%?)", text)
    return found and (rounded(int(found[1]) * pods / 100) if found[2] else int(found[1]))


def selects(selector: Block, labels: Block) -> bool:
    """Tell whether a selector, a plain mapping or one with expressions, takes these labels."""
    plain = selector.block("matchLabels") if selector.keys() & {"matchLabels", "matchExpressions"} else selector
    if any(labels.text(key) != plain.text(key) for key in plain):
        return False
    for rule in selector.blocks("matchExpressions"):
        there, listed = rule.text("key") in labels, labels.text(rule.text("key")) in rule.texts("values")
        held = {"In": there and listed, "NotIn": not listed, "Exists": there, "DoesNotExist": not there}
        if not held.get(rule.text("operator"), False):
            return False
    return True
