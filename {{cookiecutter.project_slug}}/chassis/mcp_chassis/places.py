"""What bounds a call: places that may be taken at one time (L2, L10), and the limits of its tool (L3, L4, L5)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from contextlib import nullcontext
from typing import Final, Self

from mcp_types import CallToolResult

from mcp_chassis import request as requests
from mcp_chassis.calls import Result, refused
from mcp_chassis.errors import retry_meta, wait_words
from mcp_chassis.limiter import Limiter, Rules
from mcp_chassis.state.store import SECOND, Decision
from mcp_chassis.telemetry import REFUSALS

_RETRY_AFTER: Final = 1.0


class Turnstile:
    """Let a call run, or answer in its place.

    Args:
        limiter: Decides what is counted over time.
        rules: The limits in force.
    """

    def __init__(self, limiter: Limiter, rules: Rules) -> None:
        self._limiter = limiter
        self._places = {
            name: Places(tool.concurrency) for name, tool in rules.tools.items() if tool.concurrency is not None
        }

    async def passed(self, tool: str, call: Callable[[], Awaitable[Result]]) -> Result:
        """Return what `call` returns, or the refusal."""
        caller, request = requests.current_caller(), requests.current()
        place = None
        if tool in self._places and not caller.probing:
            try:
                place = self._places[tool].take(tool)
            except Full:
                REFUSALS.labels("concurrency").inc()
                text = f"{tool} is running as often as it may: {wait_words(_RETRY_AFTER)}"
                return refused("rejected", text, "limit_concurrency", **retry_meta(_RETRY_AFTER, estimate=True))
        with place or nullcontext(), (request and request.place) or nullcontext():
            decision = await self._limiter.take(caller, tool)
            if decision.refusing is None:
                return await call()
            # The same call has to pass admission again, too.
            seconds = max(decision.wait / SECOND, 0 if request is None else request.room_at - time.monotonic())
            return _refusal(tool, decision, seconds)


def _refusal(tool: str, decision: Decision, seconds: float) -> CallToolResult:
    reason = "suspended" if decision.suspended else str(decision.refusing)
    words = {
        "tool": f"Too many calls of {tool}",
        "budget": f"Today's budget for {tool} is spent, do something else until it is renewed at midnight UTC",
        "global": "The server has too many calls of all callers",
        "suspended": "You are suspended, because refused calls were repeated too often",
    }
    text = "Limits cannot be checked now" if decision.estimate else words[reason]
    code = "limit_undecidable" if decision.estimate else f"limit_{reason}"
    meta = retry_meta(seconds, estimate=decision.estimate)
    return refused("rejected", f"{text}: {wait_words(seconds)}", code, **meta)


class Full(Exception):
    """There is no place.

    Args:
        own: Whether the caller's own share is used up, or everybody's.
    """

    def __init__(self, *, own: bool) -> None:
        super().__init__("full")
        self.own = own


class Places:
    """A bounded number of places in this process.

    Args:
        maximum: In all.
        each: Of one holder.
    """

    def __init__(self, maximum: int, each: int | None = None) -> None:
        self._maximum = maximum
        self._each = maximum if each is None else each
        self._held: Counter[Hashable] = Counter()
        self.taken = 0

    def take(self, holder: Hashable) -> Place:
        """Return a place.

        Raises:
            Full: If there is none.
        """
        if self._held[holder] >= self._each:
            raise Full(own=True)
        if self.taken >= self._maximum:
            raise Full(own=False)
        self.take_again(holder)
        return Place(self, holder)

    def take_again(self, holder: Hashable) -> None:
        """Begin a holding that is not refused, because its work has begun."""
        self._held[holder] += 1
        self.taken += 1

    def give_back(self, holder: Hashable) -> None:
        """End one holding."""
        self.taken -= 1
        self._held[holder] -= 1
        if not self._held[holder]:
            del self._held[holder]


class Place:
    """One place, which is free again when everybody who holds it has let go: a request, and the call it began."""

    __slots__ = ("_free", "_holder", "_holds", "_places")

    def __init__(self, places: Places, holder: Hashable) -> None:
        self._places = places
        self._holder = holder
        self._holds = 0
        self._free = False

    def hold(self) -> Self:
        """Hold the place; a call that begins after its request has ended takes it again."""
        if self._free:
            self._places.take_again(self._holder)
            self._free = False
        self._holds += 1
        return self

    def let_go(self, *_error: object) -> None:
        """Hold it no more."""
        self._holds -= 1
        if self._holds == 0:
            self._free = True
            self._places.give_back(self._holder)

    __enter__, __exit__ = hold, let_go
