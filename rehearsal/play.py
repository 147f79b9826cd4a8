"""One rehearsal from the first pod to the last answer."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal
from unittest.mock import patch

from rehearsal import manifest
from rehearsal.balancer import HOST, Balancer
from rehearsal.cluster import Cluster, Lag
from rehearsal.ledger import Count, count
from rehearsal.load import ACCEPTS, ACCEPTS_OF_STOCK, Load
from rehearsal.manifest import Plan
from rehearsal.pod import Pod, StartServer
from tests.live.authority import make_certificate
from tests.live.curl import ERAS, Era
from tests.live.fleet import NAMES, Keys
from tests.live.project import Project, environment
from tests.render.support import copy_template, render_by_copier, succeed
from tests.support.limits import VARIABLES
from tests.support.redis import running

ROOT: Final = Path(__file__).resolve().parent.parent
MANIFEST: Final = Path("deploy", "kubernetes", "base", "server.yaml")
_TOOL: Final = ROOT / "rehearsal" / "hosted" / "tools" / "rehearsed.py"
_REPLICAS: Final = 2
_BETWEEN: Final = 1.0
"""Seconds of calm before each restart."""

Kind = Literal["chassis", "stock"]
Tell = Callable[[str], None]
"""Says how far a rehearsal is."""


@dataclass(frozen=True)
class Part:
    """What is played.

    Args:
        edge: In front of each server: nginx or caddy.
        kind: Which server.
        restarts: How often all replicas are replaced.
        calls: How many there must be at least.
        rate: Calls a second.
        speed: By what the waits of the manifest and the lags are divided.
        lag: Seconds after which the balancer learns that a pod leaves, before that division.
        longest: Seconds of the longest calls, before that division; longer than preStop, or no call would meet a drain.
        longest_every: One call of so many is one of them.
        eras: In which calls are sent.
    """

    edge: str
    kind: Kind = "chassis"
    restarts: int = 10
    calls: int = 5000
    rate: float = 15
    speed: float = 1
    lag: float = 10
    longest: float = 20
    longest_every: int = 50
    eras: Sequence[Era] = ERAS


@contextmanager
def stage(kept: Path | None = None) -> Iterator[Path]:
    """Return a folder for rehearsals.

    Args:
        kept: Where the logs go at the end; without it nothing is left.
    """
    with tempfile.TemporaryDirectory(prefix="mcp-chassis-rehearsal-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # edges run as another user
        copy_template(folder / "template")
        try:
            yield folder
        finally:
            if kept is not None:
                _keep(folder, kept)


def _keep(folder: Path, kept: Path) -> None:
    for log in [*folder.glob("*/pod-*/server.log"), *folder.glob("*/pod-*/edge/output")]:
        target = kept / log.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(log, target)


def _render(folder: Path, edge: str) -> Path:
    """Return the project with this edge; a second time as it is."""
    target = folder / f"project-{edge}"
    if not target.exists():
        # The settings of the person and the machine are not rehearsed.
        (folder / "copier.yml").write_text("{}\n", encoding="utf-8")
        with patch.dict(os.environ, COPIER_SETTINGS_PATH=str(folder / "copier.yml")):
            render_by_copier(folder / "template", target, (("edge", edge),))
    return target


def _install(folder: Path) -> Project:
    """Return a project with the tool that writes down its calls; which edge stands in front is the same to it."""
    target = _render(folder, "nginx")
    name = str(tomllib.loads((target / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"])
    project = Project(target, name)
    if not project.command.exists():
        (project.source / "tools" / _TOOL.name).write_bytes(_TOOL.read_bytes())
        succeed("uv", "sync", "--quiet", "--no-dev", cwd=target)
    return project


def play(folder: Path, part: Part, tell: Tell) -> Count:
    """Play one part below `folder`, and count."""
    project, rendered = _install(folder), _render(folder, part.edge)
    scene = Path(tempfile.mkdtemp(prefix=f"{part.kind}-{part.edge}-", dir=folder))
    scene.chmod(0o711)
    make_certificate(scene)
    plan = manifest.read(rendered / MANIFEST, speed=part.speed)
    with running(scene / "redis") as redis:
        keys = Keys(scene)
        started = _chassis(project, scene, plan, keys, redis.url) if part.kind == "chassis" else _stock(project, scene)

        def pod(number: int) -> Pod:
            return Pod(
                number,
                plan,
                part.edge,
                deploy=rendered / "deploy",
                certificate=scene,
                folder=scene / f"pod-{number}",
                start_server=started,
            )

        return asyncio.run(_play(part, pod, scene, keys.headers(NAMES[0]), tell))


async def _play(part: Part, pod: Callable[[int], Pod], scene: Path, headers: dict[str, str], tell: Tell) -> Count:
    cluster = Cluster(pod, Lag(added=1 / part.speed, removed=part.lag / part.speed))
    stock = part.kind == "stock"
    try:
        await cluster.start(_REPLICAS)
        async with Balancer(lambda: cluster.endpoints, scene / "tls.crt", sticky=stock) as balancer:
            accepts = ACCEPTS_OF_STOCK if stock else ACCEPTS
            load = Load(
                balancer,
                part.rate,
                longest=part.longest / part.speed,
                longest_every=part.longest_every,
                headers=headers,
                accepts=accepts,
                eras=part.eras,
            )
            over = asyncio.Event()
            calling = asyncio.create_task(load.run(part.calls, over))
            watching = asyncio.create_task(_watch(part, load, cluster, tell))
            try:
                for _ in range(part.restarts):
                    await asyncio.sleep(_BETWEEN)
                    await cluster.restart()
                over.set()
                await calling
            finally:
                calling.cancel()
                watching.cancel()
            await cluster.end()
        return count(name_of(part), part.restarts, load, cluster.pods, scene / "record")
    finally:
        cluster.kill()


def name_of(part: Part) -> str:
    """Return what a part is called."""
    return f"{'stock SDK server' if part.kind == 'stock' else 'this server'} behind {part.edge}"


async def _watch(part: Part, load: Load, cluster: Cluster, tell: Tell) -> None:
    begun = time.monotonic()
    while True:
        ended = sum("edge" in pod.codes for pod in cluster.pods)
        tell(
            f"{name_of(part)}: {time.monotonic() - begun:.0f} s, {ended} of {part.restarts * _REPLICAS} pods replaced, "
            f"{len(load.calls):,} calls, {load.answered:,} answered, {load.failed:,} lost"
        )
        await asyncio.sleep(1)


def _chassis(project: Project, scene: Path, plan: Plan, keys: Keys, redis: str) -> StartServer:
    """Return how the rendered project starts in a pod: in production, with what all its replicas share."""
    shared = {
        "MCP_ENVIRONMENT": "production",
        "MCP_PUBLIC_URL": f"https://{HOST}",
        "MCP_AUTH": "keys",
        "MCP_EXPOSURE": "internal",
        "MCP_API_KEYS_FILE": str(keys.file),
        "MCP_STATE_URL": redis,
        "MCP_PEER_SECRET": "rehearsed-" * 4,
        "MCP_PEER_CA_FILE": str(scene / "tls.crt"),
        **VARIABLES,
    }

    def start(pod: Pod) -> subprocess.Popen[bytes]:
        own = {
            name: value.replace("$(POD_IP):9443", f"127.0.0.1:{pod.edge.peers}")
            for name, value in plan.server.environment.items()
        }
        return _process(
            pod, scene, project, [str(project.command), "serve"], {**shared, **own, "MCP_PORT": str(pod.port)}
        )

    return start


def _stock(project: Project, scene: Path) -> StartServer:
    """Return how the stock server starts, with the same interpreter and the same packages."""

    def start(pod: Pod) -> subprocess.Popen[bytes]:
        command = [str(project.python), "-m", "rehearsal.hosted", str(pod.port)]
        return _process(pod, scene, project, command, {"PYTHONPATH": str(ROOT)})

    return start


def _process(
    pod: Pod, scene: Path, project: Project, command: list[str], variables: dict[str, str]
) -> subprocess.Popen[bytes]:
    with (pod.folder / "server.log").open("wb") as output:
        return subprocess.Popen(
            command,
            cwd=project.root,
            env=environment({**variables, "REHEARSAL_RECORD": str(scene / "record")}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
