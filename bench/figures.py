"""The words of every measurement: how much work it may do, what it finds, and what it has to reach."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

Tell = Callable[[str], None]
"""Says what is being done, for whoever waits."""
Verdict = Literal["met", "missed", ""]

Batches = Sequence[Sequence[float]]
"""Samples of the same thing, taken at different times."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured.

    Args:
        name: What the reader is told.
        batches: Of calls in this process, for each case.
        calls: In each of them.
        rounds: Of phases of a running server, for each era.
        phase: Seconds of each of them.
        judged: Whether there is enough of it to judge by.
    """

    name: str
    batches: int
    calls: int
    rounds: int
    phase: float
    judged: bool = True


TINY: Final = Effort("tiny", batches=2, calls=50, rounds=1, phase=0.5, judged=False)
QUICK: Final = Effort("quick", batches=6, calls=2_000, rounds=2, phase=4.0)
"""A looping client is suspended after 3.4 s of default limits, so a phase lasts longer than that."""
FULL: Final = Effort("full", batches=60, calls=5_000, rounds=4, phase=20)


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound that a value has to keep."""

    word: Literal["at most", "at least"]
    bound: float

    def __str__(self) -> str:
        return f"{'≤' if self.word == 'at most' else '≥'} {self.bound:g}"

    def met_by(self, value: float) -> bool:
        """Tell whether `value` keeps the bound."""
        return value <= self.bound if self.word == "at most" else value >= self.bound


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the results.

    Args:
        what: What was measured, in words.
        value: The number.
        unit: Its unit; nothing for a ratio.
        spread: Lowest and highest batch or phase, where there were several.
        goal: What it has to reach; None is for information.
    """

    what: str
    value: float
    unit: str = ""
    spread: tuple[float, float] | None = None
    goal: Goal | None = None

    @property
    def verdict(self) -> Verdict:
        """Whether the goal is reached."""
        if self.goal is None:
            return ""
        return "met" if self.goal.met_by(self.value) else "missed"


@dataclass(frozen=True, slots=True)
class Measurement:
    """Something that `make bench` measures.

    Args:
        name: For `--only`.
        question: What it answers.
        noise: How it keeps what else the machine does out of the numbers.
        take: Does it.
    """

    name: str
    question: str
    noise: str
    take: Callable[[Effort, Tell], Iterable[Figure]]


def quantile(samples: Sequence[float], share: float) -> float:
    """Return the smallest sample that `share` of all samples do not exceed."""
    return sorted(samples)[max(0, math.ceil(share * len(samples)) - 1)]


def figure(what: str, batches: Batches, share: float, unit: str, goal: Goal | None = None) -> Figure:
    """Return a quantile as the median over batches: one that was disturbed shows in the spread, not in the value."""
    found = [quantile(batch, share) for batch in batches]
    return Figure(what, statistics.median(found), unit, (min(found), max(found)), goal)
