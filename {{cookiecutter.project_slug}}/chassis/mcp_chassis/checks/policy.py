"""`check policy`: what an organisation demands beyond the template, in `policy.yaml`, which can only tighten (M5)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import Final

from mcp_chassis.checks import Finding, Nothing, Profile, Unseen, judged
from mcp_chassis.checks.cluster import Cluster, Limits, Variables, image_of, is_ours, title_of
from mcp_chassis.checks.kustomize import NAMES, Builder
from mcp_chassis.checks.sources import Block, Yaml, blocks, read
from mcp_chassis.checks.timeouts import Project, environment_of
from mcp_chassis.forms import AUTH_MODES

POLICY: Final = "policy.yaml"
_WAYS: Final = frozenset(AUTH_MODES)
NUMBERS: Final = {"maximum_tool_seconds": (1, 3600), "minimum_replicas": (2, 100)}
"""Rules that are numbers, with the bounds that the template has: no longer call, no replica alone."""
LISTS: Final = {
    "allowed_registries": "",
    "forbid_auth": "none",
    "forbid_image_tags": "latest",
    "required_alerts": "",
    "required_annotations": "",
    "required_labels": "",
}
"""Rules that are lists, with what must be among it, because the template refuses that by itself."""


_TAG: Final = re.compile(r"\w[\w.-]{0,127}", flags=re.ASCII)
_OF_CLUSTER: Final = frozenset({*LISTS, *NUMBERS} - {"required_alerts"})


class Policed:
    """A project, and what its policy demands."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.problems: list[Finding] = []
        path = project.root / POLICY
        other = path.with_suffix(".yml")
        # A link to nowhere does not exist, and yet someone meant a policy to be here.
        self.there = any(os.path.lexists(one) for one in (path, other))
        if os.path.lexists(other):
            self.problems.append(Finding("fail", f"nobody reads it; call it {POLICY}", str(other)))
        documents = read(path, self.problems) if os.path.lexists(path) else []
        given = documents[0] if len(documents) == 1 else None
        if self.there and not isinstance(given, Block) and not self.problems:
            self.problems.append(Finding("fail", "is no mapping, like minimum_replicas: 3", str(path)))
        self.rules = given if isinstance(given, Block) else Block(str(path))
        self.refused = {key: words for key in self.rules if (words := _refusal(key, self.rules[key]))}

    def texts(self, key: str) -> list[str]:
        """Return what a rule lists, or its number. Raises `Nothing` where there is no such rule."""
        if key not in self.rules or key in self.refused:
            raise Nothing(f"{POLICY} has no {key}" if key not in self.rules else f"{key} is refused")
        return self.rules.texts(key) or [self.rules.text(key)]

    @cached_property
    def built(self) -> list[Cluster]:
        """Each kustomization that no other one takes, and each overlay, taken or not."""
        folder = self.project.root / "deploy"
        paths = sorted(path for name in NAMES for path in folder.rglob(name))
        found = []
        for path in paths:
            builder = Builder()
            objects = builder.build(path.parent, [])
            if "Component" not in {one.text("kind") for one in blocks(builder.documents(path))}:
                found.append((path, builder, objects))
        taken = {one for path, builder, _ in found for one in builder.read if one != path.resolve()}
        return [
            Cluster(objects, builder.problems)
            for path, builder, objects in found
            if path.resolve() not in taken or "overlays" in path.relative_to(folder).parts
        ]

    @property
    def clusters(self) -> list[Cluster]:
        """What may be deployed: what is built and has a server. Raises `Unseen` without any."""
        if not (clusters := [cluster for cluster in self.built if cluster.servers]):
            raise Unseen("no kustomization below deploy/ runs a server", "give it an overlay, or take the rule out")
        return clusters

    @cached_property
    def composed(self) -> list[tuple[str, str, Variables]]:
        """Each server of the compose files: its name, its place and its variables."""
        try:
            services = self.project.services[0]
        except Nothing:
            return []
        found = []
        for name, parts in services.items():
            given = environment_of(parts, self.project.variables)
            # What is built here may be a server by what cannot be read.
            built = any(key in part for part in parts for key in ("build", "extends"))
            if is_ours(given.texts) or (built and not given.complete):
                found.append((name, parts[-1].at("environment"), given))
        return found

    def alerts(self) -> set[str]:
        """Return the alerts in any file below deploy/, the template's and your own."""
        files = (self.project.root / "deploy").rglob("*.y*ml")
        documents = [one for path in files for one in blocks(read(path, []))]
        holders = [part for one in documents for part in (one, one.block("spec"))]
        rules = [rule for one in holders for group in one.blocks("groups") for rule in group.blocks("rules")]
        return {rule.text("alert") for rule in rules} - {""}


