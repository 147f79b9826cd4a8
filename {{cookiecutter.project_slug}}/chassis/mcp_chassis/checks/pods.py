"""What holds inside a pod: probes, the edge beside the server, what the server is given, restricted rights (D5)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import floor
from typing import Final

from mcp_chassis.checks import Check, Finding, Profile, judged
from mcp_chassis.checks.cluster import PROBES, Cluster, probes, share
from mcp_chassis.checks.kustomize import pre_stop
from mcp_chassis.checks.sources import Yaml

_SECRET: Final = re.compile(r"(PASSWORD|PASSWD|SECRET|TOKEN|API_?KEY|PRIVATE_KEY|CREDENTIALS)S?$", flags=re.IGNORECASE)
_HARMLESS: Final = re.compile(r"\d*|true|false|/.*|\$\(.*")
_PASSWORD: Final = re.compile(r"://[^/@\s]*:[^/@\s]+@")
_POWERS: Final = "kMGT"
_ASKED: Final = {
    "readinessProbe": ("/health/ready", "ready"),
    "livenessProbe": ("/health/live", "live", "mcp_chassis.alive"),
}
"""What each probe asks: a path, or the last word of a command."""
_PEER_HOST: Final = re.compile(r"https?://(?:[^/@]*@)?\[?\$\((\w+)\)")

pods: Profile[Cluster] = Profile()


@pods.check("D5", "name a port of the same container, or give a number that some container of the pod has")
def probe_ports(cluster: Cluster) -> Iterator[Finding]:
    """a probe asks a port that is there; a name is sought among the container's own ports alone"""
    for workload in cluster.workloads:
        loopback = [one.port for one in cluster.servers if one.workload is workload]
        for probe in probes(workload.containers):
            ports = workload.ports() if probe.port.isdecimal() else workload.ports(probe.container)
            if probe.port and probe.port not in loopback:
                yield judged(probe.port in ports, probe.place, str(probe))


@pods.check("T5", "ask the edge's internal port, 9090; in a mesh, use exec with `python -m mcp_chassis.alive`")
def probes_through_edge(cluster: Cluster) -> Iterator[Finding]:
    """probes go through the edge, because the server listens on loopback; where a mesh is the edge they are exec"""
    for server in cluster.servers:
        for probe in probes(server.workload.containers):
            number = server.workload.ports().get(probe.port, probe.port)
            good = number == "" or (number != server.port and server.edge is not None)
            yield judged(good, probe.place, str(probe))


@pods.check("S4", "give the server's container a readinessProbe and a livenessProbe")
def probes_set(cluster: Cluster) -> Iterator[Finding]:
    """the server has a readiness and a liveness probe"""
    for server in cluster.servers:
        there = [name for name in PROBES if name in server.app]
        yield judged({*PROBES[1:]} <= {*there}, server.app.place, " ".join(there) or "none")


@pods.check(
    "S4", "ask /health/ready for readiness and /health/live for liveness; in a mesh, mcp_chassis.alive ready and live"
)
def probe_paths(cluster: Cluster) -> Iterator[Finding]:
    """readiness asks /health/ready, which a drain turns down; liveness asks /health/live, which asks no dependency"""
    for server in cluster.servers:
        for probe in [probe for probe in probes([server.app]) if probe.name in _ASKED]:
            asked = (server.app.texts(probe.name, "exec", "command") or [probe.path])[-1]
            yield judged(asked in _ASKED[probe.name], probe.place, f"{probe.name} {asked or probe.port}")


@pods.check("S3", "make the edge an init container with restartPolicy: Always")
def sidecar_native(cluster: Cluster) -> Iterator[Finding]:
    """the edge is a native sidecar: it starts before the server and stops after it"""
    for server, edge in cluster.edges:
        good = edge in server.workload.inits and edge.text("restartPolicy") == "Always"
        yield judged(good, edge.place, edge.text("name"))


