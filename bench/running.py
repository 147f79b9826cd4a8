"""Servers as an operator runs them: a process of its own on a core of its own, its log in a file, full hardening on."""

from __future__ import annotations

import atexit
import functools
import http.client
import os
import shutil
import signal
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from bench.figures import Invalid, Tell
from tests.live.fleet import Keys
from tests.live.project import Project, environment
from tests.render.support import copy_template, render_by_copier, succeed
from tests.support.limits import VARIABLES
from tests.support.ports import free_port

ROOT: Final = Path(__file__).resolve().parent.parent
CALLER: Final = "ann"
"""Who calls: one of those that `Keys` knows."""
PINNED: Final = "The server has one core, the client another, where the machine has two."
ADDITIONS: Final = ROOT / "bench" / "additions" / "tools"
"""Tools that measurements need."""
_CORES: Final = sorted(os.sched_getaffinity(0))
_PATIENCE: Final = 60.0
"""Seconds until a server that does not start or stop is given up."""
_PAUSE: Final = 0.002
"""Seconds between two looks at a server that starts: 0.1 % of what that may take."""
_KILOBYTE: Final = 1024
_ROOM: Final = {
    **VARIABLES,
    "MCP_SUSPENSION_REFUSALS": "100",
    "MCP_MAX_SESSIONS": "100000",
    "MCP_MAX_SESSIONS_PER_CALLER": "100000",
    "MCP_AUTH": "keys",
    "MCP_LOG_FORMAT": "json",
}
"""Every limit is counted, and none is reached; whoever were refused would be suspended."""


def cores() -> tuple[set[int], set[int]]:
    """Return the cores of servers and those of clients: apart, where there are two."""
    first, *rest = _CORES
    return {first}, {rest[0]} if rest else {first}


def pinned(found: set[int]) -> list[str]:
    """Return what a command begins with to run on these cores alone."""
    return ["taskset", "--cpu-list", ",".join(map(str, found))]


@contextmanager
def on_cores(found: set[int]) -> Iterator[None]:
    """Keep this process, and what it starts meanwhile, on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, found)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def client_apart() -> AbstractContextManager[None]:
    """Keep this process off the servers' core meanwhile."""
    return on_cores(cores()[1])


def rendered(tell: Tell) -> Project:
    """Return the project that these measurements share, with the tools that they add."""
    tell("rendering and installing a server, unless that was done")
    return _rendered()


@functools.cache
def _rendered() -> Project:
    """Return it; it is gone when the bench ends."""
    folder = Path(tempfile.mkdtemp(prefix="mcp-chassis-bench-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    project = _render(folder)
    for module in ADDITIONS.glob("*.py"):
        shutil.copy(module, project.source / "tools")
    return project


def _render(folder: Path) -> Project:
    """Render the working tree with the default answers and install it."""
    # The settings of the person and the machine are not measured.
    (folder / "copier.yml").write_text("{}\n", encoding="utf-8")
    os.environ["COPIER_SETTINGS_PATH"] = str(folder / "copier.yml")
    root = render_by_copier(copy_template(folder / "template"), folder / "project", ())
    succeed("uv", "sync", "--quiet", "--no-dev", cwd=root)
    return Project(root, str(tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"]))


@dataclass
class Running:
    """A process that serves HTTP on a port of its own.

    Args:
        command: What runs.
        variables: Its environment beside what everybody has.
        log: Where both its streams go.
        port: Where it is told to listen.
        ready: The path that answers 200 once it can be used; without one, its port is asked.
        cwd: Where it runs.
        pinned: Whether it is kept on the servers' core.
    """

    command: Sequence[str]
    variables: Mapping[str, str]
    log: Path
    port: int
    ready: str | None = "/health/ready"
    cwd: Path | None = None
    pinned: bool = True
    started: float = 0.0
    """Seconds from its start until it could be used."""
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """Where it serves MCP."""
        return f"http://127.0.0.1:{self.port}/mcp"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """Its process, once it was started."""
        if self._process is None:
            raise RuntimeError("start it with a with statement")
        return self._process

    @property
    def kilobytes(self) -> float:
        """What it holds of the machine's memory now."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / _KILOBYTE

    def __enter__(self) -> Self:
        begun = time.perf_counter()
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [*(pinned(cores()[0]) if self.pinned else []), *self.command],
                env=environment(self.variables),
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        while not self._answers():
            if self._process.poll() is not None or time.perf_counter() - begun > _PATIENCE:
                self.__exit__(None, None, None)
                raise Invalid(f"it does not start: {self.log.read_text(encoding='utf-8')[-2000:]}")
            time.sleep(_PAUSE)
        self.started = time.perf_counter() - begun
        return self

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_PATIENCE)
        try:
            connection.connect()
            if self.ready is None:
                return True
            connection.request("GET", self.ready)
            return connection.getresponse().status == 200
        except (ConnectionError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def stop(self) -> float:
        """Ask it to end; return the seconds until it has."""
        begun = time.perf_counter()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(_PATIENCE)
        if code not in (0, -signal.SIGTERM):
            raise Invalid(f"it ends with {code}: {self.log.read_text(encoding='utf-8')[-2000:]}")
        return time.perf_counter() - begun

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def generated(
    project: Project, keys: Keys, folder: Path, *, command: Sequence[str] = (), given: Mapping[str, str] | None = None
) -> Running:
    """Return the generated server, not started yet.

    Args:
        project: What was rendered.
        keys: Who may call.
        folder: Where its log is kept.
        command: What to run in place of its `serve`.
        given: Variables that are this server's own.
    """
    port = free_port()
    variables = {**_ROOM, "MCP_API_KEYS_FILE": str(keys.file), "MCP_PORT": str(port), **(given or {})}
    return Running(
        command or [str(project.command), "serve"], variables, folder / f"{port}.log", port, cwd=project.root
    )


def bare(project: Project, folder: Path) -> Running:
    """Return the official SDK's server in the same environment, not started yet."""
    port = free_port()
    command = [str(project.python), "-m", "bench.bare", str(port)]
    return Running(command, {"PYTHONPATH": str(ROOT)}, folder / f"{port}.log", port, ready=None, cwd=project.root)