def _refusal(key: str, value: Yaml) -> str:
    """Return why a rule is none, or would loosen what the template demands."""
    if key in NUMBERS:
        least, most = NUMBERS[key]
        good = type(value) is int and least <= value <= most
        return "" if good else f"{key} must be a whole number from {least} to {most}: a policy can only tighten"
    if key not in LISTS:
        return f"{key} is no rule; use {', '.join([*LISTS, *NUMBERS])}"
    held, items = LISTS[key], value if isinstance(value, list) else []
    names = {one for one in items if isinstance(one, str) and one.strip()}
    if items and len(names) < len({str(one) for one in items}):
        return f"{key} must be a list of texts, quoted where they look like numbers"
    if not names or (held and held not in names):
        return (
            f"{key} must be a list{f' with {held}, which is refused anyway' if held else ''}: a policy can only tighten"
        )
    if key == "forbid_image_tags" and (wrong := sorted(one for one in names if not _TAG.fullmatch(one))):
        return f"forbid_image_tags names tags alone, like dev; {wrong[0]} is none"
    if key == "forbid_auth" and (names >= _WAYS or names - _WAYS):
        return f"forbid_auth must leave one of {', '.join(sorted(_WAYS))}, and name no other"
    return ""


policy: Profile[Policed] = Profile()


@policy.check("M5", "mend policy.yaml; docs/platform.md of the template lists the rules")
def rules(given: Policed) -> Iterator[Finding]:
    """policy.yaml holds rules that are known, none looser than the template"""
    if not given.there:
        raise Nothing(f"no {POLICY}: nothing more than the template's own is demanded")
    yield from given.problems
    yield from [Finding("fail", words, given.rules.at(key)) for key, words in given.refused.items()]
    yield Finding("pass", ", ".join(given.rules) or "no rule")


@policy.check("M5", "write it as a patch with a target of kind and name, with its files beside it; or mend the file")
def followed(given: Policed) -> Iterator[Finding]:
    """nothing in a kustomization or a compose file hides from the rules what will run"""
    if not (given.rules.keys() - given.refused.keys()) & _OF_CLUSTER:
        raise Nothing("no rule is about the cluster")
    problems = [problem for cluster in given.built for problem in cluster.problems]
    with suppress(Nothing):
        problems += given.project.services[1]
    yield from [replace(problem, required=True) for problem in problems]
    yield Finding("pass", f"{len(given.built)} kustomizations")


@policy.check("M5", "set MCP_AUTH to another way, in the overlay or compose.override.yaml")
def forbid_auth(given: Policed) -> Iterator[Finding]:
    """no server proves its callers in a forbidden way"""
    forbidden = set(given.texts("forbid_auth"))
    found = [(place, variables) for _, place, variables in given.composed]
    found += [(one.app.place, one.variables) for cluster in given.clusters for one in cluster.servers]
    for place, variables in found:
        text = variables.texts.get("MCP_AUTH", "none")
        if "MCP_AUTH" not in variables.texts and not variables.complete:
            words = "MCP_AUTH is not in the overlay, nor under environment: in compose"
            yield Finding("unseen", words, place, "set it there; it is no secret")
        else:
            yield judged(not forbidden & set(re.split(r"[,\s]+", text)), place, f"MCP_AUTH={text}")


