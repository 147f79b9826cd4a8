"""Calls a second of the generated server with everything on, beside the bare SDK, FastMCP and a plain route."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

from bench import contenders
from bench.contenders import CEILING, FASTMCP, GENERATED, OTHERS, QUICKSTART, TUNED, Serving
from bench.figures import FULL, Chart, Effort, Figure, Goal, Measurement, Series, Tell
from bench.machine import processor_seconds
from bench.wrk import TOLD_TOOL, Found, Wire, load, opened, tried
from tests.live.curl import ERAS, Conversation, Era

_QUICK_CONNECTIONS: Final = 16
_CONNECTIONS: Final = (1, _QUICK_CONNECTIONS, 128)
_QUICKSTART_GOAL, _FASTMCP_GOAL = Goal("at least", 1), Goal("at least", 2)
_IDLE: Final = 0.05
"""Seconds in which no server may use its core before the next phase begins: what wrk left behind is still answered."""
_CLIENT_GOAL: Final = Goal("at most", 0.9)
"""Of a core: a client that uses more of it may be what is slow."""
_TOLD_NAME: Final = f"{GENERATED}, tool that may notify"
_JUDGED: Final = (GENERATED, QUICKSTART.name, FASTMCP.name)
"""The others are for information; a quick run does not warm them up."""
_PHASE_SHARE: Final = 10
"""Of an effort's phase, rounded to the seconds that wrk counts in; there are many of them."""


