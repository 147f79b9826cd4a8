"""The engine of every check: what must hold, what was found, what mends it.

A profile is a list of checks over one subject: the files of a project, a stream of manifests, the URL of a server.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from inspect import isawaitable
from pathlib import Path
from typing import TYPE_CHECKING, Final, Generic, Literal, TextIO, TypeAlias, TypeVar

from prometheus_client import CollectorRegistry, start_http_server, write_to_textfile
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector
from pydantic_core import to_json

if TYPE_CHECKING:
    from mcp_chassis.checks.probe import Look

METRICS: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    "success": ((), "1 if every check was good."),
    "timestamp_seconds": ((), "When it was looked at, in seconds since 1970."),
    "check": (("check",), "1 where a check was good or spoke of nothing there, 0 where it was not."),
    "check_seconds": (("check",), "How long a check took."),
    "certificate_ends_timestamp_seconds": ((), "When the certificate ends, in seconds since 1970."),
    "credential_ends_timestamp_seconds": ((), "When the probe's own credential ends, in seconds since 1970."),
    "ping_seconds": ((), "How long the harmless call took."),
    "stream_spread_ratio": (("era",), "Time between the first and the last event: 1 as sent, 0 all at once."),
    "tools": ((), "Tools that it lists."),
}
"""Each with its labels beside `target`, and its meaning; all are gauges that begin with `mcp_probe_`."""
Outcome = Literal["pass", "fail", "skip", "unseen"]
"""`skip`: there is nothing that the check speaks of. `unseen`: it could not be decided, which is never a pass."""
Subject = TypeVar("Subject")
_MARKS: Final[dict[Outcome, tuple[str, int]]] = {
    "pass": ("ok", 32),
    "skip": ("skip", 2),
    "unseen": ("unseen", 33),
    "fail": ("FAILED", 31),
}
"""In the order of the report, what is wrong last; each with its colour."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check saw in one place.

    Args:
        outcome: What it means.
        found: What stands there, or came back.
        where: `file:line`, or an address.
        fix: What mends it, where the check's own words are too general.
        required: Whether an `unseen` fails the run.
    """

    outcome: Outcome
    found: str = ""
    where: str = ""
    fix: str = ""
    required: bool = True


class Nothing(Exception):
    """A check raises it where there is nothing that it speaks of; the text says why."""


class Unseen(Exception):
    """A check raises it where it could not decide.

    Args:
        found: What it met.
        fix: What mends it, where the check's own words are too general.
    """

    def __init__(self, found: str, fix: str = "") -> None:
        super().__init__(found)
        self.fix = fix


def judged(good: bool, where: str, found: str, fix: str = "") -> Finding:
    """Return a pass or a fail."""
    return Finding("pass" if good else "fail", found, where, fix)


@dataclass(frozen=True, slots=True)
class Result:
    """One check's line in the report; the names of the fields are what `--json` prints."""

    id: str
    name: str
    result: Outcome
    expected: str
    found: str
    where: str
    fix: str
    required: bool
    seconds: float


Run: TypeAlias = Callable[[Subject], Iterable[Finding] | Awaitable[Iterable[Finding]]]
"""How a check is looked at: a finding for each place, at once or when they are there."""


@dataclass(frozen=True, slots=True)
class Check(Generic[Subject]):
    """One promise and how it is looked at.

    Args:
        id: The row of REQUIREMENTS.
        name: What programs know it by.
        rule: What must hold, or what is sent.
        fix: What mends it.
        run: Yields what it sees.
    """

    id: str
    name: str
    rule: str
    fix: str
    run: Run[Subject]


class Profile(list[Check[Subject]]):
    """A list of checks; a function joins it by a decorator, with its docstring as the rule."""

    def check(self, row: str, fix: str) -> Callable[[Run[Subject]], Run[Subject]]:
        """Add the decorated function, under its own name."""

        def add(run: Run[Subject]) -> Run[Subject]:
            self.append(Check(row, run.__name__, " ".join((run.__doc__ or "").split()), fix, run))
            return run

        return add


