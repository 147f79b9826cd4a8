"""What each layer of the chassis adds to a call, and all of them together (issue 9)."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from bench.client import Client
from bench.clocked import EMPTY, ROUTING, WHOLE
from bench.figures import Batches, Effort, Figure, Goal, Invalid, Measurement, Tell, figure, quantile
from bench.running import CALLER, PINNED, ROOT, client_apart, generated, rendered
from tests.live.curl import ERAS, Era
from tests.live.fleet import Keys

MEDIAN, P99 = Goal("at most", 300), Goal("at most", 1000)
"""Microseconds of a call (issue 9)."""
NOT_ADDED: Final = (WHOLE, ROUTING, EMPTY)
"""What is not a layer of the chassis: the bare SDK has a way there, too, the empty layer is there to be measured."""
REST: Final = "the SDK, the tool, and the connection with its bounds"
_SHARE_OF_CALLS, _SHARE_OF_BATCHES = 10, 6
"""A call over sockets takes so much longer than one in this process, so there are fewer."""
Records = Sequence[dict[str, int]]
"""Nanoseconds by layer, of each call."""


async def driven(url: str, headers: dict[str, str], batches: int, calls: int) -> None:
    """Call in both eras in turn, batch by batch; the first batch of each is a warm-up."""
    clients = [Client(url, era, headers) for era in ERAS]
    for client in clients:
        await client.open()
    for _ in range(batches + 1):
        for client in clients:
            await client.batch(calls)


def recorded(batches: int, calls: int, tell: Tell) -> dict[Era, list[Records]]:
    """Return what each batch of calls left at the borders of the layers, by era."""
    with tempfile.TemporaryDirectory(prefix="mcp-chassis-bench-") as name:
        folder = Path(name)
        project, keys, file = rendered(tell), Keys(folder), folder / "calls.json"
        command = [str(project.python), "-m", "bench.clocked", f"{project.package}.server", str(file)]
        server = generated(project, keys, folder, command=command, given={"PYTHONPATH": str(ROOT)})
        with server, client_apart():
            tell(f"{batches} batches of {calls} calls in each era in turn")
            asyncio.run(driven(server.url, keys.headers(CALLER), batches, calls))
            server.stop()
        return by_era(json.loads(file.read_text(encoding="utf-8")), calls)


def by_era(found: Iterable[tuple[str, dict[str, int]]], calls: int) -> dict[Era, list[Records]]:
    """Return the batches of each era, of calls with their protocol versions."""
    kept = list(found)
    return {era: batched([record for version, record in kept if version == era.version], calls) for era in ERAS}


def batched(records: Records, calls: int) -> list[Records]:
    """Return the batches of `calls` each, without the first one.

    Raises:
        Invalid: If they do not come out even: then a call was lost, or one was counted that nobody sent.
    """
    if len(records) % calls or len(records) < 2 * calls:
        raise Invalid(f"{len(records)} calls were clocked, which is no number of batches of {calls}")
    return [records[begin : begin + calls] for begin in range(calls, len(records), calls)]


def of_layer(batches: Sequence[Records], name: str) -> Batches:
    """Return the microseconds of one layer in each call, or of what is no layer."""
    if name == REST:
        return [[(2 * record[WHOLE] - sum(record.values())) / 1000 for record in batch] for batch in batches]
    return [[record.get(name, 0) / 1000 for record in batch] for batch in batches]


def added(batches: Sequence[Records]) -> Batches:
    """Return the microseconds of all layers of the chassis in each call."""
    return [
        [sum(took for name, took in record.items() if name not in NOT_ADDED) / 1000 for record in batch]
        for batch in batches
    ]


def figures(era: str, batches: Sequence[Records]) -> Iterator[Figure]:
    """Return the sums, and then every layer, the dearest first."""
    all_of_them = added(batches)
    yield replace(figure(f"{era}: added by the chassis: median", all_of_them, 0.5, "µs", MEDIAN), shown=True)
    yield replace(figure(f"{era}: added by the chassis: p99", all_of_them, 0.99, "µs", P99), shown=True)
    clock = figure("", of_layer(batches, EMPTY), 0.5, "µs").value
    layers = sum(name not in NOT_ADDED for name in batches[-1][-1])
    yield Figure(f"{era}: of that, the clock itself: {layers} times an empty layer", clock * layers, "µs")
    names = {name for batch in batches for record in batch for name in record} | {REST}
    found = {name: of_layer(batches, name) for name in names}
    for name in sorted(names, key=lambda name: -quantile(found[name][-1], 0.5)):
        yield figure(f"{era}: {name}: median", found[name], 0.5, "µs")
        yield figure(f"{era}: {name}: p99", found[name], 0.99, "µs")


def take(effort: Effort, tell: Tell) -> Iterable[Figure]:
    """Clock every layer of a server that serves one call after the other."""
    rounds, calls = max(2, effort.batches // _SHARE_OF_BATCHES), effort.calls // _SHARE_OF_CALLS
    for era, batches in recorded(rounds, calls, tell).items():
        yield from figures(era.name, batches)


MEASUREMENT: Final = Measurement(
    "layers",
    "What does each layer of the chassis add to a call, and all of them together?",
    "A clock of our own is read at the border of each layer of a real server, without a profiler; what a layer calls "
    "is not its own, waiting is; the clock itself is in the numbers, once or twice in each layer, and shown as a layer "
    "that does nothing. One caller, one call after the other, both eras in turn; a value is the median over batches, "
    f"the spread their lowest and highest. {PINNED}",
    take,
)
