"""A small player of compose files: podman's containers, networks of our own, Compose's order and conditions.

Compose itself reads the file; what it makes of it is played. Images come from stand-ins, logs go where podman keeps
them, and nothing is published: `Play.ask` stands on a network instead.
"""

from __future__ import annotations

import json
import re
import secrets
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.deploy.images import Images
from tests.deploy.machine import as_root, compose, run

Service = dict[str, Any]

_HEALTHY_SECONDS: Final = 90.0
_SUBNET: Final = "10.213"


def normalised(folder: Path) -> dict[str, Any]:
    """Return what Compose makes of `compose.yaml` and its override in a folder, every short form written out."""
    text = run(compose(), "--project-directory", folder, "config", "--format", "json", cwd=folder)
    found: dict[str, Any] = json.loads(text)
    return found


def seconds(duration: str) -> float:
    """Return what Compose writes as 2m15s."""
    parts = re.findall(r"([\d.]+)(h|m(?!s)|s|ms)", duration)
    return sum(float(number) * {"h": 3600, "m": 60, "s": 1, "ms": 0.001}[unit] for number, unit in parts)


def in_order(services: Mapping[str, Service]) -> list[str]:
    """Return the services so that each comes after those it depends on; where nothing decides, Compose's own order."""
    order: list[str] = []

    def visit(name: str) -> None:
        if name not in order:
            for needed in services[name].get("depends_on", {}):
                visit(needed)
            order.append(name)

    for name in services:
        visit(name)
    return order


