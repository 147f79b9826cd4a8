"""Every call counted: what clients saw against what the tool wrote down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rehearsal.load import Load
from rehearsal.pod import Pod
from tests.live.curl import STATELESS


@dataclass(frozen=True)
class Count:
    """What one rehearsal found.

    Args:
        name: Which server, behind which edge.
        restarts: Rolling restarts, each of all replicas.
        pods: That came and went.
        calls: That were sent.
        answered: That got their own answer, and that alone.
        lost: That got none.
        lost_after_run: Of these, whose tool had run: to repeat such a call may do its work twice.
        duplicated: Whose tool ran more than once, or that were answered more than once.
        mixed: That got something of another call.
        repeated: Calls of the handshake era that were refused before the tool ran and repeated once, by status.
        failures: Why calls were lost, by era.
        streams: How GET streams ended.
        exits: Exit codes of servers and of edges.
        troubles: What the kubelet noticed.
        longest: Seconds of the slowest short call.
        lost_calls: Each of them.
    """

    name: str
    restarts: int
    pods: int
    calls: int
    answered: int
    lost: int
    lost_after_run: int
    duplicated: int
    mixed: int
    longest: float
    repeated: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    streams: dict[str, int] = field(default_factory=dict)
    exits: dict[str, int] = field(default_factory=dict)
    troubles: dict[str, int] = field(default_factory=dict)
    lost_calls: list[dict[str, Any]] = field(default_factory=list)

    @property
    def broken(self) -> list[str]:
        """The promises of S4 that were not kept."""
        bad = {name: number for name, number in self.exits.items() if not name.endswith(" 0")}
        told = {
            "calls were lost": self.lost,
            "calls were done or answered twice": self.duplicated,
            "calls got something of another call": self.mixed,
            "processes did not exit with 0": sum(bad.values()),
            "probes failed": sum(self.troubles.values()),
        }
        return [f"{self.name}: {number} {what}" for what, number in told.items() if number]

    def as_data(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {**asdict(self), "broken": self.broken}


def count(name: str, restarts: int, load: Load, pods: Sequence[Pod], record: Path) -> Count:
    """Hold what clients saw against the record of the tool."""
    ran = Counter(record.read_text(encoding="utf-8").split() if record.exists() else [])
    lost = [call for call in load.calls if call.failure]
    exits = Counter(f"{process} {code}" for pod in pods for process, code in pod.codes.items())
    return Count(
        name=name,
        restarts=restarts,
        pods=len(pods),
        calls=len(load.calls),
        answered=sum(len(call.answers) == 1 and not call.failure and not call.strangers for call in load.calls),
        lost=len(lost),
        lost_after_run=sum(ran[call.mark] > 0 for call in lost),
        duplicated=sum(ran[call.mark] > 1 or len(call.answers) > 1 for call in load.calls),
        mixed=sum(bool(call.strangers) for call in load.calls) + load.unasked,
        lost_calls=[
            {"mark": call.mark, "second": round(call.begun, 2), "why": call.failure, "ran": ran[call.mark] > 0}
            for call in lost
        ],
        longest=max((call.seconds for call in load.calls if call.short and not call.failure), default=0.0),
        repeated=_sorted(Counter(str(call.repeated_after) for call in load.calls if call.repeated_after)),
        failures=_sorted(
            Counter(f"{'stateless' if call.era is STATELESS else 'handshake'}: {call.failure}" for call in lost)
        ),
        streams=_sorted(load.streams),
        exits=_sorted(exits),
        troubles=_sorted(Counter(trouble for pod in pods for trouble in pod.troubles)),
    )


def _sorted(found: Counter[str]) -> dict[str, int]:
    return dict(sorted(found.items()))
