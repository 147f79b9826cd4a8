"""When the events of a stream arrive: directly, and through each edge as the project configures it (issue 9)."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

import httpx2

from bench.figures import FULL, Effort, Figure, Goal, Invalid, Measurement, Tell, figure
from bench.running import CALLER, PINNED, client_apart, cores, generated, on_cores, rendered
from tests.live import edges
from tests.live.curl import ERAS, EVENTS, HANDSHAKE, Conversation, Era
from tests.live.fleet import Keys
from tests.live.peered import begin, calling, streaming
from tests.live.peers import Peer

GOAL: Final = Goal("at most", 5)
"""Milliseconds that an edge may delay the first event (issue 9)."""
PACE: Final = 0.05
DIRECT: Final = "direct"


@dataclass(frozen=True)
class Way:
    """A way to the server.

    Args:
        name: What stands on it.
        url: Where it begins.
        authorities: Who signed its certificate, where it has one.
    """

    name: str
    url: str
    authorities: Path | None = None


@dataclass
class Seen:
    """What was seen of the streams of one way in one era; each in milliseconds.

    Args:
        first: From the request to the first event that was read, of each stream.
        late: From sending to reading, of each event of each stream.
        gaps: By how much the gap between two events changed on the way, at most, of each stream.
    """

    first: list[float] = field(default_factory=list)
    late: list[list[float]] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)

    def add(self, asked: float, sent: list[float], read: list[float]) -> None:
        """Take in a stream: when it was asked for, and when each of its events was sent and read, in seconds."""
        late = [(came - went) * 1000 for went, came in zip(sent, read, strict=True)]
        self.first.append((read[0] - asked) * 1000)
        self.late.append(late)
        self.gaps.append(max(abs(one - other) for one, other in zip(late[1:], late, strict=False)))


async def stream(peer: Peer, events: int) -> tuple[float, list[float], list[float]]:
    """Return when a stream was asked for, and when each event of it was sent and read.

    Raises:
        Invalid: If an event is missing, or the call was not served.
    """
    asked = time.monotonic()
    sent, read = [], []
    async with streaming(peer, "tick", {"events": events, "pace": PACE}, accept=EVENTS) as found:
        while (message := await found.next()) is not None:
            if message.get("method") == "notifications/progress":
                read.append(time.monotonic())
                sent.append(float(message["params"]["message"]))
            elif message.get("result", {"isError": True}).get("isError"):
                raise Invalid(f"a stream ends with {message}")
    if len(read) != events:
        raise Invalid(f"{len(read)} of {events} events arrived")
    return asked, sent, read


async def _peer(http: httpx2.AsyncClient, url: str, era: Era) -> Peer:
    return await begin(http, url) if era is HANDSHAKE else Peer(http, Conversation(url, era))


async def _measured(ways: list[Way], headers: dict[str, str], rounds: int, events: int) -> dict[Era, dict[str, Seen]]:
    """Take streams on all ways in turn."""
    found = {era: {way.name: Seen() for way in ways} for era in ERAS}
    async with AsyncExitStack() as stack:
        peers = {}
        for way in ways:
            http = await stack.enter_async_context(calling(headers, way.authorities))
            for era in ERAS:
                peers[era, way.name] = await _peer(http, way.url, era)
                await stream(peers[era, way.name], 2)  # warm-up: connections, and what is made at first use
        for _ in range(rounds):
            for (era, name), peer in peers.items():
                found[era][name].add(*await stream(peer, events))
    return found


def take(effort: Effort, tell: Tell) -> Iterable[Figure]:
    """Stream through nothing, nginx and Caddy in turn, in both eras."""
    rounds, events = (20, 10) if effort is FULL else (3, 5) if effort.judged else (1, 3)
    project = rendered(tell)
    with tempfile.TemporaryDirectory(prefix="mcp-chassis-bench-") as name, ExitStack() as stack:
        keys = Keys(Path(name))
        server = stack.enter_context(generated(project, keys, Path(name)))
        ways = [Way(DIRECT, server.url)]
        with on_cores(cores()[0]):
            for edge in edges.CONFIGS:
                found = stack.enter_context(edges.running(edge, server.port))
                ways.append(Way(edge, f"https://localhost:{found.public}/mcp", found.certificate))
        tell(f"{rounds} streams of {events} events each, {PACE * 1000:g} ms apart, on each way and in each era")
        with client_apart():
            seen = asyncio.run(_measured(ways, keys.headers(CALLER), rounds, events))
    for era, of_way in seen.items():
        yield from figures(era.name, of_way)


def figures(era: str, of_way: dict[str, Seen]) -> Iterator[Figure]:
    """Return what was seen on each way, and what each edge adds."""
    for name, seen in of_way.items():
        yield figure(
            f"{era}, {name}: first event after the request: median", [[took] for took in seen.first], 0.5, "ms"
        )
        if name != DIRECT:
            more = [slow - fast for slow, fast in zip(seen.first, of_way[DIRECT].first, strict=True)]
            yield Figure(
                f"{era}, {name}: first event later than direct, by",
                median(seen.first) - median(of_way[DIRECT].first),
                "ms",
                (min(more), max(more)),
                GOAL,
                shown=True,
            )
        yield figure(f"{era}, {name}: an event from sending to reading: median", seen.late, 0.5, "ms")
        gaps = (min(seen.gaps), max(seen.gaps))
        yield Figure(f"{era}, {name}: largest change of a gap in a stream", median(seen.gaps), "ms", gaps)


MEASUREMENT: Final = Measurement(
    "streams",
    "When do the events of a stream arrive, directly and through each edge?",
    f"A tool sends an event at once and then every {PACE * 1000:g} ms, with the moment in it; all read one clock. "
    "HTTP/1.1 on connections that stay, TLS to the edges, which run with the project's own "
    "configurations; the ways take turns, stream by stream; a value is the median over streams, the spread "
    f"their lowest and highest. The edges have the server's core. {PINNED}",
    take,
)
