"""Servers of one tool, each a process of its own from an environment of its own, as its user would have it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.figures import Tell
from bench.running import Running, rendered
from mcp_chassis.auth.keys import FileKeyring, create
from tests.live.project import Project
from tests.render.support import succeed
from tests.support.limits import VARIABLES
from tests.support.ports import free_port

_HERE: Final = Path(__file__).parent
_CALLERS: Final = 8
_FAST: Final = ("uvloop", "httptools")
_SHOWN: Final = ("mcp", "fastmcp", "starlette", "uvicorn", *_FAST)
_PRODUCTION: Final = {
    "MCP_ENVIRONMENT": "production",
    "MCP_EXPOSURE": "internal",
    "MCP_SINGLE_REPLICA": "true",
    "MCP_PUBLIC_URL": "https://notes.example.com",
    "MCP_AUTH": "keys",
    # Counted, and wide enough for all connections together.
    **VARIABLES,
    "MCP_SUSPENSION_REFUSALS": "100",
    "MCP_MAX_CALLS": "1000",
    "MCP_MAX_CALLS_PER_CALLER": "1000",
}


@dataclass(frozen=True)
class Contender:
    """A server that is measured.

    Args:
        name: What the report calls it.
        program: In this folder.
        packages: What its user installs; `mcp` is that of the generated project.
    """

    name: str
    program: str
    packages: tuple[str, ...]


GENERATED: Final = "generated"
QUICKSTART: Final = Contender("SDK quickstart", "quickstart.py", ("mcp",))
TUNED: Final = Contender("SDK tuned", "tuned.py", ("mcp", *_FAST))
FASTMCP: Final = Contender("FastMCP", "fastmcp_default.py", ("fastmcp",))
CEILING: Final = Contender("Starlette", "ceiling.py", ("starlette", "uvicorn", *_FAST))
OTHERS: Final = (QUICKSTART, TUNED, FASTMCP, CEILING)


@dataclass(frozen=True)
class Serving:
    """A running server.

    Args:
        name: Of its contender.
        url: Where it serves.
        pid: Its process.
        callers: Headers that prove who calls; one caller without any where nobody asks.
        installed: The packages that matter here, with their versions.
        packages: How many there are in all.
    """

    name: str
    url: str
    pid: int
    callers: Sequence[Mapping[str, str]]
    installed: str
    packages: int


def installed(python: Path) -> dict[str, str]:
    """Return the version of each package of an environment."""
    code = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def _as_told(found: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {found[name]}" for name in _SHOWN if name in found)


def sdk_of(made: Project) -> str:
    """Return the version of the SDK that a generated project has."""
    return installed(made.python)["mcp"]


def install_all(contenders: Sequence[Contender], folder: Path, sdk: str) -> list[Path]:
    """Make an environment for each; return their interpreters."""
    with ThreadPoolExecutor(len(contenders)) as workers:
        return list(workers.map(lambda one: install(one, folder / Path(one.program).stem, sdk), contenders))


def install(contender: Contender, folder: Path, sdk: str) -> Path:
    """Make an environment with the packages of a contender; return its interpreter."""
    python = folder / "bin" / "python"
    succeed("uv", "venv", "--quiet", "--python", sys.executable, str(folder), cwd=folder.parent)
    wanted = [f"mcp=={sdk}" if package == "mcp" else package for package in contender.packages]
    # Compiled at once, all beside each other, or each server would do it when it starts.
    succeed(
        "uv", "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python), *wanted, cwd=folder.parent
    )
    return python


@contextmanager
def serving(contender: Contender, python: Path, folder: Path) -> Iterator[Serving]:
    """Run one of the others."""
    port = free_port()
    command = [str(python), str(_HERE / contender.program), str(port)]
    # It would ask the package index for a newer version of itself.
    given = {"FASTMCP_CHECK_FOR_UPDATES": "off"}
    log, found = folder / f"{Path(contender.program).stem}.log", installed(python)
    with Running(command, given, log, port, ready=None, cwd=folder) as server:
        yield Serving(contender.name, server.url, server.process.pid, [{}], _as_told(found), len(found))


def project(tell: Tell) -> Project:
    """Return the generated server, with the tool of all contenders."""
    made = rendered(tell)
    shutil.copy(_HERE / "generated" / "tools" / "echo.py", made.source / "tools")
    return made


@contextmanager
def generated(made: Project, folder: Path) -> Iterator[Serving]:
    """Run the generated server as its container does, with everything on."""
    port, keys, callers = free_port(), folder / "keys.json", []
    with FileKeyring(keys).editing() as records:
        for number in range(_CALLERS):
            key, record = create(f"agent-{number}", scopes=("*",))
            records[record.id] = record
            callers.append({"Authorization": f"Bearer {key}"})
    given = {**_PRODUCTION, "MCP_API_KEYS_FILE": str(keys), "MCP_PORT": str(port)}
    found = installed(made.python)
    with Running([str(made.command), "serve"], given, folder / "generated.log", port, cwd=folder) as server:
        yield Serving(GENERATED, server.url, server.process.pid, callers, _as_told(found), len(found))