@policy.check("M5", "raise minReplicas of the HorizontalPodAutoscaler in the overlay")
def minimum_replicas(given: Policed) -> Iterator[Finding]:
    """each server of a cluster has at least so many replicas"""
    least = int(*given.texts("minimum_replicas"))
    for cluster in given.clusters:
        for server in cluster.servers:
            count = cluster.replicas(server.workload)[0]
            yield judged(count >= least, server.workload.body.place, f"{count} of {least} replicas")


@policy.check("M5", "lower it: `copier update --vcs-ref=:current: --data tool_timeout=…`, or the tool's own timeout")
def maximum_tool_seconds(given: Policed) -> Iterator[Finding]:
    """no server and no tool allows a longer call"""
    most = int(*given.texts("maximum_tool_seconds"))
    found = [("here", "", given.project.limits.call)]
    found += [(name, place, Limits.of(variables.texts).call) for name, place, variables in given.composed]
    servers = [server for cluster in given.clusters for server in cluster.servers]
    found += [(server.workload.title, server.app.at("env"), server.limits.call) for server in servers]
    found += [(f"tool {name}", "", seconds) for name, seconds in given.project.declared().items()]
    for name, place, call in found:
        yield judged(call <= most, place, f"{name}: {call:g} s of {most} s")


@policy.check("M5", "add the alert to a rules file below deploy/")
def required_alerts(given: Policed) -> Iterator[Finding]:
    """each alert stands in a rules file below deploy/"""
    there = given.alerts()
    for name in given.texts("required_alerts"):
        yield judged(name in there, given.rules.at("required_alerts"), name)


def _marked(given: Policed, rule: str, key: str) -> Iterator[Finding]:
    for name in given.texts(rule):
        for cluster in given.clusters:
            for one in cluster.objects:
                words = f"{title_of(one)}: {name}"
                yield judged(one.text("metadata", key, name).strip() != "", one.place, words)
            for workload in cluster.workloads:
                words = f"{workload.title}, pods: {name}"
                yield judged(workload.metadata.text(key, name).strip() != "", workload.pod.place, words)


@policy.check("M5", "add it with the answer `team`, or under labels: in the overlay, with includeTemplates: true")
def required_labels(given: Policed) -> Iterator[Finding]:
    """every object and every pod of a cluster has these labels"""
    return _marked(given, "required_labels", "labels")


@policy.check("M5", "add it with the answer `team`, or under commonAnnotations: in the overlay")
def required_annotations(given: Policed) -> Iterator[Finding]:
    """every object and every pod of a cluster has these annotations"""
    return _marked(given, "required_annotations", "annotations")


def _containers(given: Policed) -> list[Block]:
    return [container for cluster in given.clusters for _, container in cluster.containers]


@policy.check("M5", "name a release, or a digest, under images: in the overlay")
def forbid_image_tags(given: Policed) -> Iterator[Finding]:
    """no image of a cluster has a forbidden tag; without tag and digest it is latest"""
    forbidden = given.texts("forbid_image_tags")
    for container in _containers(given):
        _, tag, digest = image_of(container)
        named = tag or ("" if digest else "latest")
        yield judged(named not in forbidden, container.at("image"), container.text("image"))


@policy.check("M5", "mirror the image, and name the mirror under images: in the overlay")
def allowed_registries(given: Policed) -> Iterator[Finding]:
    """every image of a cluster comes from one of these registries"""
    allowed = tuple(f"{name.rstrip('/')}/" for name in given.texts("allowed_registries"))
    for container in _containers(given):
        image = container.text("image")
        yield judged(image.startswith(allowed), container.at("image"), image)
