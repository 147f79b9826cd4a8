"""Whether many tools make a list long and a call dear (issue 9)."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

from bench.client import Client
from bench.figures import FULL, Effort, Figure, Goal, Invalid, Measurement, Tell, figure
from bench.running import CALLER, PINNED, client_apart, generated, rendered
from tests.live.curl import ERAS, Era
from tests.live.fleet import Keys
from tests.live.project import Project

COUNTS: Final = (10, 100, 1000)
GROWTH: Final = Goal("at most", 10)
"""Percent that a call may cost more with the most tools than with the fewest (issue 9)."""
_SHARE_OF_CALLS, _SHARE_OF_LISTS = 20, 25
"""A call over sockets takes longer than one in this process, and a list of many tools much longer."""
_KIBIBYTE: Final = 1024


@dataclass
class Seen:
    """What was seen in one era, by the number of tools: batches of milliseconds, and the KiB of a list."""

    lists: dict[int, list[list[float]]] = field(default_factory=lambda: {count: [] for count in COUNTS})
    calls: dict[int, list[list[float]]] = field(default_factory=lambda: {count: [] for count in COUNTS})
    kibibytes: dict[int, float] = field(default_factory=dict)

    @property
    def dearer(self) -> list[float]:
        """By how many percent a call with the most tools was dearer than one with the fewest, in each round."""
        fewest, most = self.calls[COUNTS[0]], self.calls[COUNTS[-1]]
        return [(median(other) / median(one) - 1) * 100 for one, other in zip(fewest, most, strict=True)]


async def _listed(client: Client, count: int, times: int, seen: Seen) -> None:
    """Ask for the list; every tool must be in it."""
    found = []
    for _ in range(times):
        answer, took = await client.ask("tools/list")
        if len(answer.message["result"]["tools"]) < count:
            raise Invalid(f"a list of {count} tools is answered by {answer.body[:200]}")
        found.append(took * 1000)
    seen.kibibytes[count] = len(answer.body) / _KIBIBYTE
    seen.lists[count].append(found)


async def _measured(urls: dict[int, str], headers: dict[str, str], effort: Effort, found: dict[Era, Seen]) -> None:
    """Ask all servers in turn."""
    clients = {(era, count): Client(url, era, headers) for era in ERAS for count, url in urls.items()}
    calls = max(5, effort.calls // _SHARE_OF_CALLS)
    for client in clients.values():
        await client.open()
        await client.batch(calls)  # warm-up
    for _ in range(3 if effort is FULL else 2 if effort.judged else 1):
        for (era, count), client in clients.items():
            await _listed(client, count, max(2, calls // _SHARE_OF_LISTS), found[era])
        for (era, count), client in clients.items():
            found[era].calls[count].append(await client.batch(calls))


def _round(project: Project, keys: Keys, folder: Path, effort: Effort, found: dict[Era, Seen]) -> None:
    """Take a round on servers of its own: two processes are never equally fast, so there are several of each."""
    with ExitStack() as stack:
        given = {count: {"BENCH_TOOLS": str(count)} for count in COUNTS}
        servers = {
            count: stack.enter_context(generated(project, keys, folder, given=variables))
            for count, variables in given.items()
        }
        urls = {count: server.url for count, server in servers.items()}
        asyncio.run(_measured(urls, keys.headers(CALLER), effort, found))


def take(effort: Effort, tell: Tell) -> Iterable[Figure]:
    """Ask servers with few and with many tools in turn, in both eras."""
    found = {era: Seen() for era in ERAS}
    project, rounds = rendered(tell), 3 if effort is FULL else 1
    with tempfile.TemporaryDirectory(prefix="mcp-chassis-bench-") as name, client_apart():
        keys = Keys(Path(name))
        for number in range(rounds):
            tell(f"round {number + 1} of {rounds}, with {', '.join(map(str, COUNTS))} tools")
            _round(project, keys, Path(name), effort, found)
    for era, seen in found.items():
        yield from figures(era.name, seen)


def figures(era: str, seen: Seen) -> Iterator[Figure]:
    """Return what lists take, and what calls do."""
    for count in COUNTS:
        yield figure(f"{era}: tools/list of {count:,} tools: median", seen.lists[count], 0.5, "ms")
        yield Figure(f"{era}: size of the list of {count:,} tools", seen.kibibytes[count], "KiB")
    for count in COUNTS:
        yield figure(f"{era}: tools/call with {count:,} tools: median", seen.calls[count], 0.5, "ms")
    spread = min(seen.dearer), max(seen.dearer)
    what = f"{era}: a call with {COUNTS[-1]:,} tools costs more than with {COUNTS[0]}, by"
    yield Figure(what, median(seen.dearer), "%", spread, GROWTH, shown=True)


MEASUREMENT: Final = Measurement(
    "tools",
    "Do many tools make a list long and a call dear?",
    "Servers with few and many tools run side by side and are asked in turn, batch by batch; each round has servers of "
    "its own; to the tools of each number come the project's own few. One caller, one request after the other; a value "
    f"is the median over batches, the spread their lowest and highest. {PINNED}",
    take,
)
