"""What a second replica behind an edge of its own adds, where half of the messages have to be forwarded (issue 9)."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Final

from bench.client import Client
from bench.figures import FULL, Effort, Figure, Measurement, Tell
from bench.load import Connections
from bench.running import CALLER, Running, generated, rendered
from tests.live import edges
from tests.live.curl import ERAS, Era
from tests.live.edges import Edge
from tests.live.fleet import Keys
from tests.live.peered import SECRET
from tests.live.project import Project
from tests.support.redis import Redis, running

CALLERS: Final = 16
"""Each with a session of its own, one call after the other."""
_SHARE: Final = 8
"""Of the seconds of a phase of other measurements."""


@dataclass(frozen=True)
class Site:
    """Two replicas, each behind its edge.

    Args:
        edge: Which.
        urls: Where clients reach them.
        secure: How clients judge the edges.
    """

    edge: str
    urls: list[str]
    secure: ssl.SSLContext

    async def rate(self, count: int, era: Era, headers: Mapping[str, str], seconds: float) -> float:
        """Return the calls a second that so many of the replicas serve; messages go to them in turn."""
        callers = []
        for place in range(CALLERS):
            # Half of the sessions begin at each replica.
            urls = [self.urls[(place + number) % count] for number in range(count)]
            ways = [Connections(url, self.secure) for url in urls]
            callers.append(Client(urls[0], era, headers, ways))
        for caller in callers:
            await caller.open()
            await caller.call()  # warm-up
        begun = time.monotonic()
        counts = await asyncio.gather(*(_calls(caller, begun + seconds) for caller in callers))
        return sum(counts) / (time.monotonic() - begun)


async def _calls(caller: Client, end: float) -> int:
    """Call until then; return how often."""
    found = 0
    while time.monotonic() < end:
        await caller.call()
        found += 1
    return found


@contextmanager
def _site(name: str, project: Project, keys: Keys, redis: Redis, folder: Path) -> Iterator[Site]:
    """Run two replicas that share a Redis and forward to each other through their edges."""
    with ExitStack() as stack:
        here, there = (generated(project, keys, folder) for _ in range(2))
        first = stack.enter_context(edges.running(name, here.port))
        second = stack.enter_context(edges.running(name, there.port, like=first))
        for server, edge in ((here, first), (there, second)):
            stack.enter_context(_known(server, edge, redis))
        urls = [f"https://localhost:{edge.public}/mcp" for edge in (first, second)]
        yield Site(name, urls, ssl.create_default_context(cafile=str(first.certificate)))


def _known(server: Running, edge: Edge, redis: Redis) -> Running:
    """Return a replica that its peers reach through its edge."""
    shared = {"MCP_STATE_URL": redis.url, "MCP_PUBLIC_URL": "https://localhost:8443", "MCP_PEER_SECRET": SECRET}
    own = {"MCP_PEER_URL": f"https://127.0.0.1:{edge.peers}", "MCP_PEER_CA_FILE": str(edge.certificate)}
    return replace(server, variables={**server.variables, **shared, **own}, pinned=False)


def take(effort: Effort, tell: Tell) -> Iterable[Figure]:
    """Let one replica and both of them be called in turn, behind each edge, in both eras."""
    rounds, seconds = 3 if effort is FULL else 1, effort.phase / _SHARE
    project = rendered(tell)
    with tempfile.TemporaryDirectory(prefix="mcp-chassis-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        keys = Keys(folder)
        redis = stack.enter_context(running(folder / "redis"))
        for edge in edges.CONFIGS:
            tell(f"{rounds} rounds of {seconds:g} s each behind {edge}: one replica and two, in both eras")
            with _site(edge, project, keys, redis, folder) as site:
                for era in ERAS:
                    yield from _figures(site, era, asyncio.run(_measured(site, era, keys, rounds, seconds)))


async def _measured(site: Site, era: Era, keys: Keys, rounds: int, seconds: float) -> list[tuple[float, float]]:
    """Return the calls a second of one replica and of two, in each round."""
    headers = keys.headers(CALLER)
    return [
        (await site.rate(1, era, headers, seconds), await site.rate(2, era, headers, seconds)) for _ in range(rounds)
    ]


def _figures(site: Site, era: Era, found: list[tuple[float, float]]) -> Iterator[Figure]:
    for word, place in (("1 replica", 0), ("2 replicas", 1)):
        rates = [rates[place] for rates in found]
        yield Figure(f"{site.edge}, {era}: {word}", median(rates), "calls/s", (min(rates), max(rates)))
    each = [two / one for one, two in found]
    value = median(two for _, two in found) / median(one for one, _ in found)
    yield Figure(f"{site.edge}, {era}: 2 replicas / 1", value, "", (min(each), max(each)))


MEASUREMENT: Final = Measurement(
    "replicas",
    "What does a second replica add, each behind its own edge?",
    f"{CALLERS} callers, each with a session, one call after the other over TLS; with two replicas the messages of "
    "each go to both in turn, so in the handshake era every other one is forwarded; one and two take turns. Replicas, "
    "edges, Redis and the client, which does the balancing and whose own work is in every number, share the machine "
    "and nothing is pinned: on two cores a second replica takes its time from the others, and the ratio shows what "
    "sharing costs, not what a second machine would add.",
    take,
)
