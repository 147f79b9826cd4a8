"""`check manifests`: what holds between the objects of a stream, whoever made it, and no schema knows (D5)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Final, TextIO
from zoneinfo import available_timezones

from mcp_chassis.checks import Finding, Profile, judged
from mcp_chassis.checks.cluster import Cluster, Workload, image_of, selects, share, target_of, title_of, whole
from mcp_chassis.checks.kustomize import NAMES, chain
from mcp_chassis.checks.pods import pods
from mcp_chassis.checks.sources import Block, Yaml, blocks, load, read

_INSIDE: Final = frozenset({"internal", "peers", "metrics", "9090", "9443"})
"""Ports of the edge that no route from outside may lead to."""
_PUBLIC_PATHS: Final = ("/mcp", "/.well-known/oauth-protected-resource")
_MONTHS: Final = "janfebmaraprmayjunjulaugsepoctnovdec"
_CRON: Final = ((0, 59, ""), (0, 23, ""), (1, 31, ""), (1, 12, _MONTHS), (0, 6, "sunmontuewedthufrisat"))

manifests: Profile[Cluster] = Profile()


@manifests.check("D5", "mend the YAML; programs keep the last of two equal keys in silence")
def readable(cluster: Cluster) -> Iterator[Finding]:
    """every document is YAML, and no mapping holds a key twice"""
    yield from cluster.problems or [Finding("pass", f"{len(cluster.objects)} objects")]


@manifests.check(
    "D5", "give the whole stream: a workload is ours by its MCP_ variables, also from a ConfigMap in the stream"
)
def server_found(cluster: Cluster) -> Iterator[Finding]:
    """the stream holds a server, a workload whose container is given MCP_ variables"""
    titles = [
        f"{server.workload.title} {'behind its edge' if server.edge else 'in a mesh'}" for server in cluster.servers
    ]
    yield Finding("pass", ", ".join(titles)) if titles else Finding("unseen", "no such workload")


@manifests.check("D5", "give spec.selector and the template the same labels")
def workload_selector(cluster: Cluster) -> Iterator[Finding]:
    """a workload's selector takes its own pods"""
    for one in cluster.workloads:
        selector = one.body.block("spec", "selector")
        if one.kind not in ("Pod", "Job", "CronJob"):
            yield judged(bool(selector) and selects(selector, one.labels), selector.place, one.title)


@manifests.check("D5", "give the selector labels that pods have")
def selectors(cluster: Cluster) -> Iterator[Finding]:
    """the selector of a Service, PodDisruptionBudget, NetworkPolicy or PodMonitor takes some pod of the stream"""
    path = {"Service": ("spec", "selector"), "NetworkPolicy": ("spec", "podSelector")}
    for one in cluster.kind("Service", "PodDisruptionBudget", "NetworkPolicy", "PodMonitor"):
        keys = path.get(one.text("kind"), ("spec", "selector"))
        if one.block(*keys):
            yield judged(bool(cluster.selected(one, *keys)), one.at(*keys), title_of(one))


@manifests.check("D5", "name a port of the pods that the selector takes")
def service_ports(cluster: Cluster) -> Iterator[Finding]:
    """what a Service or PodMonitor leads to is a port that the pods have; the server's own is on loopback"""
    for one in cluster.kind("Service", "PodMonitor"):
        for port in [*one.blocks("spec", "ports"), *one.blocks("spec", "podMetricsEndpoints")]:
            target = target_of(port)
            for workload in cluster.behind(one):
                foreign = target if target.isdecimal() and workload not in cluster.ours else ""
                number = workload.ports().get(target, foreign)
                good = number != "" and not _is_loopback(cluster, workload, number)
                yield judged(good, port.at("targetPort"), f"{title_of(one)} port {target} of {workload.title}")


@manifests.check("D5", "name a port of the pods; never the server's own, which is on loopback")
def policy_ports(cluster: Cluster) -> Iterator[Finding]:
    """a NetworkPolicy lets in to ports that the pods have, and to no others"""
    for policy in cluster.kind("NetworkPolicy"):
        pods = cluster.selected(policy, "spec", "podSelector")
        for rule in policy.blocks("spec", "ingress") if pods else []:
            if not rule.blocks("ports"):
                yield judged(not any(pod in cluster.ours for pod in pods), rule.place, f"{title_of(policy)}: all ports")
            for port in rule.blocks("ports"):
                text = port.text("port")
                numbers = [(pod, pod.ports()[text]) for pod in pods if text in pod.ports()]
                good = bool(numbers) and not any(_is_loopback(cluster, pod, number) for pod, number in numbers)
                yield judged(good, port.place, f"{title_of(policy)} port {text}")


