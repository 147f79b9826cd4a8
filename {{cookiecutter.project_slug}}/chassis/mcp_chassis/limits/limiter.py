"""The two places where a limit is decided: admission of a request, and the call boundary (L1, L3, L4, L6, L8, L9)."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from typing import Final, Literal

from pydantic_core import to_json

from mcp_chassis.limits.rates import Rate
from mcp_chassis.limits.rules import Rules
from mcp_chassis.request import Caller
from mcp_chassis.state.memory import MemoryStore
from mcp_chassis.state.store import SECOND, Bucket, Budget, Conduct, Decision, Limit, Store, StoreDown
from mcp_chassis.telemetry.logging import log
from mcp_chassis.telemetry.metrics import REFUSALS, SUSPENSIONS

CONDUCT: Final = "conduct:"
"""What the names of all conducts begin with."""
Entry = Literal["free", "opening", "request"]
"""What a request costs: nothing, one of the sessions of its address, one of the requests of its caller."""

_UNDECIDED: Final = SECOND
"""Told as the delay where a limit is closed because Redis is down: nobody knows when it is back."""
_UNCOUNTED: Final = Decision(None, 0, 0, 0)


class Limiter:
    """Decide in the store, or as the policy of each limit says while the store is down.

    Args:
        store: Where the counting is shared.
        rules: The limits in force.
    """

    def __init__(self, store: Store, rules: Rules) -> None:
        self._store = store
        self._rules = rules
        self._fallback: MemoryStore | None = None

    async def admit(self, caller: Caller, address: str, entry: Entry, revocations: Sequence[str]) -> Decision:
        """Decide about a request.

        Args:
            caller: Who sends it; the probe is never counted (A7).
            address: The client's, for openings.
            entry: What the request costs.
            revocations: The names under which its credential may have been taken back.

        Raises:
            StoreDown: If the credential may have been revoked and nobody can tell.
        """
        counted = entry != "free" and not caller.probing
        if not counted and not revocations:
            return _UNCOUNTED
        conduct = self._conduct(caller) if counted else None
        buckets = self._admission_buckets(caller, address, entry) if counted else ()
        try:
            return self._noted(await self._store.admit(revocations, conduct, buckets))
        except StoreDown:
            if revocations:
                raise
        return await self.admit_without_store(caller, address, entry)

    async def admit_without_store(self, caller: Caller, address: str, entry: Entry) -> Decision:
        """Decide about a request whose credential passes while Redis is down."""
        if entry == "free" or caller.probing:
            return _UNCOUNTED
        buckets, conduct = self._admission_buckets(caller, address, entry), self._conduct(caller)
        return await self._fall_back(buckets, None, lambda kept, _: self._local().admit((), conduct, kept))

    async def take(self, caller: Caller, tool: str) -> Decision:
        """Decide about a call of `tool`."""
        if caller.probing:
            return _UNCOUNTED
        rules = self._rules.tools[tool]
        name = _name(caller)
        buckets = [_bucket("tool", f"rate:tool:{name}:{tool}", rules.limit), *self._everybody()]
        budget = None if rules.budget is None else Budget(f"budget:{name}:{tool}", rules.budget, rules.cost)
        conduct = self._conduct(caller)
        try:
            return self._noted(await self._store.take(conduct, buckets, budget))
        except StoreDown:
            return await self._fall_back(buckets, budget, lambda *kept: self._local().take(conduct, *kept))

    async def _fall_back(
        self,
        buckets: Sequence[Bucket],
        budget: Budget | None,
        decide: Callable[[Sequence[Bucket], Budget | None], Awaitable[Decision]],
    ) -> Decision:
        """Follow the policies: what is closed refuses, what is open is left out, the rest is decided in process."""
        policies = self._rules.when_down
        closed = [bucket.limit for bucket in buckets if policies[bucket.limit] == "closed"]
        if budget is not None and policies["budget"] == "closed":
            closed.append("budget")
        if closed:
            return _counted(Decision(closed[0], _UNDECIDED, 0, 0, estimate=True))
        kept = [bucket for bucket in buckets if policies[bucket.limit] == "local"]
        return _counted(await decide(kept, budget if policies["budget"] == "local" else None))

    def _local(self) -> MemoryStore:
        """Return what counts during an outage; each begins from zero."""
        self._fallback = self._fallback or MemoryStore()
        return self._fallback

    def _noted(self, decision: Decision) -> Decision:
        """Take a decision of the store."""
        self._fallback = None
        return _counted(decision)

    def _admission_buckets(self, caller: Caller, address: str, entry: Entry) -> Sequence[Bucket]:
        if entry == "request":
            return (_bucket("caller", f"rate:caller:{_name(caller)}", self._rules.caller),)
        # An address may be shared, so its refusal is not held against this caller.
        shared = _bucket("session", f"rate:session:{address}", self._rules.session, own=False)
        return shared, _bucket("session", f"rate:session:caller:{_name(caller)}", self._rules.session_of_caller)

    def _everybody(self) -> Sequence[Bucket]:
        rate = self._rules.everybody
        return () if rate is None else (_bucket("global", "rate:global", rate, own=False),)

    def _conduct(self, caller: Caller) -> Conduct:
        return Conduct(CONDUCT + _name(caller), _who(*caller.identity), self._rules.escalation)


def _counted(decision: Decision) -> Decision:
    """Count a refusal and tell of a suspension."""
    if decision.refusing is not None and decision.refusing != "revoked":
        REFUSALS.labels(decision.refusing).inc()
    if decision.suspended:
        SUSPENSIONS.inc()
        log.warning("caller_suspended", seconds=decision.suspended / SECOND)
    return decision


@lru_cache(maxsize=8192)
def _bucket(limit: Limit, name: str, rate: Rate, *, own: bool = True) -> Bucket:
    return Bucket(limit, name, rate.interval, rate.burst, own)


def _name(caller: Caller) -> str:
    return _hashed(*caller.identity)


@lru_cache(maxsize=4096)
def _hashed(*parts: str) -> str:
    # Hashed, because a caller's name may be an issuer's text of any length.
    return hashlib.sha256(to_json(parts)).hexdigest()[:32]


@lru_cache(maxsize=4096)
def _who(way: str, caller: str, tenant: str) -> str:
    return to_json({"caller": caller, "tenant": tenant, "way": way}).decode("utf-8")
