"""The time limits that manifests hold, each against its neighbour in the chain (T8)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mcp_chassis.checks.cluster import Cluster, Limits, Server
from mcp_chassis.checks.report import Finding, Profile, judged
from mcp_chassis.checks.sources import Block, seconds

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