@pods.check("D5", "ask /edge, which the edge answers by itself")
def sidecar_probe(cluster: Cluster) -> Iterator[Finding]:
    """the edge's startup and liveness probes ask the edge alone: through the server, the pod would wait for ever"""
    for probe in [probe for _, edge in cluster.edges for probe in probes([edge])]:
        if probe.name != "readinessProbe":
            yield judged(not probe.path.startswith(("/health", "/mcp", "/metrics")), probe.place, str(probe))


@pods.check("S4", "set lifecycle.preStop.sleep of the server; it needs no program in the image")
def pre_stop_sleep(cluster: Cluster) -> Iterator[Finding]:
    """the server sleeps before it stops, natively: balancers learn late, and the image need not have a shell"""
    for server in cluster.servers:
        hook = server.app.block("lifecycle", "preStop")
        yield judged(pre_stop(server) > 0, hook.place, f"preStop {' '.join(hook) or 'none'}")
    for hook in [edge.block("lifecycle", "preStop") for _, edge in cluster.edges]:
        yield judged("exec" not in hook, hook.place, "preStop exec in the edge", "leave preStop of the edge out")


@pods.check("D5", "make requests at most limits; ours set requests for cpu and memory, and a limit for memory")
def resources(cluster: Cluster) -> Iterator[Finding]:
    """requests ≤ limits, and ours have both"""
    for workload, container in cluster.containers:
        asked, most = container.block("resources", "requests"), container.block("resources", "limits")
        over = [name for name in asked if name in most and _quantity(asked.text(name)) > _quantity(most.text(name))]
        bare = workload in cluster.ours and not (asked.keys() >= {"cpu", "memory"} and "memory" in most)
        words = [container.text("name"), *(f"{name} {asked.text(name)} > {most.text(name)}" for name in over)]
        yield judged(not bare and not over, container.at("resources"), " ".join(words))


@pods.check("S4", "set maxUnavailable: 0 and maxSurge: 1")
def rolling_update(cluster: Cluster) -> Iterator[Finding]:
    """a rollout can move, maxUnavailable and maxSurge are not both 0, and leaves a pod of the server"""
    for workload in cluster.workloads:
        given = workload.body.block("spec", "strategy", "rollingUpdate")
        if given:
            stuck = {given.text("maxUnavailable"), given.text("maxSurge")} <= {"0", "0%"}
            yield judged(not stuck, given.place, workload.title)
    for workload in [server.workload for server in cluster.servers]:
        strategy = workload.body.block("spec", "strategy")
        text, least = strategy.text("rollingUpdate", "maxUnavailable"), cluster.replicas(workload)[0]
        gone = share(text or "25%", least, floor)
        good = strategy.text("type") != "Recreate" and gone is not None and gone < max(least, 1)
        yield judged(good, strategy.place, f"{strategy.text('type')} maxUnavailable {text or '25%'} of {least}".strip())


@pods.check("A10", "set MCP_STATE_URL to a Redis that all replicas share")
def shared_state(cluster: Cluster) -> Iterator[Finding]:
    """more than one replica needs MCP_STATE_URL"""
    yield from _given(cluster, "MCP_STATE_URL")


@pods.check("S5", "set MCP_PEER_URL and MCP_PEER_SECRET, or MCP_SESSIONS=stateless")
def shared_sessions(cluster: Cluster) -> Iterator[Finding]:
    """more than one replica with sessions needs MCP_PEER_URL and MCP_PEER_SECRET"""
    for name in ("MCP_PEER_URL", "MCP_PEER_SECRET"):
        yield from _given(cluster, name, unless=("MCP_SESSIONS", "stateless"))


@pods.check("S5", "set it to https://$(POD_IP):9443 in env, with POD_IP from the fieldRef status.podIP")
def peer_address(cluster: Cluster) -> Iterator[Finding]:
    """MCP_PEER_URL is the pod's own address; a Service, or a fixed host, is any replica"""
    for server in cluster.servers:
        text, env = server.variables.texts.get("MCP_PEER_URL"), server.app.blocks("env")
        own = {one.text("name") for one in env if "fieldRef" in one.block("valueFrom")}
        found = _PEER_HOST.match(text or "")
        # What comes from a ConfigMap is not expanded.
        good = found is not None and found[1] in own and any(one.text("name") == "MCP_PEER_URL" for one in env)
        if text is not None:
            yield judged(good, server.app.at("env"), f"MCP_PEER_URL {_PASSWORD.sub('://…@', text)}")