@manifests.check("S4", "set either minAvailable or maxUnavailable, so that one pod may leave")
def disruption_budget(cluster: Cluster) -> Iterator[Finding]:
    """a PodDisruptionBudget has one bound, and it leaves room for a node's drain"""
    for budget in cluster.kind("PodDisruptionBudget"):
        bounds = [name for name in ("minAvailable", "maxUnavailable") if name in budget.block("spec")]
        text = budget.text("spec", bounds[0]) if bounds else ""
        for one in cluster.selected(budget, "spec", "selector"):
            least = cluster.replicas(one)[0]
            count = share(text, least, ceil)
            room = 0 if count is None else least - count if "minAvailable" in bounds else count
            where, words = budget.at("spec"), " and ".join(f"{name} {budget.text('spec', name)}" for name in bounds)
            yield judged(len(bounds) == 1 and room > 0, where, f"{words or 'no bound'}, {least} pods")


@manifests.check("D5", "name a workload and a container of the stream")
def scaler_target(cluster: Cluster) -> Iterator[Finding]:
    """what a HorizontalPodAutoscaler scales is there"""
    for scaler in cluster.kind("HorizontalPodAutoscaler"):
        target = scaler.block("spec", "scaleTargetRef")
        found = cluster.named(target.text("kind"), target.text("name"))
        names = {container.text("name") for container in Workload(found).containers} if found else set()
        asked = {metric.text("containerResource", "container") for metric in scaler.blocks("spec", "metrics")} - {""}
        good = found is not None and asked <= names
        yield judged(good, target.at("name"), f"{target.text('kind')}/{target.text('name')} {' '.join(asked)}".strip())


@manifests.check("D5", "make minReplicas at most maxReplicas")
def scaler_bounds(cluster: Cluster) -> Iterator[Finding]:
    """minReplicas ≤ maxReplicas"""
    for scaler in cluster.kind("HorizontalPodAutoscaler"):
        least, most = whole(scaler.text("spec", "minReplicas"), 1), whole(scaler.text("spec", "maxReplicas"), 0)
        yield judged(least <= most, scaler.at("spec", "minReplicas"), f"{least} to {most}")


@manifests.check("D5", "name a Service of the stream and one of its ports")
def backends(cluster: Cluster) -> Iterator[Finding]:
    """a route leads to a port of a Service that is there"""
    for one in _backends(cluster):
        yield judged(one.port is not None, one.place, one.title)


@manifests.check("O4", "lead the route to the edge's public port; in a mesh, list the public paths")
def public_route(cluster: Cluster) -> Iterator[Finding]:
    """a route from outside reaches the public port alone, never metrics, health or peers"""
    for one in _backends(cluster):
        pods = cluster.selected(one.service, "spec", "selector")
        for server in [server for server in cluster.servers if server.workload in pods]:
            target = target_of(one.port) if one.port is not None else ""
            number = server.workload.ports().get(target, target)
            bare = server.edge is None and not all(path.startswith(_PUBLIC_PATHS) for path in one.paths)
            words = f"{one.title}, port {target}, {' '.join(one.paths)}"
            yield judged(not bare and not {target, number} & _INSIDE, one.place, words)


@manifests.check("O4", "lead it to the edge's port `public`, or make it a ClusterIP")
def public_service(cluster: Cluster) -> Iterator[Finding]:
    """a Service of type LoadBalancer or NodePort reaches the server's public port alone"""
    for one in [one for one in cluster.kind("Service") if one.text("spec", "type") in ("LoadBalancer", "NodePort")]:
        pods = cluster.behind(one)
        for ports in [server.workload.ports() for server in cluster.servers if server.workload in pods]:
            for port in one.blocks("spec", "ports"):
                target = target_of(port)
                good = ports.get(target, "public") in ("public", ports.get("public"))
                yield judged(good, port.place, f"{title_of(one)}, port {target}")


@manifests.check("D5", "add it, or know why not: server.yaml of the template shows one")
def guarded(cluster: Cluster) -> Iterator[Finding]:
    """the server has a NetworkPolicy, a PodDisruptionBudget and a HorizontalPodAutoscaler"""
    for pod in [server.workload for server in cluster.servers]:
        scaled = [one.text("spec", "scaleTargetRef", "name") for one in cluster.kind("HorizontalPodAutoscaler")]
        found = {"HorizontalPodAutoscaler": pod.body.text("metadata", "name") in scaled}
        for kind, key in (("NetworkPolicy", "podSelector"), ("PodDisruptionBudget", "selector")):
            found[kind] = any(pod in cluster.selected(one, "spec", key) for one in cluster.kind(kind))
        for kind, there in found.items():
            yield Finding(
                "pass" if there else "unseen", kind if there else f"no {kind}", pod.body.place, required=False
            )


