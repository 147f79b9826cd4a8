"""The limits of one tool call, where its answer is a result that a model reads (L3, L4, L5)."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Final

from mcp_types import CallToolResult

from mcp_chassis import request as requests
from mcp_chassis.calls import Result, refused
from mcp_chassis.errors import retry_meta, wait_words
from mcp_chassis.limits.limiter import Limiter, Rules
from mcp_chassis.limits.places import Full, Places
from mcp_chassis.state.store import SECOND, Decision
from mcp_chassis.telemetry.metrics import REFUSALS

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