@pods.check("A6", "let an edge of ours ask for certificates, or use keys or jwt")
def mesh_certificates(cluster: Cluster) -> Iterator[Finding]:
    """MCP_AUTH names no mtls in a mesh: nobody sets X-Client-Subject there, so a client could"""
    for server in cluster.servers:
        auth = server.variables.texts.get("MCP_AUTH", "")
        yield judged(server.edge is not None or "mtls" not in auth, server.app.at("env"), f"MCP_AUTH {auth}".strip())


def _given(cluster: Cluster, name: str, unless: tuple[str, str] = ("", "")) -> Iterator[Finding]:
    for server in cluster.servers:
        given, most = server.variables, cluster.replicas(server.workload)[1]
        value = given.texts.get(name, "")
        known = (name in given or f"{name}_FILE" in given) and not value.startswith("memory:")
        if most == 1 or given.texts.get(unless[0]) == unless[1] or known:
            yield Finding("pass", name, server.app.at("env"))
        elif not given.complete and not value:
            words = f"{name} may be in a Secret or ConfigMap that is not in the stream"
            yield Finding("unseen", words, server.app.at("envFrom"), required=False)
        else:
            yield Finding("fail", f"{most} replicas, {name} {value or 'is not set'}", server.app.at("env"))


@pods.check("D5", "add the volume, or correct its name")
def volumes(cluster: Cluster) -> Iterator[Finding]:
    """each volumeMount has its volume"""
    for workload, container in cluster.containers:
        claims = [one.block("metadata") for one in workload.body.blocks("spec", "volumeClaimTemplates")]
        names = {one.text("name") for one in [*workload.pod.blocks("volumes"), *claims]}
        for mount in container.blocks("volumeMounts"):
            yield judged(mount.text("name") in names, mount.place, mount.text("name"))


@pods.check("D5", "add the object or the key, or correct the name")
def references(cluster: Cluster) -> Iterator[Finding]:
    """the ConfigMaps and Secrets that pods name are in the stream, with the keys asked for"""
    made = {
        one.text("spec", "target", "name") or one.text("metadata", "name") for one in cluster.kind("ExternalSecret")
    }
    absent = dict[str, Finding]()
    for kind, name, key, place in _references(cluster):
        found = cluster.named(kind, name)
        title = f"{kind}/{name} {key}".strip()
        if found is not None:
            keys = {*found.block("data"), *found.block("stringData"), *found.block("binaryData"), ""}
            yield judged(key in keys, place, title)
        elif kind != "Secret" or name not in made:
            words = f"{kind}/{name} is not in the stream; whoever makes it may have it"
            absent.setdefault(words, Finding("unseen", words, place, required=False))
    yield from absent.values()


def _references(cluster: Cluster) -> Iterator[tuple[str, str, str, str]]:
    """Yield kind, name, key and place of each that is not optional."""
    sources = [one for workload in cluster.workloads for one in workload.pod.blocks("volumes")]
    sources += [part for one in sources for part in one.blocks("projected", "sources")]
    for _, container in cluster.containers:
        sources += [one.block("valueFrom") for one in container.blocks("env")] + container.blocks("envFrom")
    for kind, form in (("Secret", "secret"), ("ConfigMap", "configMap")):
        for found in [one.block(f"{form}{suffix}") for one in sources for suffix in ("", "Ref", "KeyRef")]:
            name = found.text("secretName") or found.text("name")
            if name and found.value("optional") is not True:
                for key in [found.text("key"), *(item.text("key") for item in found.blocks("items"))]:
                    yield kind, name, key, found.place


@pods.check("T5", "leave MCP_HOST out; the edge in the same pod reaches 127.0.0.1")
def loopback(cluster: Cluster) -> Iterator[Finding]:
    """MCP_HOST is a loopback address"""
    for server in cluster.servers:
        host = server.variables.texts.get("MCP_HOST", "127.0.0.1")
        yield judged(host.startswith("127.") or host in ("::1", "localhost"), server.app.at("env"), f"MCP_HOST {host}")


