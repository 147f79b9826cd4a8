"""What a call costs that comes to a replica which does not hold its session (issue 6, S5)."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from bench.figures import Batches, Effort, Figure, Invalid, Measurement, Tell, figure, quantile
from bench.load import Connections, outcome_of
from bench.machine import processor_seconds
from bench.running import rendered
from tests.live.curl import HANDSHAKE, Conversation
from tests.live.fleet import Fleet, Keys
from tests.live.peered import ABLE, pair

_CALLER: Final = "ann"
_TOOL: Final = "search_notes"
_ARGUMENTS: Final = {"query": "milk", "limit": 5}
_SHARE: Final = 10
"""A call over sockets takes so much longer than one in this process, so there are fewer."""


@dataclass
class _Way:
    """One way to a session, and what its calls took and used."""

    name: str
    url: str
    milliseconds: list[list[float]] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)


class _Client:
    """One caller in one session; it calls at either replica, one call after the other, on connections that stay."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._connections = {url: Connections(url) for url in fleet.urls}
        self._conversation = Conversation(fleet.urls[0], HANDSHAKE, fleet.keys.headers(_CALLER))

    async def open(self) -> None:
        """Open the session at the first replica."""
        begun = self._conversation
        opened, _ = await self._connections[begun.url].post(*begun.message("initialize", ABLE))
        if opened.status != 200:
            raise Invalid(f"initialize is answered {opened.status}: {opened.body}")
        session = {"Mcp-Session-Id": opened.headers["mcp-session-id"], "MCP-Protocol-Version": HANDSHAKE.version}
        self._conversation = replace(begun, session={**begun.session, **session})
        await self._connections[begun.url].post(
            *self._conversation.message("notifications/initialized", notification=True)
        )

    async def call(self, way: _Way, calls: int) -> None:
        """Send a batch of calls."""
        found, used = [], _used(self._fleet)
        for _ in range(calls):
            message = self._conversation.message("tools/call", {"name": _TOOL, "arguments": _ARGUMENTS})
            answer, took = await self._connections[way.url].post(*message)
            if outcome_of(answer) != "served":
                raise Invalid(f"{way.name}: a call is answered {answer.status}: {answer.body}")
            found.append(took * 1000)
        way.milliseconds.append(found)
        way.processor.append((_used(self._fleet) - used) / calls)


def _used(fleet: Fleet) -> float:
    """Return the milliseconds of processor that all replicas have used."""
    return sum(processor_seconds(server.pid) for server in fleet.servers) * 1000


async def _measured(fleet: Fleet, effort: Effort, tell: Tell) -> list[_Way]:
    ways = [_Way("direct", fleet.urls[0]), _Way("forwarded", fleet.urls[1])]
    client, calls = _Client(fleet), effort.calls // _SHARE
    await client.open()
    for way in ways:
        await client.call(replace(way, milliseconds=[], processor=[]), calls)  # warm-up
    rounds = max(2, effort.batches // 3)
    tell(f"{rounds} batches of {calls} calls each, direct and forwarded in turn")
    for _ in range(rounds):
        for way in ways:
            await client.call(way, calls)
    return ways


def take(effort: Effort, tell: Tell) -> Iterable[Figure]:
    """Measure both ways in turn, batch by batch, on two replicas that share a Redis."""
    with tempfile.TemporaryDirectory(prefix="mcp-chassis-bench-") as name:
        folder = Path(name)
        project, keys = rendered(tell), Keys(folder)
        with pair(project, keys, folder) as (_, fleet):
            direct, forwarded = asyncio.run(_measured(fleet, effort, tell))
    for share, word in ((0.5, "median"), (0.99, "p99")):
        pairs = [figure(f"{way.name}: {word}", way.milliseconds, share, "ms") for way in (direct, forwarded)]
        yield from pairs
        yield _ratio(f"{word}, forwarded / direct", pairs, direct.milliseconds, forwarded.milliseconds, share)
    yield from _processor(direct, forwarded)


def _ratio(what: str, pair: list[Figure], direct: Batches, forwarded: Batches, share: float) -> Figure:
    each = [quantile(far, share) / quantile(near, share) for near, far in zip(direct, forwarded, strict=True)]
    return Figure(what, pair[1].value / pair[0].value, "", (min(each), max(each)))


def _processor(direct: _Way, forwarded: _Way) -> Iterator[Figure]:
    used = [
        figure(f"{way.name}: processor of both replicas", [way.processor], 0.5, "ms") for way in (direct, forwarded)
    ]
    for found in used:
        yield Figure(found.what, found.value, found.unit)
    if used[0].value:  # a short batch may be below what the kernel counts
        yield Figure("processor, forwarded / direct", used[1].value / used[0].value)


MEASUREMENT: Final = Measurement(
    "forwarded",
    "What does a call cost that comes to a replica which does not hold its session?",
    "One caller, one session, one call after the other on connections that stay, without edges; batches to the replica "
    "that holds the session and to the other one take turns; a value is the median over batches, the spread their "
    "lowest and highest; of a ratio, the spread is that of each batch over the one before it.",
    take,
)
