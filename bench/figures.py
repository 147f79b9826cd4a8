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


class Invalid(Exception):
    """Something was not served, so what was measured is not what the report would say."""


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
QUICK: Final = Effort("quick", batches=6, calls=2_000, rounds=1, phase=4.0)
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
        shown: Whether the README of the repository shows it.
    """

    what: str
    value: float
    unit: str = ""
    spread: tuple[float, float] | None = None
    goal: Goal | None = None
    shown: bool = False

    @property
    def verdict(self) -> Verdict:
        """Whether the goal is reached."""
        if self.goal is None:
            return ""
        return "met" if self.goal.met_by(self.value) else "missed"


Bar = tuple[str, float, tuple[float, float] | None]
"""What it stands for, its length, and the spread of it."""


@dataclass(frozen=True, slots=True)
class Series:
    """Bars that are compared with each other."""

    title: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture of some figures.

    Args:
        name: Of its file.
        title: What it shows, and in what unit.
        series: From top to bottom.
        mine: How the names of bars begin that stand out.
    """

    name: str
    title: str
    series: tuple[Series, ...]
    mine: str = "generated"


def _no_charts(_figures: Sequence[Figure]) -> Sequence[Chart]:
    return ()


@dataclass(frozen=True, slots=True)
class Measurement:
    """Something that `make bench` measures.

    Args:
        name: For `--only`.
        question: What it answers.
        method: How it is measured, and how what else the machine does is kept out of the numbers.
        take: Does it.
        charts: Returns pictures of what was found.
    """

    name: str
    question: str
    method: str
    take: Callable[[Effort, Tell], Iterable[Figure]]
    charts: Callable[[Sequence[Figure]], Sequence[Chart]] = _no_charts


def quantile(samples: Sequence[float], share: float) -> float:
    """Return the smallest sample that `share` of all samples do not exceed."""
    return sorted(samples)[max(0, math.ceil(share * len(samples)) - 1)]


def figure(what: str, batches: Batches, share: float, unit: str, goal: Goal | None = None) -> Figure:
    """Return a quantile as the median over batches: one that was disturbed shows in the spread, not in the value."""
    found = [quantile(batch, share) for batch in batches]
    return Figure(what, statistics.median(found), unit, (min(found), max(found)), goal)