@pods.check("D5", "put it into a Secret and refer to it with secretRef, secretKeyRef or a …_FILE variable")
def plain_secrets(cluster: Cluster) -> Iterator[Finding]:
    """no secret stands in a manifest as plain text"""
    maps = [one.block("data") for one in cluster.kind("ConfigMap")]
    values = [(name, data.text(name), data.at(name)) for data in maps for name in data]
    for _, container in cluster.containers:
        values += [(one.text("name"), one.text("value"), one.place) for one in container.blocks("env")]
    for name, value, place in values:
        named = _SECRET.search(name) and not _HARMLESS.fullmatch(value)
        plain = "\n" not in value and (named or _PASSWORD.search(value))
        yield judged(not plain, place, name)


_RIGHTS: Final[tuple[tuple[str, str, tuple[Yaml, ...], str], ...]] = (
    ("non_root", "runAsNonRoot", (True,), "the user is not root"),
    ("privilege_escalation", "allowPrivilegeEscalation", (False,), "privileges cannot grow"),
    ("privileged", "privileged", (False, None), "the container is not the node's root"),
    ("capabilities", "capabilities.drop", (["ALL"],), "all capabilities are dropped"),
    ("capabilities_added", "capabilities.add", (["NET_BIND_SERVICE"], [], None), "none but NET_BIND_SERVICE is added"),
    ("read_only_root", "readOnlyRootFilesystem", (True,), "the root file system is read-only"),
    ("seccomp", "seccompProfile.type", ("RuntimeDefault", "Localhost"), "system calls are filtered"),
    ("service_account_token", "automountServiceAccountToken", (False,), "no token of the API server lies in the pod"),
    ("service_links", "enableServiceLinks", (False,), "no variables of other Services are injected"),
    ("host_network", "hostNetwork", (False, None), "loopback is the pod's own, not its node's"),
)
"""What each container of ours may not do: name, where that is said, the values that say it, rule."""


def _right(name: str, path: str, values: tuple[Yaml, ...], rule: str, *, refused: bool = False) -> Check[Cluster]:
    def run(cluster: Cluster) -> Iterator[Finding]:
        for workload in cluster.ours:
            for one in workload.containers:
                own = [one.block("securityContext"), workload.pod.block("securityContext"), workload.pod]
                given = next((value for block in own if (value := block.value(*path.split("."))) is not None), None)
                words = f"{workload.title} {one.text('name')}: {path} {given}"
                yield judged((given in values) != refused, one.place, words)

    return Check("D5", name, rule, f"leave {path} out" if refused else f"set {path} to {values[0]}", run)


pods.extend(_right(*row) for row in _RIGHTS)
pods.append(_right("root_user", "runAsUser", (0,), "runAsUser is not 0", refused=True))


@pods.check("D5", "leave it out")
def host_access(cluster: Cluster) -> Iterator[Finding]:
    """a pod has nothing of its node's: no hostPID, hostIPC, hostPath, hostPort"""
    for workload in cluster.ours:
        pod = workload.pod
        found = [(name, pod.at(name)) for name in ("hostPID", "hostIPC") if pod.value(name)]
        asked = pod.blocks("volumes") + [port for one in workload.containers for port in one.blocks("ports")]
        found += [(name, one.place) for one in asked for name in ("hostPath", "hostPort") if one.get(name)]
        wrong = [Finding("fail", f"{workload.title}: {name}", place) for name, place in found]
        yield from wrong or [Finding("pass", workload.title, pod.place)]


def _quantity(text: str) -> float:
    """Read `500m`, `1.5`, `2G` or `256Mi`."""
    found = re.fullmatch(r"([\d.]+)(m?)([kMGT]?)(i?)", text)
    if found is None:
        return 0
    base = 1024 if found[4] else 1000
    return float(found[1]) * (0.001 if found[2] else 1) * float(base ** (_POWERS.find(found[3] or " ") + 1))