@manifests.check("D5", "write five fields as cron has them, and a name of the time zone database")
def cron(cluster: Cluster) -> Iterator[Finding]:
    """a CronJob's schedule and time zone exist"""
    for job in cluster.kind("CronJob"):
        schedule, zone = job.text("spec", "schedule"), job.text("spec", "timeZone")
        good = _is_schedule(schedule) and (not zone or zone in available_timezones())
        yield judged(good, job.at("spec", "schedule"), f"{schedule} {zone}".strip())


@manifests.check("C2", "name a version, or a digest, never latest")
def image_tag(cluster: Cluster) -> Iterator[Finding]:
    """every image has a digest, or a tag that is not latest"""
    for _, container in cluster.containers:
        _, tag, digest = image_of(container)
        yield judged(bool(digest) or tag not in ("", "latest"), container.at("image"), container.text("image"))


manifests.extend([*pods, *chain])


def given(names: Iterable[str], stdin: TextIO) -> Cluster:
    """Read files, folders and, for `-`, standard input as one stream.

    Raises:
        OSError: If one is not there.
        ValueError: If a folder is not manifests yet: it is to be built.
    """
    problems: list[Finding] = []
    documents: list[Yaml] = []
    for name in names:
        path = Path(name)
        if name == "-":
            documents += load(stdin.read(), "stdin", problems)
        elif path.is_dir():
            files = [file for file in sorted(path.rglob("*")) if file.suffix in (".yaml", ".yml", ".json")]
            if any(file.name in NAMES for file in files):
                raise ValueError(f"{name} is to be built first: kustomize build {name} | … check manifests -f -")
            documents += [document for file in files for document in read(file, problems)]
        else:
            path.stat()
            documents += read(path, problems)
    return Cluster(blocks(documents), problems)


@dataclass(frozen=True, slots=True)
class _Backend:
    """Where a route leads to."""

    title: str
    place: str
    service: Block
    port: Block | None
    paths: list[str]


def _backends(cluster: Cluster) -> Iterator[_Backend]:
    for route in cluster.kind("HTTPRoute"):
        for rule in route.blocks("spec", "rules"):
            paths = [match.text("path", "value") or "/" for match in rule.blocks("matches")] or ["/"]
            for one in [one for one in rule.blocks("backendRefs") if one.text("kind") in ("", "Service")]:
                yield _backend(cluster, route, one.place, one.text("name"), one.text("port"), paths)
    for ingress in cluster.kind("Ingress"):
        default = ingress.block("spec", "defaultBackend")
        found = [(default, "/")] if default else []
        for rule in ingress.blocks("spec", "rules"):
            found += [(path.block("backend"), path.text("path") or "/") for path in rule.blocks("http", "paths")]
        for one, path in found:
            port = one.text("service", "port", "name") or one.text("service", "port", "number")
            yield _backend(cluster, ingress, one.place, one.text("service", "name"), port, [path])


def _backend(cluster: Cluster, route: Block, place: str, name: str, port: str, paths: list[str]) -> _Backend:
    service = cluster.named("Service", name) or Block(place)
    ports = [one for one in service.blocks("spec", "ports") if port in (one.text("name"), one.text("port"))]
    return _Backend(f"{title_of(route)} to {name}:{port}", place, service, ports[0] if ports else None, paths)


def _is_loopback(cluster: Cluster, workload: Workload, number: str) -> bool:
    """Tell whether a port is the server's own, which the pod's address does not have; a mesh leads there itself."""
    return any(one.workload is workload and one.edge is not None and one.port == number for one in cluster.servers)


def _is_schedule(text: str) -> bool:
    if text.startswith("@"):
        return re.fullmatch(r"@(yearly|annually|monthly|weekly|daily|midnight|hourly|every \S+)", text) is not None
    fields = text.lower().split()
    parts = [(part, bounds) for field, bounds in zip(fields, _CRON, strict=False) for part in field.split(",")]
    return len(fields) == len(_CRON) and all(_is_field(part, *bounds) for part, bounds in parts)


def _is_field(part: str, least: int, most: int, names: str) -> bool:
    found = re.fullmatch(r"(?:\*|\?|(\w+)(?:-(\w+))?)(?:/[1-9]\d*)?", part)
    words = [word for word in found.groups() if word] if found else ["none"]
    given = [
        names.find(word) // 3 + least if word in names else int(word) if word.isdecimal() else -1 for word in words
    ]
    return all(least <= number <= most for number in given) and given == sorted(given)