class Play:
    """The services of one compose file, while they run.

    Args:
        images: Where containers are run.
        folder: Where `compose.yaml` is.
        stand_ins: The image that runs in place of another, by the part of the name before its tag.
        entrypoints: What is run in place of an image's own entrypoint, by service.
    """

    def __init__(
        self, images: Images, folder: Path, stand_ins: Mapping[str, str], entrypoints: Mapping[str, list[str]]
    ) -> None:
        self.config = normalised(folder)
        self.events: list[tuple[str, str]] = []
        self._images, self._stand_ins, self._entrypoints = images, stand_ins, entrypoints
        self._id = f"play{secrets.token_hex(2)}"
        self._services: dict[str, Service] = self.config["services"]
        self._networks = list(self.config["networks"])
        self._attached = [name for name in self._services if "network_mode" not in self._services[name]]

    def up(self) -> None:
        """Start everything in order, each service as soon as its conditions hold."""
        self._lay_networks()
        for name in in_order(self._services):
            for needed, how in self._services[name].get("depends_on", {}).items():
                self._await(needed, how["condition"])
            self._images.podman(*self._command(name))
            self.events.append(("started", name))

    def _await(self, name: str, condition: str) -> None:
        if (condition, name) in self.events:
            return
        if condition == "service_healthy":
            self.await_health(name)
        elif condition == "service_completed_successfully":
            code = self._images.podman("wait", self.container(name))
            assert code == "0", f"{name} ended with {code}\n{self.logs(name)}"
        self.events.append((condition, name))

    def await_health(self, name: str) -> None:
        """Run the service's own health check until it passes, as an engine does."""
        kind, *check = self._services[name]["healthcheck"]["test"]
        assert kind == "CMD", f"{name} needs a shell for its health check"
        until = time.monotonic() + _HEALTHY_SECONDS
        while self.run_in(name, *check).returncode != 0:
            running = self._images.podman("inspect", "--format={{.State.Running}}", self.container(name)) == "true"
            if not running or time.monotonic() > until:
                raise TimeoutError(f"{name} is not healthy\n{self.logs(name)}")
            time.sleep(0.2)

    def down(self) -> dict[str, int]:
        """Stop everything in reverse order, each with its grace; return the exit codes."""
        codes = {}
        for name in reversed(in_order(self._services)):
            grace = seconds(self._services[name].get("stop_grace_period", "10s"))
            self._images.podman("stop", f"--time={grace:.0f}", self.container(name))
            codes[name] = int(self._images.podman("inspect", "--format={{.State.ExitCode}}", self.container(name)))
            self.events.append(("stopped", name))
        return codes

    def container(self, name: str) -> str:
        """Return the container of a service."""
        return f"{self._id}-{name}"

    def logs(self, name: str) -> str:
        """Return what a service has written."""
        command = self._images.podman_command("logs", self.container(name))
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True).stdout

    def run_in(self, name: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the container of a service."""
        inside = self._images.podman_command("exec", self.container(name), *command)
        return subprocess.run(inside, capture_output=True, text=True, timeout=60)

    def ask(self, *command: str | Path, network: str = "default") -> subprocess.CompletedProcess[str]:
        """Run a program of this machine on one of the networks."""
        where = ["nsenter", f"--net=/run/netns/{self._switch(network)}", *map(str, command)]
        return subprocess.run([*as_root(), *where], capture_output=True, text=True, timeout=60)

    def address(self, name: str, network: str = "default") -> str:
        """Return where a service is on a network."""
        return f"{_SUBNET}.{self._networks.index(network)}.{self._attached.index(name) + 10}"

    def remove(self) -> None:
        """Leave nothing behind."""
        for name in reversed(in_order(self._services)):
            self._quietly(*self._images.podman_command("rm", "--force", "--time=0", self.container(name)))
        for volume in self.config["volumes"]:
            self._quietly(*self._images.podman_command("volume", "rm", "--force", f"{self._id}-{volume}"))
        for space in [*map(self._switch, self._networks), *map(self.container, self._attached)]:
            self._quietly(*as_root(), "ip", "netns", "delete", space)

    @staticmethod
    def _quietly(*command: str) -> None:
        subprocess.run(command, capture_output=True, timeout=60)

    def _switch(self, network: str) -> str:
        return f"{self._id}-net-{network}"

    def _lay_networks(self) -> None:
        """Give each network a bridge and each service a namespace, with a cable to each bridge it is on."""
        for name in self._attached:
            self._ip("netns", "add", self.container(name))
            self._ip("-n", self.container(name), "link", "set", "lo", "up")
        for network in self._networks:
            switch = self._switch(network)
            self._ip("netns", "add", switch)
            self._ip("-n", switch, "link", "add", "bridge", "type", "bridge")
            self._ip("-n", switch, "address", "add", f"{_SUBNET}.{self._networks.index(network)}.1/24", "dev", "bridge")
            self._ip("-n", switch, "link", "set", "bridge", "up")
            for name in self._on(network):
                self._plug(name, network)

    def _plug(self, name: str, network: str) -> None:
        space, switch, number = self.container(name), self._switch(network), self._attached.index(name)
        here, there = f"to-{network}"[:15], f"port-{number}"
        self._ip("-n", space, "link", "add", here, "type", "veth", "peer", "name", there, "netns", switch)
        self._ip("-n", switch, "link", "set", there, "master", "bridge", "up")
        self._ip("-n", space, "address", "add", f"{self.address(name, network)}/24", "dev", here)
        self._ip("-n", space, "link", "set", here, "up")

    @staticmethod
    def _ip(*arguments: str) -> None:
        run(*as_root(), "ip", *arguments)

    def _on(self, network: str) -> list[str]:
        return [name for name in self._attached if network in self._services[name]["networks"]]

    def _hosts(self, name: str) -> Iterator[str]:
        """Yield the names that a service knows: those on its own networks."""
        for network in self._services[name]["networks"]:
            for other in self._on(network):
                aliases = (self._services[other]["networks"][network] or {}).get("aliases", [])
                yield from (f"--add-host={known}:{self.address(other, network)}" for known in (other, *aliases))

    def _command(self, name: str) -> list[str]:
        service = self._services[name]
        image = service["image"].rpartition(":")[0]
        entrypoint = self._entrypoints.get(name) or service.get("entrypoint")
        limits = service["deploy"]["resources"]["limits"]
        options = ["run", "--detach", f"--name={self.container(name)}", "--no-healthcheck"]
        options += [f"--memory={limits['memory']}", f"--pids-limit={limits['pids']}"]
        options += ["--read-only", "--read-only-tmpfs=false"] if service.get("read_only") else []
        options += [f"--cap-drop={capability}" for capability in service.get("cap_drop", [])]
        options += [f"--cap-add={capability}" for capability in service.get("cap_add", [])]
        options += [f"--security-opt={option.removesuffix(':true')}" for option in service.get("security_opt", [])]
        options += [f"--tmpfs={self._tmpfs(place)}" for place in service.get("tmpfs", [])]
        options += [f"--env={key}={value}" for key, value in (service.get("environment") or {}).items()]
        options += [f"--user={service['user']}"] if "user" in service else []
        options += [f"--stop-signal={service['stop_signal']}"] if "stop_signal" in service else []
        options += [f"--entrypoint={json.dumps(entrypoint)}"] if entrypoint else []
        options += [*self._network(name), *self._mounts(service)]
        return [*options, self._stand_ins[image], *(service.get("command") or [])]

    def _network(self, name: str) -> list[str]:
        mode = self._services[name].get("network_mode")
        if mode is not None:
            return [f"--network=container:{self.container(mode.removeprefix('service:'))}"]
        return [f"--network=ns:/run/netns/{self.container(name)}", *dict.fromkeys(self._hosts(name))]

    def _mounts(self, service: Service) -> Iterator[str]:
        for mount in service.get("volumes", []):
            source = mount["source"] if mount["type"] == "bind" else f"{self._id}-{mount['source']}"
            yield f"--volume={source}:{mount['target']}{':ro' if mount.get('read_only') else ''}"
        for secret in service.get("secrets", []):
            yield f"--volume={self.config['secrets'][secret['source']]['file']}:{secret['target']}:ro"

    @staticmethod
    def _tmpfs(place: str) -> str:
        # podman knows no owner there: what the mode admits is enough for a container with one user.
        return re.sub(r"uid=\d+,gid=\d+,mode=0700", "mode=1777", place)


@contextmanager
def playing(
    images: Images, folder: Path, stand_ins: Mapping[str, str], entrypoints: Mapping[str, list[str]] | None = None
) -> Iterator[Play]:
    """Play the compose file in `folder`, and remove everything at the end."""
    play = Play(images, folder, stand_ins, entrypoints or {})
    try:
        play.up()
        yield play
    finally:
        play.remove()
