"""One pod, started, asked and ended as the kubelet does it."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from rehearsal.manifest import Container, Plan, Probe
from tests.live import edges
from tests.live.edges import CONFIGS, Edge
from tests.support.ports import free_port

StartServer = Callable[["Pod"], subprocess.Popen[bytes]]
"""Starts the main container of a pod."""

_STOP_SIGNALS: Final = {"nginx": signal.SIGQUIT, "caddy": signal.SIGTERM}
"""What the images of the two edges name as theirs; to nginx, SIGTERM means to drop everything."""


class Trouble(Exception):
    """A pod does not do what it must before a rehearsal can go on."""


class Pod:
    """An edge, and a server behind it.

    Args:
        number: Which one since the beginning.
        plan: What the manifest says.
        edge: Its edge: nginx or caddy.
        deploy: The rendered folder with the configurations of the edges.
        certificate: Folder with the certificate that all pods share.
        folder: Where it runs and what it says is kept.
        start_server: Starts its server.
    """

    def __init__(
        self,
        number: int,
        plan: Plan,
        edge: str,
        *,
        deploy: Path,
        certificate: Path,
        folder: Path,
        start_server: StartServer,
    ) -> None:
        self.number = number
        self.plan = plan
        self.folder = folder
        self.port = free_port()
        self.edge = Edge(edge, free_port(), free_port(), free_port(), folder / "edge")
        self.ready = asyncio.Event()
        self.codes: dict[str, int] = {}
        """How each process ended."""
        self.troubles: list[str] = []
        """What the kubelet would have restarted, or taken out of service, though nobody asked for it."""
        self._start_server = start_server
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._attending: list[asyncio.Task[None]] = []
        folder.mkdir()
        folder.chmod(0o755)
        shutil.copytree(deploy / edge, self.edge.folder / edge)
        for name in ("tls.crt", "tls.key"):
            shutil.copy(certificate / name, self.edge.folder)
        self._config = self.edge.folder / CONFIGS[edge]
        edges.place(self._config, self.edge, self.port)

    async def start(self) -> None:
        """Start the edge, then the server, and return when the pod is ready.

        Raises:
            Trouble: If one of them ends, or does not answer in its time.
        """
        self._processes["edge"] = edges.start(self.edge, self._config, read_only_root=False)
        await self._started("edge", self.plan.edge)
        self._processes["server"] = self._start_server(self)
        await self._started("server", self.plan.server)
        await self.ready.wait()

    async def end(self) -> None:
        """End the pod: preStop, the server's signal, the edge's signal; at the end of the grace all is killed."""
        deadline = time.monotonic() + self.plan.grace
        for task in self._attending:
            task.cancel()
        # The edge's hook, if it had one, would run at the same time.
        await asyncio.sleep(min(max(self.plan.server.pre_stop, self.plan.edge.pre_stop), self.plan.grace))
        await self._gone("server", signal.SIGTERM, deadline)
        await self._gone("edge", _STOP_SIGNALS[self.edge.name], deadline)

    def kill(self) -> None:
        """End whatever is left, after a rehearsal that broke off."""
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()

    async def _started(self, name: str, container: Container) -> None:
        if container.startup is not None:
            for _ in range(container.startup.threshold):
                if await self._ask(container.startup):
                    break
                if self._processes[name].poll() is not None:
                    raise Trouble(f"the {name} of pod {self.number} ended:\n{self._said(name)}")
                await asyncio.sleep(container.startup.period)
            else:
                raise Trouble(f"the {name} of pod {self.number} does not start:\n{self._said(name)}")
        if container.liveness is not None:
            restarted = f"liveness of the {name} fails: it would be started again"
            self._attending.append(asyncio.create_task(self._attend(container.liveness, asyncio.Event(), restarted)))
        if container.readiness is not None:
            unready = f"readiness of the {name} fails: no more requests would come"
            self._attending.append(asyncio.create_task(self._attend(container.readiness, self.ready, unready)))

    async def _attend(self, probe: Probe, good: asyncio.Event, trouble: str) -> None:
        """Ask again and again; note it when the answer turns bad."""
        failures = 0
        while True:
            if await self._ask(probe):
                failures = 0
                good.set()
            else:
                failures += 1
                if failures == probe.threshold and good.is_set():
                    self.troubles.append(trouble)
                    good.clear()
            await asyncio.sleep(probe.period)

    async def _ask(self, probe: Probe) -> bool:
        ports = {8443: self.edge.public, 9090: self.edge.internal, 9443: self.edge.peers}
        try:
            async with asyncio.timeout(probe.timeout):
                reader, writer = await asyncio.open_connection("127.0.0.1", ports[probe.port])
                try:
                    writer.write(f"GET {probe.path} HTTP/1.1\r\nHost: kubelet\r\nConnection: close\r\n\r\n".encode())
                    status = int((await reader.readline()).split()[1])
                finally:
                    writer.close()
        except (OSError, TimeoutError, IndexError, ValueError):
            return False
        return 200 <= status < 400

    async def _gone(self, name: str, number: signal.Signals, deadline: float) -> None:
        process = self._processes[name]
        process.send_signal(number)
        try:
            left = max(0.0, deadline - time.monotonic())
            self.codes[name] = await asyncio.to_thread(process.wait, left)
        except subprocess.TimeoutExpired:
            process.kill()
            self.codes[name] = await asyncio.to_thread(process.wait)

    def _said(self, name: str) -> str:
        output = self.edge.output if name == "edge" else self.folder / "server.log"
        return output.read_text(encoding="utf-8")[-2000:]
