"""What an idle session holds of the memory, beside the bare SDK's, and whether many of them slow a call (issue 9)."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

from bench.client import Client
from bench.figures import FULL, Effort, Figure, Goal, Measurement, Tell
from bench.load import Connections
from bench.running import CALLER, PINNED, Running, bare, client_apart, generated, rendered
from tests.live.curl import HANDSHAKE
from tests.live.fleet import Keys

MEMORY: Final = Goal("at most", 1.2)
"""Times what the bare SDK's takes (issue 9)."""
GROWTH: Final = Goal("at most", 10)
"""Percent that a call may cost more (issue 9)."""
_SHARE_OF_CALLS, _SHARE_OF_BATCHES = 20, 6


@dataclass(frozen=True)
class _Plan:
    """How many sessions: before anything is compared, at the first look, at the last one; and how many calls."""

    few: int
    more: int
    many: int
    batches: int
    calls: int

    @classmethod
    def of(cls, effort: Effort) -> _Plan:
        """Return what fits in the time."""
        few, more, many = (100, 1000, 5000) if effort is FULL else (100, 250, 600) if effort.judged else (5, 10, 20)
        return cls(
            few, more, many, max(6, effort.batches // _SHARE_OF_BATCHES), max(5, effort.calls // _SHARE_OF_CALLS)
        )


@dataclass
class Crowded:
    """A server that more and more sessions are open at.

    Args:
        name: What the reader calls it.
        server: Its process.
        headers: What proves who opens them.
        kilobytes: What it held of the memory, by the sessions that were open.
    """

    name: str
    server: Running
    headers: dict[str, str]
    kilobytes: dict[int, float] = field(default_factory=dict)
    opened: int = 0

    async def fill(self, sessions: int) -> None:
        """Open sessions until there are so many, and look at the memory."""
        connections = [Connections(self.server.url)]
        for _ in range(self.opened, sessions):
            await Client(self.server.url, HANDSHAKE, self.headers, connections).open()
        self.opened = sessions
        self.kilobytes[sessions] = self.server.kilobytes

    def each(self, few: int, many: int) -> float:
        """Return the KiB of one session, of those between `few` and `many`."""
        return (self.kilobytes[many] - self.kilobytes[few]) / (many - few)


async def in_turn(clients: Sequence[Client], batches: int, calls: int) -> list[list[float]]:
    """Return the median milliseconds of each batch of calls, by client; the clients take turns."""
    for client in clients:
        await client.batch(calls)  # warm-up
    found: list[list[float]] = [[] for _ in clients]
    for _ in range(batches):
        for client, medians in zip(clients, found, strict=True):
            medians.append(median(await client.batch(calls)))
    return found


def growth(before: Sequence[Sequence[float]], after: Sequence[Sequence[float]]) -> tuple[float, tuple[float, float]]:
    """Return the percent by which the second server's calls became dearer than the first one's did, and the spread.

    Two processes are never equally fast, so what they differed by before is taken off.
    """
    was = median(other / one for one, other in zip(*before, strict=True))
    rounds = [(other / one / was - 1) * 100 for one, other in zip(*after, strict=True)]
    return median(rounds), (min(rounds), max(rounds))


async def _measured(
    plan: _Plan, ours: Crowded, quiet: Crowded, plain: Crowded, tell: Tell
) -> tuple[float, tuple[float, float]]:
    """Fill the servers; return by how much calls became dearer."""
    for crowded in (ours, quiet, plain):
        await crowded.fill(plan.few)
    clients = [Client(crowded.server.url, HANDSHAKE, crowded.headers) for crowded in (quiet, ours)]
    for client in clients:
        await client.open()
    tell(f"{plan.batches} batches of {plan.calls} calls at two servers with {plan.few} sessions each, in turn")
    before = await in_turn(clients, plan.batches, plan.calls)
    for count in (plan.more, plan.many):
        tell(f"opening sessions until there are {count:,}, at one of them and at the bare SDK")
        for crowded in (ours, plain):
            await crowded.fill(count)
    tell("the same batches again")
    return growth(before, await in_turn(clients, plan.batches, plan.calls))


def take(effort: Effort, tell: Tell) -> Iterable[Figure]:
    """Fill a server and the bare SDK; call at the full one and at one that stays nearly empty."""
    plan = _Plan.of(effort)
    with tempfile.TemporaryDirectory(prefix="mcp-chassis-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        project, keys = rendered(tell), Keys(folder)
        stack.enter_context(client_apart())
        quiet, ours = (
            Crowded("generated", stack.enter_context(generated(project, keys, folder)), keys.headers(CALLER))
            for _ in range(2)
        )
        plain = Crowded("bare SDK", stack.enter_context(bare(project, folder)), {})
        dearer = asyncio.run(_measured(plan, ours, quiet, plain, tell))
    yield from _memory(plan, ours, plain)
    what = f"a call at {plan.many:,} open sessions costs more than at {plan.few}, by"
    yield Figure(what, dearer[0], "%", dearer[1], GROWTH, shown=True)


def _memory(plan: _Plan, ours: Crowded, plain: Crowded) -> Iterator[Figure]:
    for count in (plan.more, plan.many):
        for crowded in (ours, plain):
            yield Figure(f"{crowded.name}: an idle session, of {count:,}", crowded.each(plan.few, count), "KiB")
        if plain.each(plan.few, count) > 0:  # a few sessions fit into memory that a process has anyway
            ratio = ours.each(plan.few, count) / plain.each(plan.few, count)
            yield Figure(f"an idle session, of {count:,}: generated / bare SDK", ratio, "", goal=MEMORY, shown=True)


MEASUREMENT: Final = Measurement(
    "sessions",
    "What does an idle session hold of the memory, beside the bare SDK's, and do many of them slow a call?",
    "Memory is what the kernel counts as resident; the first sessions are not counted, because they fill caches too. "
    "The bare SDK runs in the same environment. Calls go in batches to the full server and to one that stays nearly "
    "empty, in turn; what the two differed by while both were nearly empty is taken off; the spread is that of the "
    f"rounds. {PINNED}",
    take,
)
