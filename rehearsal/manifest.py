"""What the rendered Kubernetes manifest says about the life of a pod."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

_DEFAULT_PERIOD, _DEFAULT_TIMEOUT, _DEFAULT_THRESHOLD = 10.0, 1.0, 3
"""Kubernetes' own."""
_REPLACEMENT: Final = {"maxUnavailable": 0, "maxSurge": 1}


@dataclass(frozen=True)
class Probe:
    """One question of the kubelet.

    Args:
        path: What is asked.
        port: On which of the pod's ports.
        period: Seconds between two questions.
        timeout: Seconds an answer may take.
        threshold: Failures in a row that count.
    """

    path: str
    port: int
    period: float
    timeout: float
    threshold: int


@dataclass(frozen=True)
class Container:
    """One container of the pod.

    Args:
        startup: What must be answered before anything after it begins.
        liveness: What must be answered, or it is started again.
        readiness: What must be answered for requests to come.
        pre_stop: Seconds between the order to end and the signal.
        environment: Variables with a value of their own.
    """

    startup: Probe | None
    liveness: Probe | None
    readiness: Probe | None
    pre_stop: float
    environment: dict[str, str]


@dataclass(frozen=True)
class Plan:
    """How pods come and go.

    Args:
        edge: The native sidecar: ready before the server starts, told to end after the server has ended.
        server: The main container.
        grace: Seconds from the order to end until everything left is killed.
    """

    edge: Container
    server: Container
    grace: float


def read(path: Path, *, speed: float = 1) -> Plan:
    """Return the plan of the only Deployment in a file.

    Args:
        path: The file as it was rendered.
        speed: By what waits are divided; an answer of a probe, and a start as a whole, may take as long as ever.

    Raises:
        ValueError: If it says something that is not played here.
    """
    found = [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one["kind"] == "Deployment"]
    if len(found) != 1:
        raise ValueError(f"{path.name} holds {len(found)} Deployments; one is played")
    spec = found[0]["spec"]
    if spec["strategy"]["rollingUpdate"] != _REPLACEMENT:
        raise ValueError(f"{path.name}: the strategy is not {_REPLACEMENT}, the only one played")
    pod = spec["template"]["spec"]
    ((edge,), (server,)) = pod["initContainers"], pod["containers"]
    if edge.get("restartPolicy") != "Always":
        raise ValueError(f"{path.name}: the edge is no native sidecar, so it would end before the server")
    grace = pod["terminationGracePeriodSeconds"] / speed
    return Plan(_container(edge, speed), _container(server, speed), grace)


def _container(spec: dict[str, Any], speed: float) -> Container:
    ports = {port["name"]: int(port["containerPort"]) for port in spec.get("ports", [])}
    startup, liveness, readiness = (
        None if name not in spec else _probe(spec[name], ports, speed, lasting=name == "startupProbe")
        for name in ("startupProbe", "livenessProbe", "readinessProbe")
    )
    pre_stop = spec.get("lifecycle", {}).get("preStop", {"sleep": {"seconds": 0}})["sleep"]["seconds"]
    environment = {one["name"]: str(one["value"]) for one in spec.get("env", []) if "value" in one}
    return Container(startup, liveness, readiness, pre_stop / speed, environment)


def _probe(spec: dict[str, Any], ports: dict[str, int], speed: float, *, lasting: bool) -> Probe:
    port = spec["httpGet"]["port"]
    threshold = spec.get("failureThreshold", _DEFAULT_THRESHOLD)
    return Probe(
        path=spec["httpGet"]["path"],
        port=ports[port] if isinstance(port, str) else port,
        period=spec.get("periodSeconds", _DEFAULT_PERIOD) / speed,
        timeout=spec.get("timeoutSeconds", _DEFAULT_TIMEOUT),
        threshold=round(threshold * speed) if lasting else threshold,
    )
