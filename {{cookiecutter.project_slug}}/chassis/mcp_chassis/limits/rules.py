"""The limits in force: what tools declare, what settings replace, and what holds where neither says anything."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from mcp_chassis.environment import Problem
from mcp_chassis.limits import rates
from mcp_chassis.limits.rates import Rate
from mcp_chassis.state.store import SECOND, Escalation, Limit

if TYPE_CHECKING:
    from mcp_chassis.policy import ToolPolicy
    from mcp_chassis.settings import Settings

DownPolicy = Literal["local", "open", "closed"]
"""What a limit does while Redis is down: count in this process, admit, refuse."""


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
    limits = rates.by_name(settings.tool_limits, rates.rate)
    budgets = rates.by_name(settings.tool_budgets, rates.count)
    concurrency = rates.by_name(settings.tool_concurrency, rates.count)
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
        "MCP_TOOL_LIMITS": rates.by_name(settings.tool_limits, str),
        "MCP_TOOL_BUDGETS": rates.by_name(settings.tool_budgets, str),
        "MCP_TOOL_CONCURRENCY": rates.by_name(settings.tool_concurrency, str),
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