async def examine(checks: Iterable[Check[Subject]], subject: Subject) -> list[Result]:
    """Run the checks one after another; one that raises is `unseen`."""
    results = []
    for check in checks:
        started = time.monotonic()
        try:
            given = check.run(subject)
            findings = list(await given if isawaitable(given) else given)
        except Nothing as error:
            findings = [Finding("skip", str(error))]
        except Unseen as error:
            findings = [Finding("unseen", str(error), fix=error.fix)]
        except Exception as error:
            findings = [Finding("unseen", f"{type(error).__name__}: {error}", fix="mend this first, then check again")]
        seconds = round(time.monotonic() - started, 3)
        results += [_result(check, finding, seconds) for finding in _settled(findings)]
    return results


def _result(check: Check[Subject], found: Finding, seconds: float) -> Result:
    fix = "" if found.outcome in ("pass", "skip") else found.fix or check.fix
    return Result(
        check.id, check.name, found.outcome, check.rule, found.found, found.where, fix, found.required, seconds
    )


def _settled(findings: Sequence[Finding]) -> list[Finding]:
    """Keep each place where something is wrong; else one finding speaks for all."""
    findings = list(dict.fromkeys(findings))
    wrong = [finding for finding in findings if finding.outcome in ("fail", "unseen")]
    good = [finding for finding in findings if finding.outcome == "pass"]
    if wrong or not good:
        return wrong or [*findings, Finding("skip", "nothing here that it speaks of")][:1]
    more = f", and {len(good) - 1} more" if len(good) > 1 else ""
    return [replace(good[0], found=good[0].found + more)]


def failed(results: Iterable[Result]) -> bool:
    """Tell whether a run is not good: something failed, or could not be seen that had to be."""
    return any(item.result == "fail" or (item.result == "unseen" and item.required) for item in results)


def write(results: Sequence[Result], stream: TextIO, *, as_json: bool) -> None:
    """Write the report: for a person, or one JSON array with an object for each result."""
    if as_json:
        print(to_json([asdict(item) for item in results], indent=2).decode(), file=stream)
        return
    for outcome in _MARKS:
        for item in results:
            if item.result == outcome:
                print(*_lines(item, stream), sep="\n", file=stream)
    counts = {outcome: sum(item.result == outcome for item in results) for outcome in _MARKS}
    print("\n" + ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count), file=stream)


def coloured(text: str, shade: int, stream: TextIO) -> str:
    """Return a text as `stream` shows it: coloured on a terminal, unless NO_COLOR is set."""
    return f"\x1b[{shade}m{text}\x1b[0m" if stream.isatty() and "NO_COLOR" not in os.environ else text


def _lines(item: Result, stream: TextIO) -> Iterator[str]:
    word, shade = _MARKS[item.result]
    mark = coloured(f"{word:6}", shade, stream)
    place = f" ({item.where})" if item.where else ""
    yield f"{mark}  {item.id:3}  {item.name:22}  {item.found}{place}".rstrip()
    if failed([item]):
        yield f"          expected: {item.expected}"
        yield f"          fix: {item.fix}"


class Looks(Collector):
    """The last look at each server."""

    def __init__(self) -> None:
        self._last: dict[str, Look] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def take(self, found: Look) -> None:
        """Keep what one look saw, in place of the one before."""
        self._last[found.item.name] = found

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield what is known."""
        families = {
            name: GaugeMetricFamily(f"mcp_probe_{name}", meaning, labels=("target", *labels))
            for name, (labels, meaning) in METRICS.items()
        }
        for target, found in list(self._last.items()):
            for (name, *labels), value in _samples(found):
                if name in families:
                    families[name].add_metric([target, *labels], value)
        yield from families.values()

    def write(self, path: Path) -> None:
        """Write the text file that a node exporter reads, in one step."""
        write_to_textfile(str(path), self._registry)

    def serve(self, address: str) -> None:
        """Serve the page at `host:port`. Raises `ValueError` if that is none."""
        host, _, port = address.rpartition(":")
        if not port.isdigit() or int(port) > 65_535:
            raise ValueError(f"{address} is no address to listen on; write 127.0.0.1:9115")
        start_http_server(int(port), host.strip("[]") or "127.0.0.1", registry=self._registry)


def _samples(found: Look) -> Iterator[tuple[tuple[str, ...], float]]:
    yield ("success",), not found.code
    yield ("timestamp_seconds",), found.moment
    for name in dict.fromkeys(item.name for item in found.results):
        own = [item for item in found.results if item.name == name]
        yield ("check", name), not failed(own)
        yield ("check_seconds", name), own[0].seconds
    for fact, value in found.facts.items():
        yield tuple(fact.split(":")), value