@dataclass
class Lane:
    """One contender in one era, and what each round found of it.

    Args:
        name: What the report calls it.
        era: Which way of speaking.
        pid: Of the server.
        wire: How it is called.
        found: By the number of connections, an entry for each round.
        used: Microseconds of the server's processor for a call, likewise.
    """

    name: str
    era: Era
    pid: int
    wire: Wire
    found: dict[int, list[Found]] = field(default_factory=dict)
    used: dict[int, list[float]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The name with the form of its answers."""
        return f"{self.name} ({self.wire.form})"

    def run(self, connections: int, seconds: int, folder: Path) -> None:
        """Take one phase."""
        used = processor_seconds(self.pid)
        found = load(self.wire, connections, seconds, folder=folder)
        self.found.setdefault(connections, []).append(found)
        self.used.setdefault(connections, []).append((processor_seconds(self.pid) - used) * 1e6 / found.calls)

    def rates(self, connections: int) -> list[float]:
        """Return the calls a second of each round."""
        return [found.rate for found in self.found[connections]]


def lane(serving: Serving, era: Era, connections: int) -> Lane:
    """Open as many conversations as there are connections; callers take turns."""
    proofs = serving.callers
    talks = [Conversation(serving.url, era, proofs[number % len(proofs)]) for number in range(connections)]
    return Lane(serving.name, era, serving.pid, asyncio.run(opened(talks)))


def told_lane(other: Lane) -> Lane:
    """Return a lane that calls a tool which needs a stream, in the same sessions: more of them would weigh."""
    return Lane(_TOLD_NAME, other.era, other.pid, asyncio.run(tried(other.wire.conversations, TOLD_TOOL)))


def _lanes(servings: Sequence[Serving], connections: int) -> list[Lane]:
    """Return what takes turns: all contenders, and the generated server's tool that needs a stream."""
    found = []
    for era in ERAS:
        ours, *others = [lane(serving, era, connections) for serving in servings]
        found += [ours, told_lane(ours), *others]
    return found


def measure(
    lanes: Sequence[Lane], connections: Sequence[int], rounds: int, seconds: int, folder: Path, tell: Tell
) -> None:
    """Let all lanes take turns, phase by phase."""
    for number in range(rounds):
        for count in connections:
            tell(f"round {number + 1} of {rounds}, {count} connections: {len(lanes)} phases of {seconds} s")
            for taken in (*lanes[number % len(lanes) :], *lanes[: number % len(lanes)]):
                _idle(lanes)
                taken.run(count, seconds, folder)


def _idle(lanes: Sequence[Lane]) -> None:
    """Wait until no server works."""
    before = -1.0
    while (used := sum(processor_seconds(pid) for pid in {taken.pid for taken in lanes})) != before:
        before = used
        time.sleep(_IDLE)


def take(effort: Effort, tell: Tell) -> Iterable[Figure]:
    """Start all contenders, measure them in turn."""
    connections = _CONNECTIONS if effort is FULL else (_QUICK_CONNECTIONS,)
    rounds = effort.rounds + 1 if effort is FULL else effort.rounds  # the issue asks for five
    seconds = max(1, round(effort.phase / _PHASE_SHARE))
    with tempfile.TemporaryDirectory(prefix="mcp-chassis-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        made = contenders.project(tell)
        tell(f"installing {', '.join(other.name for other in OTHERS)}")
        pythons = contenders.install_all(OTHERS, folder, contenders.sdk_of(made))
        servings = [stack.enter_context(contenders.generated(made, folder))]
        for other, python in zip(OTHERS, pythons, strict=True):
            servings.append(stack.enter_context(contenders.serving(other, python, folder)))
        lanes = _lanes(servings, max(connections))
        if effort.judged:
            tell("warming up")
            for taken in lanes if effort is FULL else [one for one in lanes if one.name in _JUDGED]:
                load(taken.wire, _QUICK_CONNECTIONS, 1, folder=folder)
        measure(lanes, connections, rounds, seconds, folder, tell)
    yield from figures(lanes)
    for serving in servings:
        what = f"packages of {serving.name}, with {serving.installed}"
        yield Figure(what, serving.packages, "packages")


def _place(era: Era, connections: int) -> str:
    return f"{era}, {connections} connection{'s' if connections > 1 else ''}"


def figures(lanes: Sequence[Lane]) -> Iterator[Figure]:
    """Return rates, ratios, latencies, and how much of it was the client's."""
    for era in ERAS:
        of_era = {taken.name: taken for taken in lanes if taken.era is era}
        for connections in next(iter(of_era.values())).found if of_era else ():
            yield from _rates(of_era.values(), _place(era, connections), connections)
            yield from _ratios(of_era, _place(era, connections), connections)
        yield from _latencies(of_era.values(), era)
    yield from _client(lanes)


def _rates(lanes: Collection[Lane], place: str, connections: int) -> Iterator[Figure]:
    for taken in lanes:
        rates = taken.rates(connections)
        yield Figure(f"{place}: {taken.title}", median(rates), "calls/s", (min(rates), max(rates)))
    for taken in lanes if connections == _QUICK_CONNECTIONS else ():
        used = taken.used[connections]
        yield Figure(f"{place}: {taken.title}, processor of a call", median(used), "µs", (min(used), max(used)))


def _ratios(lanes: Mapping[str, Lane], place: str, connections: int) -> Iterator[Figure]:
    pairs: tuple[tuple[str, str, Goal | None], ...] = (
        (GENERATED, QUICKSTART.name, _QUICKSTART_GOAL),
        (GENERATED, FASTMCP.name, _FASTMCP_GOAL),
        (GENERATED, TUNED.name, None),
        (_TOLD_NAME, QUICKSTART.name, _QUICKSTART_GOAL),
        (_TOLD_NAME, FASTMCP.name, _FASTMCP_GOAL),
    )
    for mine, theirs, goal in pairs:
        if mine in lanes and theirs in lanes:
            rates = lanes[mine].rates(connections), lanes[theirs].rates(connections)
            each = [one / other for one, other in zip(*rates, strict=True)]
            what, spread = f"{place}: {lanes[mine].title} / {lanes[theirs].title}", (min(each), max(each))
            value = median(rates[0]) / median(rates[1])
            yield Figure(what, value, "", spread, goal, shown=connections == _QUICK_CONNECTIONS)


def _latencies(lanes: Collection[Lane], era: Era) -> Iterator[Figure]:
    """Return what one caller waits for, who calls again once answered."""
    for taken in lanes:
        for word in ("median", "p99"):
            waits = [found.median if word == "median" else found.p99 for found in taken.found.get(1, ())]
            if waits:
                what = f"{_place(era, 1)}: {taken.title}, {word}"
                yield Figure(what, median(waits), "ms", (min(waits), max(waits)))
    yield from _longer({taken.name: taken for taken in lanes}, era)


def _longer(lanes: Mapping[str, Lane], era: Era) -> Iterator[Figure]:
    """Return what a single caller waits longer than for the SDK at its fastest."""
    rounds = [lanes[name].found.get(1, ()) for name in (GENERATED, TUNED.name) if name in lanes]
    if len(rounds) == 2 and all(rounds):
        mine, theirs = ([found.median * 1000 for found in of_one] for of_one in rounds)
        each = [one - other for one, other in zip(mine, theirs, strict=True)]
        what = f"{_place(era, 1)}: a call of {GENERATED} takes longer than one of {TUNED.name}, by"
        yield Figure(what, median(mine) - median(theirs), "µs", (min(each), max(each)), shown=True)


def _client(lanes: Sequence[Lane]) -> Iterator[Figure]:
    """Show that neither wrk nor the plain route's share of the work limits the others."""
    shares = [found.share for taken in lanes for rounds in taken.found.values() for found in rounds]
    yield Figure("wrk: most that it used of its core", max(shares), "", (min(shares), max(shares)), _CLIENT_GOAL)
    for era in ERAS:
        of_era = [taken for taken in lanes if taken.era is era]
        top = [median(taken.rates(_QUICK_CONNECTIONS)) for taken in of_era if taken.name == CEILING.name]
        rest = [median(taken.rates(_QUICK_CONNECTIONS)) for taken in of_era if taken.name != CEILING.name]
        if top and rest:
            yield Figure(f"{_place(era, _QUICK_CONNECTIONS)}: {CEILING.name} / the fastest other", top[0] / max(rest))


def charts(found: Sequence[Figure]) -> list[Chart]:
    """Return a picture of the rates for each number of connections, and one of what a single caller waits."""
    made = []
    for connections in _CONNECTIONS:
        many = f"{connections} connection{'s' if connections > 1 else ''}"
        made.append(_chart(found, f"throughput-{connections}", f"Calls a second, {many}", connections, "calls/s", ""))
    made.append(_chart(found, "throughput-wait", "Milliseconds of a call, median, 1 connection", 1, "ms", ", median"))
    return [chart for chart in made if chart.series]


def _chart(found: Sequence[Figure], name: str, title: str, connections: int, unit: str, suffix: str) -> Chart:
    """Leave the plain route out: beside it, one could not tell the others apart."""
    series = []
    for era in ERAS:
        start = f"{_place(era, connections)}: "
        bars = tuple(
            (one.what.removeprefix(start).removesuffix(suffix), one.value, one.spread)
            for one in found
            if one.what.startswith(start) and one.what.endswith(suffix) and one.unit == unit
            if not one.what.startswith(start + CEILING.name)
        )
        series += [Series(f"{era} era", bars)] if bars else []
    return Chart(name, title, tuple(series), GENERATED)


MEASUREMENT: Final = Measurement(
    "throughput",
    "How many calls a second does the generated server answer with everything on, beside the bare SDK, FastMCP and a "
    "plain route?",
    "All serve the same async tool, one worker each, in an environment of its own, with its log in a file. The "
    "quickstart and FastMCP run as documented: asyncio, h11, an access log. The generated server runs in production "
    "mode with keys, limits and suspension (wide, yet counted, in its own memory), log, metrics, ids and timeouts; it "
    "has uvloop, httptools and settings of the garbage collector of its own. The "
    "tuned SDK has json_response, uvloop, httptools and no access log; the plain route likewise. Every client takes "
    "both forms. The generated server answers as JSON what has nothing else to tell; its second tool, with the "
    "SDK's context, may notify: in the handshake era it needs the stream that the quickstart makes for every call. "
    "Contenders take turns "
    "phase by phase after a warm-up; servers run on one core and wrk on another where there are two. In all phases "
    "each server holds as many sessions of the handshake era as the largest number of connections. wrk checks status, "
    "id, form and content of each answer, and a single wrong one ends the run; its p99 counts calls that could not be "
    "sent in time. A phase begins once all servers are idle, and each round with another contender. A value is the "
    "median over rounds, the spread their lowest and highest; a ratio is one of medians, its spread that of the "
    "rounds.",
    take,
    charts,
)
