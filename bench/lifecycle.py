"""How long a server takes to start and to stop, and what it takes up on a disk (issue 9)."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Final

import httpx2

from bench.client import Client
from bench.figures import FULL, Effort, Figure, Goal, Invalid, Measurement, Tell
from bench.running import ADDITIONS, CALLER, PINNED, Running, bare, client_apart, generated, rendered
from tests.live.curl import ERAS
from tests.live.fleet import Keys
from tests.live.project import Project

READY: Final = Goal("at most", 2)
"""Seconds from starting the command to 200 from /health/ready (issue 9)."""
IN_FLIGHT: Final = 16
_CALL: Final = 1.0
"""Seconds of each call in flight."""
_PATIENCE: Final = 20.0
_MEBIBYTE, _KIBIBYTE = 2**20, 2**10
_IN_FLIGHT: Final = "mcp_requests_in_flight "


def spread(what: str, values: list[float], unit: str, goal: Goal | None = None) -> Figure:
    """Return the median of several values, and the lowest and highest of them."""
    return Figure(what, median(values), unit, (min(values), max(values)), goal, shown=goal is not None)


def size(folder: Path, *left_out: str) -> int:
    """Return the bytes of all files in a folder, without those below or called as what is left out."""
    return sum(
        path.lstat().st_size
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and not {*path.relative_to(folder).parts}.intersection(left_out)
    )


def _starts(project: Project, keys: Keys, folder: Path, rounds: int) -> Iterator[Figure]:
    """Start the server again and again; the bare SDK, in the same environment, in between."""
    # As after an installation that compiles nothing: Python finds no compiled module, and writes them all.
    first = {"PYTHONPYCACHEPREFIX": str(folder / "compiled")}
    with generated(project, keys, folder, given=first) as server:
        yield Figure("the very first start without compiled modules, which are written then", server.started, "s")
    with bare(project, folder):
        pass  # its modules are compiled from here on
    ours: list[float] = []
    plain: list[float] = []
    stops: list[float] = []
    for _ in range(rounds):
        with generated(project, keys, folder) as server:
            ours.append(server.started)
            stops.append(server.stop())
        with bare(project, folder) as server:
            plain.append(server.started)
    yield spread("start to ready, modules compiled as in the image", ours, "s", READY)
    yield spread("bare SDK: start until its port is open", plain, "s")
    yield spread("from SIGTERM to the end, nothing in flight", stops, "s")


def _flying(server: Running) -> float:
    """Return how many requests wait for their answer."""
    page = httpx2.get(f"http://127.0.0.1:{server.port}/metrics", trust_env=False).text
    return next(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(_IN_FLIGHT))


def _stopped_in_flight(server: Running, ended: list[float]) -> None:
    """Stop a server once all calls are in flight; note when it had ended."""
    until = time.monotonic() + _PATIENCE
    while _flying(server) < IN_FLIGHT:
        if time.monotonic() > until:
            return  # the calls tell what is wrong
        time.sleep(0.01)
    server.stop()
    ended.append(time.monotonic())


async def _answered(server: Running, headers: Mapping[str, str]) -> float:
    """Call from many clients at once, half of them in each era; return when the last one had its answer."""
    clients = [Client(server.url, ERAS[place % len(ERAS)], headers) for place in range(IN_FLIGHT)]
    for client in clients:
        await client.open()
    await asyncio.gather(*(client.call("countdown", {"seconds": _CALL, "steps": 1}) for client in clients))
    return time.monotonic()


def _drains(project: Project, keys: Keys, folder: Path, rounds: int) -> Iterator[Figure]:
    """Stop a server in the midst of calls, all of which must be served."""
    after: list[float] = []
    for _ in range(rounds):
        ended: list[float] = []
        with generated(project, keys, folder) as server:
            stopping = threading.Thread(target=_stopped_in_flight, args=(server, ended))
            stopping.start()
            last = asyncio.run(_answered(server, keys.headers(CALLER)))
            stopping.join(_PATIENCE)
        if not ended:
            raise Invalid(f"the server with {IN_FLIGHT} calls in flight did not stop")
        after.append(ended[0] - last)
    what = f"from the last answer to the end, {IN_FLIGHT} calls of {_CALL:g} s in flight at SIGTERM, all served"
    yield spread(what, after, "s")


def take(effort: Effort, tell: Tell) -> Iterable[Figure]:
    """Start and stop a server, empty-handed and not, and weigh what was installed."""
    rounds = 7 if effort is FULL else 2 if effort.judged else 1
    project = rendered(tell)
    with tempfile.TemporaryDirectory(prefix="mcp-chassis-bench-") as name, ExitStack() as stack:
        stack.enter_context(client_apart())
        folder = Path(name)
        keys = Keys(folder)
        tell(f"{rounds} starts and stops, the bare SDK's in between")
        yield from _starts(project, keys, folder, rounds)
        tell(f"stopping {max(1, rounds // 2)} times with {IN_FLIGHT} calls in flight")
        yield from _drains(project, keys, folder, max(1, rounds // 2))
    taken = size(project.root, ".venv", "__pycache__", ".git", *(path.name for path in ADDITIONS.glob("*.py")))
    yield Figure("size of the rendered project, uv.lock included", taken / _KIBIBYTE, "KiB")
    environment = size(project.root / ".venv", "__pycache__")
    yield Figure("size of its environment, before modules are compiled", environment / _MEBIBYTE, "MiB")


MEASUREMENT: Final = Measurement(
    "lifecycle",
    "How long does a server take to start and to stop, and what does it take up?",
    "From the start of the command to the first 200 from /health/ready, asked every 2 ms; starts of the generated "
    "server and of the bare SDK take turns, all files in the system's cache; a value is the median over starts, the "
    f"spread their lowest and highest. {PINNED}",
    take,
)
