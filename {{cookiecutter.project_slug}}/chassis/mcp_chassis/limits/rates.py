"""What an author or an operator declares: rates and daily budgets, and how they are written in settings."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, Final, TypeVar

_NUMBER: Final = r"\d{1,6}(?:\.\d{1,3})?"
_WHOLE: Final = r"[1-9]\d{0,5}"
_RATE: Final = re.compile(f"({_NUMBER})/({_WHOLE})")
_UNITS: Final = re.compile(r"[1-9]\d{0,8}")
_LARGEST: Final = 100_000
_LONGEST: Final = 6_000_000_000
"""Seconds after which a used up burst is whole again: beyond them Lua's numbers are not exact to the microsecond."""

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Rate:
    """How often something may happen.

    Args:
        rate: Times in `per` seconds, in the long run.
        burst: Times at once, after a rest.
        per: Seconds.

    Raises:
        ValueError: If one of them is not above 0 or is larger than a limit can be.
    """

    rate: float
    burst: int = 1
    per: float = 1

    words: ClassVar[str] = "a rate and a burst, like 20/5"

    def __post_init__(self) -> None:
        positive = self.rate > 0 and self.per > 0 and self.burst in range(1, _LARGEST + 1)
        if not positive or self.rate / self.per > _LARGEST or not self.per / self.rate * self.burst <= _LONGEST:
            raise ValueError(f"Rate({self.rate}, burst={self.burst}, per={self.per}) admits nothing or everything")

    def __str__(self) -> str:
        return f"{self.rate:g}/{self.burst}"

    @property
    def interval(self) -> int:
        """Microseconds between two of them in the long run."""
        return max(1, round(self.per / self.rate * 1_000_000))


@dataclass(frozen=True, slots=True)
class PerDay:
    """How much may be spent in one UTC day.

    Args:
        units: What there is to spend; a call spends its tool's `cost`.

    Raises:
        ValueError: If it is not above 0.
    """

    units: int

    def __post_init__(self) -> None:
        if not 1 <= self.units < 10**9:
            raise ValueError(f"PerDay({self.units}) admits nothing or everything")


def rate(text: object) -> Rate:
    """Read `20/5`: 20 a second, 5 at once. Raises `ValueError`."""
    if isinstance(text, Rate):
        return text
    found = _RATE.fullmatch(str(text).strip())
    if found is None or not 0 < float(found.group(1)) <= _LARGEST:
        raise ValueError(f"must be {Rate.words}: 20 in the long run and 5 at once, each from 0.001 or 1 to {_LARGEST}")
    return Rate(float(found.group(1)), int(found.group(2)))


def rate_per_minute(text: object) -> Rate:
    """Read `300/60`: 300 a minute, 60 at once. Raises `ValueError`."""
    if isinstance(text, Rate):
        return text
    found = rate(text)
    return Rate(found.rate, found.burst, per=60)


def count(text: str) -> int:
    """Read a whole number above 0. Raises `ValueError`."""
    if not _UNITS.fullmatch(text):
        raise ValueError("must be a whole number above 0, like 100")
    return int(text)


def budget(text: str) -> PerDay:
    """Read the units of a day. Raises `ValueError`."""
    return PerDay(count(text))


def by_name(items: Iterable[str], read: Callable[[str], _Value]) -> dict[str, _Value]:
    """Read items like `search_notes=50/10` into values by name. Raises `ValueError`."""
    found: dict[str, _Value] = {}
    for item in items:
        name, equals, text = item.partition("=")
        if not name or not equals or name in found:
            raise ValueError(f"must be NAME=VALUE for each name once, separated by commas; {item} is not")
        try:
            found[name] = read(text)
        except ValueError as error:
            raise ValueError(f"{item} {error}") from None
    return found
