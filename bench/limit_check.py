"""What the limits cost a call that keeps all of them: admission and call boundary together (issue 4)."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.figures import Batches, Effort, Figure, Goal, Invalid, Measurement, Tell, figure
from mcp_chassis.auth import revocation_name
from mcp_chassis.limiter import Limiter, rules_of
from mcp_chassis.policy import PerDay, ToolPolicy
from mcp_chassis.request import PROBE_SCOPE, Caller
from mcp_chassis.settings import Settings
from mcp_chassis.state.redis import RedisStore
from mcp_chassis.state.store import MemoryStore, Store
from tests.support.redis import running

GOAL: Final = Goal("at most", 20)
"""Microseconds of the median, in process (issue 4)."""
_CALLERS, _CROWD = 1_000, 20_000
"""Callers in turn: as many as a busy server has, and more than the caches of names hold."""
_ROOM: Final = "100000/100000"
"""A limit that is counted like any other, and that nobody reaches here."""
_REDIS_SHARE: Final = 10
"""A call through Redis takes this many times longer at least, so there are fewer."""
_ADDRESS: Final = "192.0.2.1"


@dataclass
class _Case:
    """One way to be limited, and how long its calls took."""

    name: str
    limiter: Limiter
    callers: list[Caller]
    revocations: list[tuple[str, ...]]
    tool: str
    calls: int
    goal: Goal | None = None
    batches: list[list[float]] = field(default_factory=list)

    async def run(self) -> list[float]:
        """Return the microseconds of each of a batch of calls, one after the other."""
        found = []
        for index in range(self.calls):
            place = index % len(self.callers)
            caller, revocations = self.callers[place], self.revocations[place]
            begun = time.perf_counter_ns()
            admitted = await self.limiter.admit(caller, _ADDRESS, "request", revocations)
            taken = await self.limiter.take(caller, self.tool)
            found.append((time.perf_counter_ns() - begun) / 1000)
            if admitted.refusing is not None or taken.refusing is not None:
                raise Invalid(f"{self.name}: a call was refused by {admitted.refusing or taken.refusing}")
        return found


def _limiter(store: Store, *, everybody: bool) -> Limiter:
    given = {"caller_limit": _ROOM, "tool_limit": _ROOM, "global_limit": _ROOM if everybody else None}
    settings = Settings.model_validate({"tool_timeout": 30, "public_url": "https://notes.example.com", **given})
    tools = {"report": ToolPolicy(budget=PerDay(999_999_999)), "search": ToolPolicy()}
    return Limiter(store, rules_of(settings, tools))


def _case(
    name: str, store: Store, tool: str, calls: int, *, callers: int = _CALLERS, goal: Goal | None = None
) -> _Case:
    """Return a case; its callers prove themselves by keys, which may have been revoked."""
    people = [Caller(f"agent-{number}", way="key") for number in range(callers)]
    revocations: list[tuple[str, ...]] = [(revocation_name("key", caller.id),) for caller in people]
    return _Case(name, _limiter(store, everybody=tool == "report"), people, revocations, tool, calls, goal)


def _cases(effort: Effort, redis_url: str | None) -> list[_Case]:
    crowd = max(effort.calls, _CROWD) if effort.judged else effort.calls
    cases = [
        _case("caller, tool, budget, global", MemoryStore(), "report", effort.calls, goal=GOAL),
        _case("caller, tool (the defaults)", MemoryStore(), "search", effort.calls, goal=GOAL),
        _case(f"all four, {crowd:,} callers in turn", MemoryStore(), "report", crowd, callers=crowd),
    ]
    probe = _case("none (the probe's calls)", MemoryStore(), "search", effort.calls, callers=1)
    probe.callers, probe.revocations = [Caller("probe", scopes=frozenset({PROBE_SCOPE}), way="key")], [()]
    cases.append(probe)
    if redis_url is not None:
        # More patience than a server has: what is slow shall be measured, not given up.
        store = RedisStore(redis_url, server="bench", longest=10)
        cases.append(_case("all four in Redis, one after the other", store, "report", effort.calls // _REDIS_SHARE))
    return cases


async def _measured(effort: Effort, redis_url: str | None, tell: Tell) -> list[tuple[str, Goal | None, Batches]]:
    cases = _cases(effort, redis_url)
    tell(f"{len(cases)} cases, {effort.batches} batches of each in turn")
    for case in cases:
        await case.run()  # warm-up: caches of names, connections, scripts
    for _ in range(effort.batches):
        for case in cases:
            case.batches.append(await case.run())
    return [(case.name, case.goal, case.batches) for case in cases]


def take(effort: Effort, tell: Tell) -> Iterable[Figure]:
    """Measure every case in turn, batch by batch."""
    with ExitStack() as stack:
        url = None
        if shutil.which("redis-server") is None:
            tell("redis-server is not installed, so that case is left out; `make bench` installs it")
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mcp-chassis-bench-"))
            url = stack.enter_context(running(Path(folder))).url
        found = asyncio.run(_measured(effort, url, tell))
    for name, goal, batches in found:
        yield figure(f"{name}: median", batches, 0.5, "µs", goal)
        yield figure(f"{name}: p99", batches, 0.99, "µs")


MEASUREMENT: Final = Measurement(
    "limit-check",
    "What do admission and call boundary together cost a call that is within its limits?",
    "Each call is timed alone; the cases take turns, batch by batch, after a warm-up; a value is the median over "
    "batches, the spread their lowest and highest. The garbage collector runs as in a server.",
    take,
)
