"""Which limit is in force: settings go before what a tool declares, and that before the default (L3, L4, L6, L9)."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from mcp_chassis.limiter import ToolRules, misnamed, rules_of
from mcp_chassis.policy import PerDay, Rate, ToolPolicy
from mcp_chassis.settings import Settings
from mcp_chassis.state.store import SECOND, Escalation

TOOLS = {
    "search_notes": ToolPolicy(),
    "run_report": ToolPolicy(limit=Rate(5, 2), budget=PerDay(50), cost=10, concurrency=2),
}


def settings(**given: object) -> Settings:
    return Settings.model_validate({"tool_timeout": 30, "public_url": "https://notes.example.com"} | given)


def test_L3_tool_that_declares_nothing_has_the_default() -> None:
    found = rules_of(settings(), TOOLS)

    assert found.tools["search_notes"] == ToolRules(limit=Rate(20, 5), budget=None, cost=1, concurrency=None)
    assert found.tools["run_report"] == ToolRules(limit=Rate(5, 2), budget=50, cost=10, concurrency=2)
    assert (found.everybody, found.caller, found.session.per) == (None, Rate(50, 50), 60)


def test_L3_settings_go_before_what_is_declared_for_the_tools_they_name() -> None:
    given = {"tool_limit": "7/3", "tool_limits": "run_report=50/10", "global_limit": "9/9", "caller_limit": "8/8"}
    given |= {"tool_budgets": "run_report=100,search_notes=5", "tool_concurrency": "run_report=4"}

    found = rules_of(settings(**given), TOOLS)

    assert found.tools["run_report"] == ToolRules(limit=Rate(50, 10), budget=100, cost=10, concurrency=4)
    assert found.tools["search_notes"] == ToolRules(limit=Rate(7, 3), budget=5, cost=1, concurrency=None)
    assert (found.everybody, found.caller) == (Rate(9, 9), Rate(8, 8))


def test_L6_escalation_is_counted_in_microseconds() -> None:
    given = {"suspension_refusals": 3, "suspension_window": 1.5, "suspension_first": 2, "suspension_longest": 8}

    found = rules_of(settings(**given, suspension_decay=10), TOOLS).escalation

    assert found == Escalation(3, 1_500_000, 2 * SECOND, 8 * SECOND, 10 * SECOND)


def test_L6_odd_escalation_is_usable() -> None:
    shorter = rules_of(settings(suspension_first=30, suspension_longest=5), TOOLS).escalation
    tiny = rules_of(settings(suspension_decay=1e-9), TOOLS).escalation

    assert shorter.longest == 30 * SECOND
    assert tiny.decay == 1


@pytest.mark.parametrize(
    ("text", "differing"),
    [
        ("local", {}),
        ("closed", dict.fromkeys(("session", "caller", "tool", "budget", "global"), "closed")),
        ("local,budget=closed", {"budget": "closed"}),
        ("budget=closed,global=open", {"budget": "closed", "global": "open"}),
        ("session=local,open", {"caller": "open", "tool": "open", "budget": "open", "global": "open"}),
    ],
)
def test_L9_word_alone_is_for_all_limits_that_are_not_named(text: str, differing: dict[str, str]) -> None:
    found = rules_of(settings(limits_when_store_down=text), TOOLS).when_down

    assert found == dict.fromkeys(("session", "caller", "tool", "budget", "global"), "local") | differing


@pytest.mark.parametrize("text", ["shut", "budget=", "budget=shut", "nobody=open", "=open", "local,budget"])
def test_L9_word_that_is_no_policy_stops_the_server(text: str) -> None:
    with pytest.raises(ValidationError, match="local or open or closed"):
        settings(limits_when_store_down=text)


@pytest.mark.parametrize(
    ("given", "variable", "value", "rule"),
    [
        ({"tool_limits": "serch_notes=1/1"}, "MCP_TOOL_LIMITS", "serch_notes=1/1", "is search_notes meant?"),
        ({"tool_budgets": "reports=20"}, "MCP_TOOL_BUDGETS", "reports=20", "names no tool"),
        ({"tool_concurrency": "xyz=2"}, "MCP_TOOL_CONCURRENCY", "xyz=2", "is run_report, search_notes meant?"),
        ({"tool_budgets": "run_report=9"}, "MCP_TOOL_BUDGETS", "run_report=9", "must be at least 10"),
    ],
)
def test_L3_limit_that_fits_no_tool_stops_the_server(
    given: dict[str, str], variable: str, value: str, rule: str
) -> None:
    (problem,) = misnamed(TOOLS, settings(**given))

    assert (problem.variable, problem.value) == (variable, value)
    assert rule in problem.rule


def test_L3_limits_that_fit_are_no_problem() -> None:
    given = {"tool_limits": "run_report=1/1", "tool_budgets": "run_report=10", "tool_concurrency": "search_notes=1"}
    assert misnamed(TOOLS, settings(**given)) == []


@pytest.mark.parametrize("variable", ["tool_limits", "tool_budgets", "tool_concurrency"])
def test_L3_malformed_override_stops_the_server(variable: str) -> None:
    for text in ("run_report", "run_report=0", "run_report=x", "=1/1"):
        with pytest.raises(ValidationError):
            settings(**{variable: text})
