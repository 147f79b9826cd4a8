"""The time limits that manifests hold, each against its neighbour in the chain (T8)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mcp_chassis.checks.cluster import Cluster, Limits, Server
from mcp_chassis.checks.report import Finding, Profile, judged
from mcp_chassis.checks.sources import Block, seconds

FLOOR: Final = 300.0
"""Seconds that no idle or read limit goes below: twenty pings of 15 s, and the time a silent client may think."""
_NGINX: Final = "nginx.ingress.kubernetes.io/"
_ALB: Final = "alb.ingress.kubernetes.io/load-balancer-attributes"
_ANNOTATIONS: Final = {
    "nginx": (f"{_NGINX}proxy-read-timeout", f"{_NGINX}proxy-send-timeout"),
    "alb": (_ALB,),
}
"""By class of ingress; each class cuts after 60 s where its annotation is missing."""

chain: Profile[Cluster] = Profile()


def long_enough(text: str, where: str, name: str, call: float = 0, *, zero: bool = False) -> Finding:
    """Judge a limit of a proxy, with `call` one that a silent call must fit under; `zero` says that 0 is no limit."""
    found = seconds(text)
    good = found is not None and ((found >= FLOOR and found > call) or (zero and found == 0))
    why = f"the floor is {FLOOR:g} s" + (f", and the longest call is {call:g} s" if call else "")
    return judged(good, where, f"{name} {text}", f"set {name} to {max(FLOOR, call + 30 if call else 0):g} s: {why}")


def serving_limits(cluster: Cluster) -> Limits:
    """Return the longest limits of the servers in a stream."""
    found = [server.limits for server in cluster.servers] or [Limits.of({})]
    return max(found, key=lambda limits: limits.call)


def pre_stop(server: Server) -> float:
    """Return the seconds that the server's container sleeps before it is told to stop."""
    return seconds(server.app.text("lifecycle", "preStop", "sleep", "seconds")) or 0


@chain.check("S3", "raise MCP_DRAIN_TIMEOUT, or leave it out: it follows the longest call")
def drain_covers_call(cluster: Cluster) -> Iterator[Finding]:
    """MCP_DRAIN_TIMEOUT is at least the longest call"""
    for server in cluster.servers:
        words = f"drain {server.limits.drain:g} s, longest call {server.limits.call:g} s"
        yield judged(server.limits.drain >= server.limits.call, server.app.at("env"), words)


@chain.check("T8", "raise terminationGracePeriodSeconds, or `copier update --data tool_timeout=…` raises all at once")
def grace_period(cluster: Cluster) -> Iterator[Finding]:
    """preStop + drain < terminationGracePeriodSeconds"""
    for server in cluster.servers:
        pod = server.workload.pod
        grace = seconds(pod.text("terminationGracePeriodSeconds")) or 30
        words = f"{pre_stop(server):g} s preStop + {server.limits.drain:g} s drain, grace {grace:g} s"
        where = pod.at("terminationGracePeriodSeconds")
        yield judged(pre_stop(server) + server.limits.drain < grace, where, words)


@chain.check("T8", "set timeouts.request of the rule; 0s is none")
def route_timeouts(cluster: Cluster) -> Iterator[Finding]:
    """each rule of an HTTPRoute sets timeouts of at least 300 s and above the longest call, or 0s"""
    call = serving_limits(cluster).call
    for rule in [rule for route in cluster.kind("HTTPRoute") for rule in route.blocks("spec", "rules")]:
        given = rule.block("timeouts")
        if "request" not in given:
            yield Finding("fail", "no timeouts.request: the gateway's own default applies", rule.place)
        for name in [name for name in ("request", "backendRequest") if name in given]:
            yield long_enough(given.text(name), given.at(name), name, call, zero=True)


@chain.check("T8", "set the annotation of your ingress class; without it the connection is cut after 60 s")
def ingress_timeouts(cluster: Cluster) -> Iterator[Finding]:
    """the idle and read limits in an Ingress's annotations are at least 300 s and above the longest call"""
    call = serving_limits(cluster).call
    for ingress in cluster.kind("Ingress"):
        notes = ingress.block("metadata", "annotations")
        kind = ingress.text("spec", "ingressClassName") or notes.text("kubernetes.io/ingress.class")
        for name in [name for names in _ANNOTATIONS.values() for name in names]:
            if name in notes:
                yield long_enough(_value(notes, name), notes.at(name), name, call)
            elif name in _ANNOTATIONS.get(kind, ()):
                yield Finding("fail", f"no {name}", ingress.place)


def _value(notes: Block, name: str) -> str:
    """Return the seconds of an annotation; of the ALB's list, those of the idle limit."""
    text = notes.text(name)
    attributes = dict(part.strip().partition("=")[::2] for part in text.split(","))
    return attributes.get("idle_timeout.timeout_seconds", "60") if name == _ALB else text
