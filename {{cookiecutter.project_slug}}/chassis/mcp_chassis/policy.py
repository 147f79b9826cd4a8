"""What is declared with a tool beside its signature: rates, budgets, scopes; and how settings write them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, TypedDict, TypeVar

from mcp_chassis.environment import Problem
from mcp_chassis.request import EVERY_SCOPE, PROBE_SCOPE

_NUMBER: Final = r"\d{1,6}(?:\.\d{1,3})?"
_WHOLE: Final = r"[1-9]\d{0,5}"
_RATE: Final = re.compile(f"({_NUMBER})/({_WHOLE})")
_UNITS: Final = re.compile(r"[1-9]\d{0,8}")
_LARGEST: Final = 100_000
_LONGEST: Final = 6_000_000_000
"""Seconds after which a used up burst is whole again: beyond them Lua's numbers are not exact to the microsecond."""

_Value = TypeVar("_Value")
_TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")
"""What every client can send, log and show (2026-07-28, tool names)."""
_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,128}")
_RESERVED: Final = frozenset({EVERY_SCOPE, PROBE_SCOPE})


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


class Declared(TypedDict, total=False):
    """What `@server.tool()` takes beside the SDK's parameters; `ToolPolicy` says what it means."""

    timeout: float | None
    scopes: Collection[str]
    limit: Rate | None
    budget: PerDay | None
    cost: int
    concurrency: int | None


@dataclass(frozen=True, slots=True)
class ToolPolicy:
    """The rules of one tool.

    Args:
        timeout: Seconds one call may take; None is the server's longest (E5).
        scopes: What a caller must hold, all of it (A11).
        limit: How often one caller may call it; None is the server's default (L3).
        budget: What one caller may spend on it in a UTC day; None is no end (L4).
        cost: Units of the budget that one call spends.
        concurrency: Calls running at one time in this process; None is the server's own bound.

    Raises:
        ValueError: If a number is not above 0, or a scope is not one word of RFC 6749, 3.3, or one of ours.
    """

    timeout: float | None = None
    scopes: frozenset[str] = frozenset()
    limit: Rate | None = None
    budget: PerDay | None = None
    cost: int = 1
    concurrency: int | None = None

    def __post_init__(self) -> None:
        if self.cost not in range(1, 10**9) or (self.budget is not None and self.cost > self.budget.units):
            raise ValueError(f"cost is {self.cost}; it must be at least 1 and fit into the budget of a day")
        if self.concurrency is not None and self.concurrency < 1:
            raise ValueError(f"concurrency is {self.concurrency}; it must be at least 1")
        if self.timeout is not None and not self.timeout > 0:
            raise ValueError(f"timeout is {self.timeout} s; it must be above 0")
        if bad := sorted(scope for scope in self.scopes if not _SCOPE.fullmatch(scope) or scope in _RESERVED):
            raise ValueError(f"{bad[0]!r} cannot be a tool's scope; use one word, like notes:write")


def policy_of(tool: str, declared: Declared) -> ToolPolicy:
    """Return the policy that was declared with a tool.

    Raises:
        TypeError: If scopes is one text, whose letters would be the scopes.
        ValueError: If it cannot be a policy.
    """
    if isinstance(scopes := declared.get("scopes", ()), str):
        raise TypeError(f"{tool}: scopes is a set of words, not the one word {scopes}")
    return ToolPolicy(
        timeout=declared.get("timeout"),
        scopes=frozenset(scopes),
        limit=declared.get("limit"),
        budget=declared.get("budget"),
        cost=declared.get("cost", 1),
        concurrency=declared.get("concurrency"),
    )


def check_name(name: str, *, taken: bool) -> None:
    """Refuse a name that a client could not use.

    Raises:
        ValueError: If the name is malformed or taken.
    """
    if not _TOOL_NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot be a tool's name; use 1 to 128 of A-Z, a-z, 0-9, _, . and -, like add_note")
    if taken:
        raise ValueError(f"two tools are named {name}; give one of them another name=")


def too_long(policies: Mapping[str, ToolPolicy], longest: float) -> list[Problem]:
    """Return the tools that may take longer than the whole server's longest call (T8).

    Args:
        policies: By the tool's name.
        longest: Seconds, from `MCP_TOOL_TIMEOUT`.
    """
    return [
        Problem(
            "MCP_TOOL_TIMEOUT",
            f"{longest:g}",
            f"must be at least {policy.timeout:g}, which the tool {name} declares: raise it everywhere at once with "
            f"copier update --data tool_timeout={math.ceil(policy.timeout)}",
        )
        for name, policy in policies.items()
        if policy.timeout is not None and policy.timeout > longest
    ]
