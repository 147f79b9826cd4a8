"""What well-behaved callers notice of a client that loops beside them (issue 4)."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Final

from bench.figures import Effort, Figure, Goal, Measurement, Tell, figure, quantile
from bench.load import Call, Orders
from bench.running import rendered
from mcp_chassis.auth.keys import FileKeyring, create
from mcp_chassis.settings import Settings
from tests.live.curl import ERAS
from tests.live.project import ServerProcess
from tests.support.limits import UNLIMITED

ROOT: Final = Path(__file__).resolve().parent.parent
_GOOD_CALLERS, _GOOD_RATE = 4, 10.0
"""Callers, and the calls a second of each: half of what the default limit of a tool admits."""
_LOOP_RATE: Final = 3_000 / 60
_TOOL: Final = "search_notes"
_SCOPE: Final = "notes:read"
_HEAD_START: Final = 0.8
"""Seconds for a client's process to start and to open its sessions."""
_PATIENCE: Final = 30.0
"""Seconds beyond its phase after which a client is given up."""
_ARGUMENTS: Final = {"query": "milk", "limit": 5}


@dataclass(frozen=True)
class _Served:
    """A running server with authentication on."""

    url: str
    keyring: FileKeyring

    def keys(self, *callers: str, scopes: Sequence[str]) -> list[str]:
        """Return a new key for each of `callers`."""
        found = []
        with self.keyring.editing() as records:
            for caller in callers:
                key, record = create(caller, scopes=tuple(scopes))
                records[record.id] = record
                found.append(key)
        return found


@contextmanager
def _serving(tell: Tell) -> Iterator[_Served]:
    """Serve with keys and the default limits; everything is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="mcp-chassis-bench-") as name:
        project, folder = rendered(tell), Path(name)
        keyring = FileKeyring(folder / "keys.json")
        with keyring.editing():
            pass
        # Named, because a server of the tests has limits that no test reaches.
        limits = {f"MCP_{field.upper()}": str(Settings.model_fields[field].default) for field in UNLIMITED}
        given = {"MCP_AUTH": "keys", "MCP_API_KEYS_FILE": str(folder / "keys.json"), **limits}
        with ServerProcess(project, given=given) as process:
            yield _Served(process.url, keyring)


@dataclass
class _Phases:
    """What was seen in one era."""

    quiet: list[list[Call]] = field(default_factory=list)
    noisy: list[list[Call]] = field(default_factory=list)
    looping: list[list[Call]] = field(default_factory=list)


class _Clients:
    """Starts clients and collects what they saw."""

    def __init__(self, served: _Served, seconds: float) -> None:
        self._served = served
        self._seconds = seconds
        self._seeds = count()
        self._good = served.keys(*(f"good-{number}" for number in range(_GOOD_CALLERS)), scopes=[_SCOPE])

    def phase(self, era: str, *, looping: bool) -> list[list[Call]]:
        """Return the calls of the good callers, and those of the looping one if there is one."""
        seed, begin = next(self._seeds), time.monotonic() + _HEAD_START
        rates = [(self._good, _GOOD_RATE * _GOOD_CALLERS)]
        if looping:
            # A new caller in each phase: the last one is still suspended.
            rates.append((self._served.keys(f"looping-{seed}", scopes=[_SCOPE]), _LOOP_RATE))
        orders = [
            Orders(self._served.url, era, keys, rate, self._seconds, begin, seed * 2 + place, _TOOL, _ARGUMENTS)
            for place, (keys, rate) in enumerate(rates)
        ]
        with ThreadPoolExecutor(len(orders)) as clients:
            return list(clients.map(_sent, orders))


def _sent(orders: Orders) -> list[Call]:
    """Run a client to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.load"],
        cwd=ROOT,
        input=json.dumps(asdict(orders)),
        stdout=subprocess.PIPE,
        text=True,
        timeout=orders.seconds + _PATIENCE,
        check=True,
    )
    return [Call(**call) for call in json.loads(done.stdout)]


def take(effort: Effort, tell: Tell) -> Iterable[Figure]:
    """Measure quiet and noisy phases in turn, in both eras in turn, on one server."""
    found = {era.name: _Phases() for era in ERAS}
    with _serving(tell) as served:
        clients = _Clients(served, effort.phase)
        for number in range(effort.rounds):
            for era, phases in found.items():
                tell(f"round {number + 1} of {effort.rounds}, {era} era: quiet, then noisy")
                phases.quiet += clients.phase(era, looping=False)
                good, looping = clients.phase(era, looping=True)
                phases.noisy.append(good)
                phases.looping.append(looping)
    for era, phases in found.items():
        yield from _figures(era, phases)


