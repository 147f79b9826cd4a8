"""What `kustomize build` makes of a folder, as far as values go: resources, components, patches, maps, labels, images.

Each value keeps the place it comes from, which a build loses. Names and selectors stay as they are written.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from mcp_chassis.checks import Finding, Outcome, Profile, judged
from mcp_chassis.checks.cluster import POD_OF, Cluster, Limits, Server, image_of, merge, title_of
from mcp_chassis.checks.sources import Block, Yaml, blocks, load, read, seconds

FLOOR: Final = 300.0
"""Seconds that no idle or read limit goes below: twenty pings of 15 s, and the time a silent client may think."""
LAST_RESORT: Final = 5.0
"""Seconds past the drain in which a server says its last words, and after which it ends whatever holds it."""
_NGINX: Final = "nginx.ingress.kubernetes.io/"
_ALB: Final = "alb.ingress.kubernetes.io/load-balancer-attributes"
_ALB_TARGETS: Final = "alb.ingress.kubernetes.io/target-group-attributes"
_ANNOTATIONS: Final = {
    "nginx": (f"{_NGINX}proxy-read-timeout", f"{_NGINX}proxy-send-timeout"),
    "alb": (_ALB,),
}
"""By class of ingress; each class cuts after 60 s where its annotation is missing."""
_IN_LISTS: Final = {
    _ALB: ("idle_timeout.timeout_seconds", "60"),
    _ALB_TARGETS: ("deregistration_delay.timeout_seconds", "300"),
}
"""The attribute that counts in an annotation of the ALB, and what the ALB does without it."""

chain: Profile[Cluster] = Profile()
_ADDRESS: Final = re.compile(r"://|^git@|^github\.com/|\?ref=")
NAMES: Final = ("kustomization.yaml", "kustomization.yml", "Kustomization")
_KEYS: Final = {
    "": "apiVersion kind metadata namespace resources components configMapGenerator generatorOptions patches"
    " patchesJson6902 replicas labels commonLabels commonAnnotations images buildMetadata sortOptions",
    "configMapGenerator": "name namespace behavior literals envs files options",
    "images": "name newName newTag digest",
    "labels": "pairs includeSelectors includeTemplates",
}
"""What is understood of a kustomization, and of the items of its lists."""


def long_enough(text: str, where: str, name: str, call: float = 0, *, zero: bool = False) -> Finding:
    """Judge a limit of a proxy, with `call` one that a silent call must fit under; `zero` says that 0 is no limit."""
    found = seconds(text)
    good = found is not None and ((found >= FLOOR and found > call) or (zero and found == 0))
    why = f"the floor is {FLOOR:g} s" + (f", and the longest call is {call:g} s" if call else "")
    return judged(good, where, f"{name} {text}", f"set {name} to {max(FLOOR, call + 30 if call else 0):g} s: {why}")


def longest_call(cluster: Cluster) -> float:
    """Return the longest call of the servers in a stream; where none is, the project's, or what the answers say."""
    return max((server.limits.call for server in cluster.servers), default=cluster.project_call or Limits.of({}).call)


def pre_stop(server: Server) -> float:
    """Return the seconds that the server's container sleeps before it is told to stop."""
    return seconds(server.app.text("lifecycle", "preStop", "sleep", "seconds")) or 0


@chain.check("S3", "raise MCP_DRAIN_TIMEOUT, or leave it out: it follows the longest call")
def drain_covers_call(cluster: Cluster) -> Iterator[Finding]:
    """in Kubernetes, MCP_DRAIN_TIMEOUT is at least the longest call"""
    for server in cluster.servers:
        words = f"drain {server.limits.drain:g} s, longest call {server.limits.call:g} s"
        yield judged(server.limits.drain >= server.limits.call, server.app.at("env"), words)


@chain.check("T8", "raise terminationGracePeriodSeconds, or `copier update --data tool_timeout=…` raises all at once")
def grace_period(cluster: Cluster) -> Iterator[Finding]:
    """preStop + drain + 5 s < terminationGracePeriodSeconds"""
    for server in cluster.servers:
        pod = server.workload.pod
        grace = seconds(pod.text("terminationGracePeriodSeconds") or "30") or 0
        words = f"{pre_stop(server):g} s preStop + {server.limits.drain:g} s drain + 5 s, grace {grace:g} s"
        where = pod.at("terminationGracePeriodSeconds")
        yield judged(pre_stop(server) + server.limits.drain + LAST_RESORT < grace, where, words)


@chain.check("T8", "set timeouts.request of the rule; 0s is none")
def route_timeouts(cluster: Cluster) -> Iterator[Finding]:
    """each rule of an HTTPRoute sets timeouts of at least 300 s and above the longest call, or 0s"""
    call = longest_call(cluster)
    for rule in [rule for route in cluster.kind("HTTPRoute") for rule in route.blocks("spec", "rules")]:
        given = rule.block("timeouts")
        if "request" not in given:
            yield Finding("fail", "no timeouts.request: the gateway's own default applies", rule.place)
        for name in [name for name in ("request", "backendRequest") if name in given]:
            yield long_enough(given.text(name), given.at(name), name, call, zero=True)


