"""The two places where a limit is decided: admission of a request, and the call boundary (L1, L3, L4, L6, L8, L9)."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal, get_args

from pydantic_core import to_json

from mcp_chassis import policy
from mcp_chassis.environment import Problem
from mcp_chassis.policy import Rate
from mcp_chassis.request import Caller
from mcp_chassis.state.store import (
    SECOND,
    Bucket,
    Budget,
    Conduct,
    Decision,
    Escalation,
    Limit,
    MemoryStore,
    Store,
    StoreDown,
)
from mcp_chassis.telemetry import REFUSALS, SUSPENSIONS
from mcp_chassis.telemetry.logging import log

if TYPE_CHECKING:
    from mcp_chassis.policy import ToolPolicy
    from mcp_chassis.settings import Settings


DownPolicy = Literal["local", "open", "closed"]
"""What a limit does while Redis is down: count in this process, admit, refuse."""
CONDUCT: Final = "conduct:"
"""What the names of all conducts begin with."""
Entry = Literal["free", "opening", "request"]
"""What a request costs: nothing, one of the sessions of its address, one of the requests of its caller."""
_UNDECIDED: Final = SECOND
"""Told as the delay where a limit is closed because Redis is down: nobody knows when it is back."""
_UNCOUNTED: Final = Decision(None, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class ToolRules:
    """The limits of one tool; the parameters are those of `ToolPolicy`, with nothing left open."""

    limit: Rate
    budget: int | None
    cost: int
    concurrency: int | None


@dataclass(frozen=True, slots=True)
class Rules:
    """The limits of one server."""

    tools: Mapping[str, ToolRules]
    session: Rate
    session_of_caller: Rate
    caller: Rate
    everybody: Rate | None
    escalation: Escalation
    when_down: Mapping[Limit, DownPolicy]


def rules_of(settings: Settings, policies: Mapping[str, ToolPolicy]) -> Rules:
    """Return the limits in force.

    Args:
        settings: The server's settings.
        policies: What tools declare, by name.
    """
    limits = policy.by_name(settings.tool_limits, policy.rate)
    budgets = policy.by_name(settings.tool_budgets, policy.count)
    concurrency = policy.by_name(settings.tool_concurrency, policy.count)
    tools = {
        name: ToolRules(
            limit=limits.get(name) or policy.limit or settings.tool_limit,
            budget=budgets.get(name) or (None if policy.budget is None else policy.budget.units),
            cost=policy.cost,
            concurrency=concurrency.get(name) or policy.concurrency,
        )
        for name, policy in policies.items()
    }
    return Rules(
        tools=tools,
        session=settings.session_limit,
        session_of_caller=settings.session_limit_per_caller,
        caller=settings.caller_limit,
        everybody=settings.global_limit,
        escalation=Escalation(
            refusals=settings.suspension_refusals,
            window=round(settings.suspension_window * SECOND),
            first=round(settings.suspension_first * SECOND),
            longest=round(max(settings.suspension_longest, settings.suspension_first) * SECOND),
            decay=max(1, round(settings.suspension_decay * SECOND)),
        ),
        when_down=_when_down(settings.limits_when_store_down),
    )


def misnamed(policies: Mapping[str, ToolPolicy], settings: Settings) -> list[Problem]:
    """Return the limits in settings that fit no tool: a limit nobody obeys is worse than none."""
    found = []
    given = {
        "MCP_TOOL_LIMITS": policy.by_name(settings.tool_limits, str),
        "MCP_TOOL_BUDGETS": policy.by_name(settings.tool_budgets, str),
        "MCP_TOOL_CONCURRENCY": policy.by_name(settings.tool_concurrency, str),
    }
    for variable, values in given.items():
        for name, value in values.items():
            if name not in policies:
                known = next(iter(difflib.get_close_matches(name, policies)), ", ".join(sorted(policies)))
                found.append(Problem(variable, f"{name}={value}", f"names no tool of this server; is {known} meant?"))
            elif variable == "MCP_TOOL_BUDGETS" and int(value) < policies[name].cost:
                rule = f"must be at least {policies[name].cost}, what one call of {name} costs"
                found.append(Problem(variable, f"{name}={value}", rule))
    return found


def _when_down(items: tuple[str, ...]) -> dict[Limit, DownPolicy]:
    """Return the policy of each limit; a word alone is for all that are not named."""
    named = dict(item.rpartition("=")[::2] for item in items)
    return {limit: _policy(named.get(limit, named.get("", "local"))) for limit in get_args(Limit)}


def _policy(word: str) -> DownPolicy:
    return next(policy for policy in get_args(DownPolicy) if policy == word)


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
