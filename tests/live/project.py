"""The default project made real, and its server as the process that a person starts."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.render.support import by_copier, scratch, succeed
from tests.support.limits import VARIABLES

ADDITIONS = Path(__file__).parent / "additions" / "tools"

DEADLINE = 30.0
"""Seconds after which a test gives up waiting for something that should have happened."""

_FOREIGN = ("MCP_", "NOTES_", "KUBERNETES_", "PYTHON", "VIRTUAL_ENV", "PYTEST_", "NO_COLOR")
"""Variables of this test run, of an orchestrator around it, or of another server."""

Line = dict[str, Any]


def environment(given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a person who set nothing but `given`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    return {**inherited, **(given or {})}


@dataclass(frozen=True)
class Project:
    """A rendered project after `uv sync`."""

    root: Path
    name: str

    @property
    def package(self) -> str:
        """The import name."""
        return self.name.replace("-", "_")

    @property
    def source(self) -> Path:
        """The folder of the package."""
        return self.root / "src" / self.package

    @property
    def command(self) -> Path:
        """The command that `uv sync` installed."""
        return self.root / ".venv" / "bin" / self.name

    @property
    def python(self) -> Path:
        """The interpreter that the command runs in."""
        return self.root / ".venv" / "bin" / "python"

    def run(
        self, *arguments: str, given: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the command to its end, in the project's folder or another."""
        return subprocess.run(
            [str(self.command), *arguments],
            cwd=cwd or self.root,
            env=environment(given),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )


def make_real(target: Path, *additions: str) -> Project:
    """Copy the default project to `target`, add modules to its tools, and install it as its user would."""
    shutil.copytree(by_copier(), target)
    name = str(tomllib.loads((target / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"])
    project = Project(target, name)
    for module in additions:
        shutil.copy(ADDITIONS / f"{module}.py", project.source / "tools")
    succeed("uv", "sync", "--quiet", "--no-dev", cwd=target)
    return project


def folder() -> Path:
    """Return a new folder of this worker."""
    return Path(tempfile.mkdtemp(dir=scratch()))


@functools.cache
def default_project() -> Project:
    """Return the project of somebody who pressed enter at every question; nobody may change it."""
    return make_real(folder() / "project")


@functools.cache
def extended_project() -> Project:
    """Return a project with tools, resources, prompts and handlers for every scenario; nobody may change it."""
    return make_real(folder() / "project", *(path.stem for path in ADDITIONS.glob("*.py")))


class ServerProcess:
    """A server that runs, and everything it has said so far.

    Args:
        project: Whose command runs.
        arguments: What the command is told.
        given: Variables beside those everybody has; the port is a free one unless given.
        command: What to run in place of the project's command.
        cwd: Where to run it, if not in the project's folder.
    """

    def __init__(
        self,
        project: Project,
        *arguments: str,
        given: Mapping[str, str] | None = None,
        command: tuple[str, ...] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.lines: list[Line] = []
        self.errors: list[str] = []
        self._said = threading.Condition()
        self._process = subprocess.Popen(
            [*(command or (str(project.command),)), *(arguments or ("serve",))],
            cwd=cwd or project.root,
            env=environment({"MCP_PORT": "0", **VARIABLES, **(given or {})}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._readers = [
            threading.Thread(target=self._read, args=(self._process.stdout, self._parse), daemon=True),
            threading.Thread(target=self._read, args=(self._process.stderr, self.errors.append), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Any, keep: Callable[[str], None]) -> None:
        for line in stream:
            with self._said:
                keep(line.rstrip("\n"))
                self._said.notify_all()
        with self._said:
            self._said.notify_all()

    def _parse(self, line: str) -> None:
        try:
            self.lines.append(json.loads(line))
        except ValueError:
            # Kept for the assertion that every line is JSON.
            self.lines.append({"event": "not JSON", "text": line})

    def wait_for(self, event: str, *, count: int = 1, **fields: object) -> Line:
        """Return the `count`-th line of `event` with these fields, as soon as it is written."""
        wanted = {"event": event, **fields}
        until = time.monotonic() + DEADLINE
        with self._said:
            while True:
                found = [line for line in self.lines if all(line.get(name) == wanted[name] for name in wanted)]
                if len(found) >= count:
                    return found[count - 1]
                ended = not any(reader.is_alive() for reader in self._readers)
                if ended or not self._said.wait(until - time.monotonic()):
                    raise TimeoutError(f"no {wanted} number {count} in\n{self.output}")

    @property
    def output(self) -> str:
        """Everything said on both streams, for messages of failure."""
        return "\n".join([*(json.dumps(line) for line in self.lines), *self.errors])

    @property
    def url(self) -> str:
        """Where it serves MCP, known once it says that it started."""
        return str(self.wait_for("server_started")["url"])

    @property
    def pid(self) -> int:
        """The process that was started."""
        return self._process.pid

    def wait(self) -> int:
        """Wait for the end, and return the exit code."""
        code = self._process.wait(DEADLINE)
        for reader in self._readers:
            reader.join(DEADLINE)
        return code

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end, and return the exit code."""
        self._process.send_signal(number)
        return self.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self.wait()
            except subprocess.TimeoutExpired:
                os.killpg(self.pid, signal.SIGKILL)
                self.wait()
                raise