@chain.check("T8", "set the annotation of your ingress class; without it the connection is cut after 60 s")
def ingress_timeouts(cluster: Cluster) -> Iterator[Finding]:
    """the idle and read limits in an Ingress's annotations are at least 300 s and above the longest call"""
    call = longest_call(cluster)
    for ingress in cluster.kind("Ingress"):
        notes = ingress.block("metadata", "annotations")
        for name in [name for names in _ANNOTATIONS.values() for name in names]:
            if name in notes:
                yield long_enough(_value(notes, name), notes.at(name), name, call)
            elif name in _ANNOTATIONS.get(_class(ingress), ()):
                yield Finding("fail", f"no {name}", ingress.place)


@chain.check("S4", "raise deregistration_delay.timeout_seconds to the longest call")
def balancer_delay(cluster: Cluster) -> Iterator[Finding]:
    """an ALB lets go of a leaving pod no sooner than after the longest call"""
    call = longest_call(cluster)
    for ingress in cluster.kind("Ingress"):
        notes = ingress.block("metadata", "annotations")
        if _ALB_TARGETS in notes or _class(ingress) == "alb":
            text, where = _value(notes, _ALB_TARGETS), notes.at(_ALB_TARGETS)
            yield judged((seconds(text) or 0) >= call, where, f"deregistration_delay {text} s of {call:g} s")


def _class(ingress: Block) -> str:
    notes = ingress.block("metadata", "annotations")
    return ingress.text("spec", "ingressClassName") or notes.text("kubernetes.io/ingress.class")


def _value(notes: Block, name: str) -> str:
    """Return the seconds of an annotation; of a list of the ALB's, those of its attribute."""
    text = notes.text(name)
    attributes = dict(part.strip().partition("=")[::2] for part in text.split(","))
    return attributes.get(*_IN_LISTS[name]) if name in _IN_LISTS else text


def _unseen(words: str, where: str) -> Finding:
    return Finding("unseen", f"{words} is not understood", where, required=False)


class Builder:
    """Builds folders; afterwards knows what it read and what it could not."""

    def __init__(self) -> None:
        self.problems: list[Finding] = []
        self.read: set[Path] = set()

    def build(self, folder: Path, objects: list[Block]) -> list[Block]:
        """Add the objects of a folder to `objects`, and return them."""
        file = next((folder / name for name in NAMES if (folder / name).is_file()), folder / NAMES[0])
        for config in blocks(self.documents(file)):
            for key, known in _KEYS.items():
                for item in config.blocks(key) if key else [config]:
                    self._strange(item, known.split())
            for name in config.texts("resources"):
                path = self._inside(folder, name, config.at("resources"))
                objects += self.build(path, []) if path.is_dir() else blocks(self.documents(path))
            for name in config.texts("components"):
                self.build(self._inside(folder, name, config.at("components")), objects)
            for generated in config.blocks("configMapGenerator"):
                _generate(generated, folder, objects)
            for patch in [*config.blocks("patches"), *config.blocks("patchesJson6902")]:
                self._patch(patch, folder, objects)
            for one in objects:
                _mark(one, config)
        return objects

    def documents(self, path: Path) -> list[Yaml]:
        """Read a file afresh; an address is nobody's file here."""
        self.read.add(path.resolve())
        return read(path, self.problems) if path.is_file() else []

    def _inside(self, folder: Path, name: str, place: str) -> Path:
        path = Path(os.path.normpath(folder / name))
        there = any((path / one).is_file() for one in NAMES) if path.is_dir() else path.is_file()
        if not there:
            outcome: Outcome = "unseen" if _ADDRESS.search(name) else "fail"
            self.problems.append(Finding(outcome, f"{name} is no file, and no kustomization", place, required=False))
        return path

    def _strange(self, given: Block, known: Iterable[str]) -> None:
        for key in sorted(given.keys() - set(known)):
            self.problems.append(_unseen(key, given.at(key)))

    def _patch(self, patch: Block, folder: Path, objects: list[Block]) -> None:
        inline, (file, _, line) = patch.text("patch"), patch.at("patch").rpartition(":")
        if inline:
            # A text of several lines begins on the next one.
            given = load(inline, file, self.problems, int(line) - ("\n" not in inline))
        else:
            given = self.documents(self._inside(folder, patch.text("path"), patch.at("path")))
        for document in given:
            body = document if isinstance(document, Block) else Block(patch.place)
            self._silent(document, top=True)
            target = patch.block("target")
            self._strange(target, ("group", "version", "kind", "name"))
            for one in [one for one in objects if _fits(one, target, body)]:
                if body.text("$patch") == "delete":
                    objects.remove(one)
                merge(one, body)
                for step in document if isinstance(document, list) else []:
                    _step(one, step if isinstance(step, Block) else body)

    def _silent(self, value: Yaml, *, top: bool = False) -> None:
        """Tell what a patch may say and `merge` and `_step` do not do."""
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, Block):
                known = {"$patch"} if (top or isinstance(value, list)) and item.text("$patch") == "delete" else set()
                self._strange(item, [key for key in item if key in known or not key.startswith("$")])
                if top and isinstance(value, list) and item.text("op") not in ("add", "replace", "remove"):
                    self.problems.append(_unseen(item.text("op") or "a step without op", item.at("op")))
                for inner in item.values():
                    self._silent(inner)


