"""Whose code the processor runs during a call: the SDK's, the chassis's, that of the packages below (issue 9)."""

from __future__ import annotations

import asyncio
import pstats
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from bench import contenders
from bench.figures import Effort, Figure, Invalid, Measurement, Tell
from bench.running import CALLER, PINNED, ROOT, generated
from bench.wrk import load, opened
from tests.live.curl import ERAS, Conversation, Era
from tests.live.fleet import Keys
from tests.live.project import Project

TOOL, PYTHON = "the tool", "Python itself (standard library, builtins)"
_CHASSIS: Final = "mcp_chassis"
"""It is used where it lies, not installed among the packages."""
OWNERS: Final[Mapping[str, tuple[str, ...]]] = {
    "the SDK (mcp, mcp_types)": ("mcp", "mcp_types"),
    "anyio": ("anyio",),
    "starlette and sse-starlette": ("starlette", "sse_starlette"),
    "uvicorn, httptools and uvloop": ("uvicorn", "httptools", "uvloop"),
    "pydantic": ("pydantic", "pydantic_core"),
    "the chassis (mcp_chassis)": (_CHASSIS,),
    "structlog, orjson and prometheus": ("structlog", "orjson", "prometheus_client"),
    TOOL: (),
    PYTHON: (),
}
"""Import names by owner; what belongs to nobody here counts for whoever calls it."""
_OF_PACKAGE: Final = {package: owner for owner, packages in OWNERS.items() for package in packages}
_COMPILED: Final = re.compile(r"<(?:built-in )?method (?:'\w+' of ')?(\w+)\.")
"""How a profile names a compiled function, if it tells the package."""
_NO_FILE: Final = "~"
"""What a profile has in place of the file of a compiled function."""
_PACKAGES: Final = "site-packages"
_LEVELS: Final = 12
"""Of callers that are asked for an owner: code that calls itself in a ring would have no end."""
_CONNECTIONS: Final = 16
_LONGEST: Final = 4
"""Seconds of a phase: a share settles sooner than a rate."""
_ROOM: Final = {"MCP_MAX_CALLS": "1000", "MCP_MAX_CALLS_PER_CALLER": "1000"}
"""All connections are one caller's."""

Function = tuple[str, int, str]
"""Its file, its line and its name."""
Times = tuple[int, int, float, float]
"""Calls without those from within itself, all calls, seconds of its own, seconds with what it called."""
Profile = Mapping[Function, tuple[int, int, float, float, Mapping[Function, Times]]]
"""What `pstats` reads: the times of each function, and those of them that belong to each of its callers."""


def owner(function: Function, tool: Path) -> str | None:
    """Return whose code it is, if somebody's; `tool` is the folder that has the tool's."""
    file, _, name = function
    if file == _NO_FILE:
        named = _COMPILED.match(name)
        return _OF_PACKAGE.get(named[1]) if named else None
    path = Path(file)
    if path.is_relative_to(tool):
        return TOOL
    if _PACKAGES in path.parts:
        package = path.parts[path.parts.index(_PACKAGES) + 1]
        return _OF_PACKAGE.get(package.removesuffix(".py"))
    return _OF_PACKAGE[_CHASSIS] if _CHASSIS in path.parts else None


def seconds_by_owner(profile: Profile, tool: Path) -> dict[str, float]:
    """Return the seconds of each owner's code, and of what it calls that is nobody's.

    What is nobody's goes to the callers, by their parts of its own time, and on to theirs until somebody is found;
    what has no caller, because the event loop calls it, is Python's.
    """
    found = dict.fromkeys(OWNERS, 0.0)
    owners = {function: owner(function, tool) for function in profile}
    pending = {function: times[2] for function, times in profile.items()}
    for _ in range(_LEVELS):
        handed_on: dict[Function, float] = {}
        for function, seconds in pending.items():
            whose = owners[function]
            if whose is not None:
                found[whose] += seconds
                continue
            parts = shares_of_callers(profile, function)
            found[PYTHON] += seconds * (1 - sum(parts.values()))
            for caller, part in parts.items():
                handed_on[caller] = handed_on.get(caller, 0.0) + seconds * part
        pending = handed_on
    found[PYTHON] += sum(pending.values())
    return found


def shares_of_callers(profile: Profile, function: Function) -> dict[Function, float]:
    """Return which part of a function's own time each caller has; the rest was called from nowhere."""
    _, _, own, _, callers = profile[function]
    parts = {caller: times[2] for caller, times in callers.items() if caller in profile}
    whole = max(own, sum(parts.values()))
    return {caller: part / whole for caller, part in parts.items()} if whole else {}


def figures(era: str, profile: Profile, tool: Path, calls: int) -> Iterator[Figure]:
    """Return the share of each owner, the largest first, and how many calls were seen.

    Raises:
        Invalid: If the profile is empty.
    """
    found = seconds_by_owner(profile, tool)
    whole = sum(found.values())
    if not whole:
        raise Invalid("the profiler saw nothing")
    for name in sorted(found, key=lambda name: -found[name]):
        yield Figure(f"{era}: {name}", 100 * found[name] / whole, "%")
    yield Figure(f"{era}: profiled calls", calls)


def profiled(project: Project, era: Era, seconds: int, folder: Path) -> tuple[Profile, int]:
    """Return the profile of a server that serves nothing but calls of one era, and their number."""
    keys, file = Keys(folder), folder / "profile"
    command = [str(project.python), "-m", "bench.profiling", f"{project.package}.server", str(file)]
    with generated(project, keys, folder, command=command, given={"PYTHONPATH": str(ROOT), **_ROOM}) as server:
        talks = [Conversation(server.url, era, keys.headers(CALLER)) for _ in range(_CONNECTIONS)]
        calls = load(asyncio.run(opened(talks)), _CONNECTIONS, seconds, folder=folder).calls
        server.stop()
    found: Profile = vars(pstats.Stats(str(file)))["stats"]
    return found, calls


def take(effort: Effort, tell: Tell) -> Iterable[Figure]:
    """Profile a server of its own for each era."""
    project = contenders.project(tell)
    seconds = max(1, round(min(effort.phase / 4, _LONGEST)))
    for era in ERAS:
        tell(f"{era.name}: {_CONNECTIONS} connections for {seconds} s under the profiler")
        with tempfile.TemporaryDirectory(prefix="mcp-chassis-bench-") as name:
            profile, calls = profiled(project, era, seconds, Path(name))
        yield from figures(era.name, profile, project.source, calls)


MEASUREMENT: Final = Measurement(
    "profile",
    "Whose is the processor time of a call?",
    "The generated server runs under Python's profiler, with everything on, and wrk keeps it busy on 16 connections. A "
    "profiler slows small functions more than large ones, so shares are rough; absolute times are those of the other "
    "measurements. A function counts for the package its code is in; one of the standard library, or of a package that "
    "is not named, counts for whoever calls it. What the event loop does between two functions, reading sockets and "
    "waiting, is not seen. The profiler reads wall time: another process on that core "
    f"counts for what it interrupts. A server of its own for each era. {PINNED}",
    take,
)