def _figures(era: str, phases: _Phases) -> Iterator[Figure]:
    yield Figure(f"{era}: calls of good callers in a phase", len(phases.quiet[0]), "calls")
    for word, of_kind in (("quiet", phases.quiet), ("noisy", phases.noisy)):
        unserved = sum(call.outcome != "served" for calls in of_kind for call in calls)
        goal = Goal("at most", 0) if word == "noisy" else None
        yield Figure(f"{era}: of these not served, {word}, in all phases", unserved, "calls", goal=goal)
    for share, name in ((0.5, "median"), (0.99, "p99")):
        quiet = figure(f"{era}: {name} of good callers, quiet", _milliseconds(phases.quiet), share, "ms")
        noisy = figure(f"{era}: {name} of good callers, noisy", _milliseconds(phases.noisy), share, "ms")
        pairs = [
            quantile(beside, share) / quantile(alone, share)
            for alone, beside in zip(_milliseconds(phases.quiet), _milliseconds(phases.noisy), strict=True)
        ]
        goal = Goal("at most", 2) if name == "p99" else None
        yield from (quiet, noisy)
        yield Figure(f"{era}: {name}, noisy / quiet", noisy.value / quiet.value, "", (min(pairs), max(pairs)), goal)
        if name == "p99":
            beside = figure(
                f"{era}: p99 of good callers, before the suspension", _before_suspension(phases), share, "ms"
            )
            yield from (beside, Figure(f"{era}: p99, before the suspension / quiet", beside.value / quiet.value))
    yield from _suspension(era, phases.looping)
    late = max(call.late for calls in (*phases.quiet, *phases.noisy, *phases.looping) for call in calls)
    yield Figure(f"{era}: latest that a client sent a call", late * 1000, "ms")


def _milliseconds(phases: list[list[Call]]) -> list[list[float]]:
    return [[call.took * 1000 for call in calls] for calls in phases]


def _suspended_at(calls: list[Call]) -> float | None:
    return next((call.at for call in calls if call.outcome == "suspended"), None)


def _before_suspension(phases: _Phases) -> list[list[float]]:
    """Return what good callers saw while the looping one was still refused call by call: the worst of a phase."""
    ends = [_suspended_at(calls) for calls in phases.looping]
    pairs = zip(phases.noisy, ends, strict=True)
    return _milliseconds([[call for call in calls if end is None or call.at < end] for calls, end in pairs])


def _suspension(era: str, looping: list[list[Call]]) -> Iterator[Figure]:
    """Tell when the looping client was suspended, and after how many refusals, that of the suspension included."""
    moments, refusals = [], []
    for calls in looping:
        first = _suspended_at(calls)
        if first is not None:
            moments.append(first)
            refusals.append(1 + sum(call.outcome == "refused" and call.at < first for call in calls))
    goal = Goal("at least", len(looping))
    yield Figure(f"{era}: looping clients suspended, of {len(looping)}", len(moments), "clients", goal=goal)
    if moments:
        spread = min(moments), max(moments)
        yield Figure(f"{era}: suspended after", statistics.median(moments), "s", spread)
        yield Figure(
            f"{era}: refusals until then", statistics.median(refusals), "calls", (min(refusals), max(refusals))
        )
    for outcome in ("served", "refused", "suspended"):
        # A phase may have none of them: the first seconds of a suspension are the last of a short phase.
        took = [
            found for calls in looping if (found := [call.took * 1000 for call in calls if call.outcome == outcome])
        ]
        if took:
            yield figure(f"{era}: median of a looping call, {outcome}", took, 0.5, "ms")
    served = [sum(call.outcome == "served" for call in calls) for calls in looping]
    what = f"{era}: of {len(looping[0])} looping calls were served"
    yield Figure(what, statistics.median(served), "calls", (min(served), max(served)))


MEASUREMENT: Final = Measurement(
    "noisy-neighbour",
    f"What do {_GOOD_CALLERS} callers at {_GOOD_RATE:g} calls a second each notice of a client that loops at "
    f"{_LOOP_RATE * 60:,.0f} calls a minute, with default limits?",
    "Quiet and noisy phases take turns on one server, each client is a process of its own and sends when a call is "
    "due, answered or not, at random within equal slots; a value is the median over phases, the spread their lowest "
    "and highest; of a ratio, the spread is that of each noisy phase over the quiet one before it.",
    take,
)