def _fits(one: Block, target: Block, body: Block) -> bool:
    """Tell whether a patch is for an object: each text of a target is a pattern for the whole."""
    group, _, version = one.text("apiVersion").rpartition("/")
    found = {"group": group, "version": version, "kind": one.text("kind"), "name": one.text("metadata", "name")}
    exact = {"kind": re.escape(body.text("kind")), "name": re.escape(body.text("metadata", "name"))}
    wanted = {key: target.text(key) for key in found} if target else exact
    return all(re.fullmatch(text, found[key]) for key, text in wanted.items() if text)


def _step(one: Block, step: Block) -> None:
    """Apply one operation of a JSON patch."""
    *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in step.text("path").split("/")[1:]] or [""]
    parent: Yaml = one
    for part in parents:
        if isinstance(parent, list):
            parent = parent[int(part)] if part.isdecimal() and int(part) < len(parent) else None
        elif isinstance(parent, Block):
            parent = parent.get(part)
    operation = step.text("op")
    if isinstance(parent, list):
        start = int(last) if last.isdecimal() else len(parent)
        parent[start : start + (operation != "add")] = [] if operation == "remove" else [step.value("value")]
    elif isinstance(parent, Block) and operation == "remove":
        parent.pop(last, None)
    elif isinstance(parent, Block):
        parent.put(last, step.value("value"), step.at("value"))


def _mark(one: Block, config: Block) -> None:
    """Lay labels, annotations and images over an object, and over the pods that it makes."""
    path = POD_OF.get(one.text("kind"))
    template = Block(one.place) if path is None else one.block(*path)
    for pairs in config.blocks("labels"):
        within = "True" in (pairs.text("includeTemplates"), pairs.text("includeSelectors"))
        for holder in (one, template) if within else (one,):
            _add(holder, "labels", pairs.block("pairs"))
    for holder in (one, template):
        _add(holder, "labels", config.block("commonLabels"))
        _add(holder, "annotations", config.block("commonAnnotations"))
    for count in config.blocks("replicas"):
        if count.text("name") == one.text("metadata", "name") and one.text("kind") in ("Deployment", "StatefulSet"):
            one.block("spec").put("replicas", count.value("count"), count.place)
    for container in [*template.blocks("spec", "containers"), *template.blocks("spec", "initContainers")]:
        for image in config.blocks("images"):
            given, name = container.text("image"), image_of(container)[0]
            if name and re.fullmatch(image.text("name"), name):
                rest = given.removeprefix(name)
                if "digest" in image or "newTag" in image:
                    rest = f"@{image.text('digest')}" if "digest" in image else f":{image.text('newTag')}"
                container.put("image", (image.text("newName") or name) + rest, image.place)


def _add(holder: Block, key: str, pairs: Block) -> None:
    patch, metadata = Block(pairs.place), Block(pairs.place)
    metadata.put(key, pairs, pairs.place)
    patch.put("metadata", metadata, pairs.place)
    if pairs:
        merge(holder, patch)


def _generate(given: Block, folder: Path, objects: list[Block]) -> None:
    """Add a generated ConfigMap, or what it changes in one that is there."""
    data = Block(given.place)
    for name in given.texts("envs"):
        lines = (folder / name).read_text(encoding="utf-8").splitlines() if (folder / name).is_file() else []
        for number, line in enumerate(lines, start=1):
            key, _, value = line.partition("=")
            data.put(key.strip(), value.strip(), f"{folder / name}:{number}")
    for literal in given.texts("literals"):
        key, _, value = literal.partition("=")
        data.put(key, value.strip("\"'"), given.at("literals"))
    for known in objects:
        if title_of(known) == f"ConfigMap/{given.text('name')}":
            if given.text("behavior") == "replace":
                known.put("data", data, given.place)
            merge(known.block("data"), data)
            return
    made, metadata = Block(given.place), Block(given.place)
    metadata.put("name", given.text("name"), given.place)
    made.update({"kind": "ConfigMap", "metadata": metadata, "data": data})
    objects.append(made)
