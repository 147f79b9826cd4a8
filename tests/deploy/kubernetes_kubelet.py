"""A kubelet of one pod, on podman: sidecars first, each behind its startup probe; the end in the same order backwards.

It does what Kubernetes does since native sidecars are stable, for the fields that our manifests use; an unknown kind of
volume, probe or hook is an error.
"""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.deploy.images import Images
from tests.deploy.kubernetes_build import Object
from tests.deploy.kubernetes_volumes import Volumes

POD_ADDRESS: Final = "127.0.0.2"
"""A loopback address that is not the one that the server listens on: to it, the pod's address is somebody else's."""
_ENDING: Final = 30.0


@dataclass
class Container:
    """One container of the pod."""

    name: str
    spec: Object
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def output(self) -> str:
        """Everything it said."""
        return self.log.read_text(encoding="utf-8")


@dataclass
class Kubelet:
    """Runs the pod of one workload.

    Args:
        images: The store; an image `registry/name:tag` is there as `localhost/name:tag`.
        pod: The pod's `spec`.
        volumes: What the objects and secrets around it hold.
        network: The network namespace that all its containers join.
        folder: Where logs are kept.
    """

    images: Images
    pod: Object
    volumes: Volumes
    network: str
    folder: Path
    events: list[tuple[str, str]] = field(default_factory=list)
    """What happened, in order: the container and the word for it."""
    running: dict[str, Container] = field(default_factory=dict)
    codes: dict[str, int] = field(default_factory=dict)
    """How each container ended."""
    signalled: threading.Event = field(default_factory=threading.Event)
    """Set when the first main container is told to stop."""

    @property
    def grace(self) -> float:
        """Seconds until everything left is killed."""
        return float(self.pod["terminationGracePeriodSeconds"])

    def start(self) -> None:
        """Start everything, and return when the pod is ready."""
        for spec in self.pod.get("initContainers", []):
            assert spec["restartPolicy"] == "Always", "only sidecars are played"
            self._run(spec)
        for spec in self.pod["containers"]:
            self._run(spec)
        for container in self.running.values():
            if "readinessProbe" in container.spec:
                self._await(container, "readinessProbe")
                self.events.append((container.name, "ready"))

    def stop(self) -> None:
        """End the pod as the kubelet does; returns when nothing runs any more."""
        until = time.monotonic() + self.grace
        mains = [self.running[spec["name"]] for spec in self.pod["containers"]]
        sidecars = [self.running[spec["name"]] for spec in reversed(self.pod.get("initContainers", []))]
        # preStop of all at once; a sidecar's signal waits for its turn as well.
        hooks = {one.name: threading.Thread(target=self._pre_stop, args=(one,)) for one in [*mains, *sidecars]}
        for hook in hooks.values():
            hook.start()
        ends = [threading.Thread(target=self._end, args=(one, hooks[one.name], until, self.signalled)) for one in mains]
        for end in ends:
            end.start()
        for end in ends:
            end.join()
        for one in sidecars:
            self._end(one, hooks[one.name], until)

    def complete(self) -> int:
        """Run a pod that ends by itself, of one container, and return the code that it ends with."""
        (spec,) = self.pod["containers"]
        self._run(spec)
        return self.running[spec["name"]].process.wait(_ENDING)

    def probe(self, name: str, kind: str) -> bool:
        """Ask one probe of one container once."""
        container = self.running[name]
        given = container.spec[kind]
        patience = float(given.get("timeoutSeconds", 1))
        if "exec" in given:
            command = self.images.podman_command("exec", self._full(name), *given["exec"]["command"])
            return subprocess.run(command, capture_output=True, timeout=patience, check=False).returncode == 0
        names = {port.get("name"): port["containerPort"] for port in container.spec.get("ports", [])}
        port = given["httpGet"]["port"]
        # A name is sought among the container's own ports, by the kubelet and here.
        connection = http.client.HTTPConnection(POD_ADDRESS, names[port] if isinstance(port, str) else port, patience)
        try:
            connection.request("GET", given["httpGet"]["path"])
            return 200 <= connection.getresponse().status < 400
        except OSError:
            return False
        finally:
            connection.close()

    def execute(self, name: str, *command: str) -> str:
        """Run a command in a container, and return what it printed."""
        return self.images.podman("exec", self._full(name), *command)

    def remove(self) -> None:
        """Kill what is left."""
        for container in self.running.values():
            if container.process.poll() is None:
                subprocess.run(
                    self.images.podman_command("rm", "--force", "--time=0", self._full(container.name)),
                    capture_output=True,
                    check=False,
                )
                container.process.wait(_ENDING)

    def _full(self, name: str) -> str:
        return f"{self.folder.name}-{name}"

    def _run(self, spec: Object) -> None:
        name, log = spec["name"], self.folder / f"{spec['name']}.log"
        variables = self.volumes.environment(spec, {"status.podIP": POD_ADDRESS})
        command = self.images.podman_command("run", "--rm", f"--name={self._full(name)}", f"--network={self.network}")
        command += ["--no-healthcheck", *self._security(spec), *self.volumes.mounts(spec, self.pod)]
        command += [f"--env={key}={value}" for key, value in variables.items()]
        if "command" in spec:
            command.append(f"--entrypoint={json.dumps(spec['command'])}")
        image = re.sub(r"^.*/", "", spec["image"])
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, f"localhost/{image}", *spec.get("args", [])],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        container = self.running[name] = Container(name, spec, log, process)
        self.events.append((name, "started"))
        if "startupProbe" in spec:
            self._await(container, "startupProbe")
            self.events.append((name, "startup probe answered"))

    def _security(self, spec: Object) -> list[str]:
        context = self.pod["securityContext"] | spec["securityContext"]
        options = [f"--user={context['runAsUser']}:{context['runAsGroup']}"]
        options += [f"--group-add={context['fsGroup']}"] if "fsGroup" in context else []
        options += [f"--cap-drop={name}" for name in context["capabilities"]["drop"]]
        options += [f"--cap-add={name}" for name in context["capabilities"].get("add", [])]
        if not context["allowPrivilegeEscalation"]:
            options.append("--security-opt=no-new-privileges")
        if context["readOnlyRootFilesystem"]:
            options += ["--read-only", "--read-only-tmpfs=false"]
        memory = spec["resources"]["limits"]["memory"].replace("Mi", "m")
        return [*options, f"--memory={memory}"]

    def _await(self, container: Container, kind: str) -> None:
        given = container.spec[kind]
        failures = 0
        # Readiness has no end; here it is that of the startup probe.
        most = container.spec["startupProbe" if kind == "readinessProbe" else kind]["failureThreshold"]
        while not self.probe(container.name, kind):
            failures += 1
            ended = container.process.poll()
            assert ended is None, f"{container.name} ended with {ended}\n{container.output}"
            assert failures < most, f"{container.name}: {kind} failed {failures} times\n{container.output}"
            time.sleep(given["periodSeconds"])

    def _pre_stop(self, container: Container) -> None:
        hook = container.spec.get("lifecycle", {}).get("preStop")
        if hook is not None:
            self.events.append((container.name, "preStop"))
            time.sleep(hook["sleep"]["seconds"])

    def _end(
        self, container: Container, hook: threading.Thread, until: float, signalled: threading.Event | None = None
    ) -> None:
        hook.join(until - time.monotonic())
        if signalled is not None:
            signalled.set()
        self.events.append((container.name, "told to stop"))
        self._kill(container, self._stop_signal(container))
        try:
            code = container.process.wait(max(until - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            self.events.append((container.name, "killed"))
            self._kill(container, "SIGKILL")
            code = container.process.wait(_ENDING)
        self.codes[container.name] = code
        self.events.append((container.name, "ended"))

    def _stop_signal(self, container: Container) -> str:
        image = self.images.inspect(f"localhost/{re.sub(r'^.*/', '', container.spec['image'])}")
        return str(image["Config"].get("StopSignal") or "SIGTERM")

    def _kill(self, container: Container, signal: str) -> None:
        command = self.images.podman_command("kill", f"--signal={signal}", self._full(container.name))
        subprocess.run(command, capture_output=True, check=False)
