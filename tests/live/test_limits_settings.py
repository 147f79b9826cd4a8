"""What is in force can be seen, and a limit that nobody would obey stops the start (L3, L4, S1)."""

from __future__ import annotations

import json
import re

import pytest

from tests.live.project import Project

pytestmark = pytest.mark.xdist_group("limits-delays")

BAD_CONFIGURATION = 78
BAD = {
    "MCP_TOOL_LIMITS=hold=7": "hold=7 must be a rate and a burst, like 20/5",
    "MCP_TOOL_LIMIT=0/1": "must be a rate and a burst, like 20/5: 20 in the long run and 5 at once",
    "MCP_CALLER_LIMIT=20/0": "must be a rate and a burst, like 20/5",
    "MCP_SESSION_LIMIT=-1/2": "must be a rate and a burst, like 20/5",
    "MCP_GLOBAL_LIMIT=many": "must be a rate and a burst, like 20/5",
    "MCP_TOOL_BUDGETS=weigh=0": "weigh=0 must be a whole number above 0, like 100",
    "MCP_TOOL_CONCURRENCY=hold": "must be NAME=VALUE for each name once, separated by commas; hold is not",
    "MCP_MAX_CALLS=0": "must be a whole number from 1 to 100000; remove it to use 500",
    "MCP_MAX_SESSIONS_PER_CALLER=all": "must be a whole number from 1 to 100000; remove it to use 100",
    "MCP_SUSPENSION_REFUSALS=-1": "must be a whole number from 0 to 1000000; remove it to use 100",
    "MCP_SUSPENSION_FIRST=0": "must be a number above 0 to 86400; remove it to use 30",
    "MCP_LIMITS_WHEN_STORE_DOWN=budgets=closed": (
        "must be local or open or closed, or one of them for a limit (session, caller, tool, budget, global) "
        "like budget=closed"
    ),
}


def rows(text: str) -> dict[str, list[str]]:
    """Return the lines of both tables by their first word; columns are two blanks apart."""
    lines = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines()]
    return {line[0]: line[1:] for line in lines if line}


def test_L3_table_shows_what_is_declared_what_replaces_it_and_the_default(extended: Project) -> None:
    given = {"MCP_TOOL_LIMITS": "search_notes=50/10", "MCP_TOOL_CONCURRENCY": "hold=3", "MCP_GLOBAL_LIMIT": "900/90"}

    done = extended.run("ops", "limits", given=given)

    assert (done.returncode, done.stderr) == (0, "")
    found = rows(done.stdout)
    assert found["run_report"] == ["5/2", "3", "2", "1"]
    assert found["search_notes"] == ["50/10", "-", "1", "-"]
    assert found["hold"] == ["20/5", "-", "1", "3"]
    assert found["weigh"] == ["300/40 per 60 s", "1000", "3", "-"]
    assert found["ping"] == ["20/5", "-", "1", "-"]
    assert found["MCP_TOOL_LIMIT"][0] == "20/5"
    assert found["MCP_CALLER_LIMIT"][0] == "50/50"
    assert found["MCP_GLOBAL_LIMIT"][0] == "900/90"
    assert found["MCP_SESSION_LIMIT"][0] == "300/60"
    assert "a minute" in found["MCP_SESSION_LIMIT"][1]
    assert found["MCP_LIMITS_WHEN_STORE_DOWN"][0] == "local"


def test_L3_settings_win_over_what_is_declared(extended: Project) -> None:
    given = {"MCP_TOOL_LIMITS": "run_report=0.5/9", "MCP_TOOL_BUDGETS": "run_report=8", "MCP_TOOL_LIMIT": "7/1"}

    done = extended.run("ops", "limits", "--json", given=given)

    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["tools"]["run_report"] == {
        "limit": {"rate": 0.5, "burst": 9, "per": 1},
        "budget": 8,
        "cost": 2,
        "concurrency": 1,
    }
    assert found["tools"]["weigh"]["limit"] == {"rate": 300, "burst": 40, "per": 60}
    assert found["tools"]["ping"]["limit"] == {"rate": 7, "burst": 1, "per": 1}
    assert found["server"]["MCP_MAX_CALLS_PER_CALLER"] == "100"


@pytest.mark.parametrize("command", [["serve"], ["stdio"], ["ops", "limits"]], ids=" ".join)
def test_L3_limit_that_names_no_tool_stops_the_start_and_names_the_nearest(
    command: list[str], extended: Project
) -> None:
    given = {
        "MCP_TOOL_LIMITS": "serch_notes=50/10",
        "MCP_TOOL_BUDGETS": "run_rapport=10,weigh=2",
        "MCP_TOOL_CONCURRENCY": "holt=1",
    }

    done = extended.run(*command, given=given)

    assert (done.returncode, done.stdout) == (BAD_CONFIGURATION, "")
    assert done.stderr.splitlines() == [
        "4 problems stop this server:",
        "  MCP_TOOL_LIMITS=serch_notes=50/10  names no tool of this server; is search_notes meant?",
        "  MCP_TOOL_BUDGETS=run_rapport=10  names no tool of this server; is run_report meant?",
        "  MCP_TOOL_BUDGETS=weigh=2  must be at least 3, what one call of weigh costs",
        "  MCP_TOOL_CONCURRENCY=holt=1  names no tool of this server; is hold meant?",
    ]


def test_S1_every_bad_limit_is_said_with_what_would_be_good(extended: Project) -> None:
    done = extended.run("serve", given=dict(item.split("=", 1) for item in BAD))

    assert (done.returncode, done.stdout) == (BAD_CONFIGURATION, "")
    title, *problems = done.stderr.splitlines()
    assert title == f"{len(BAD)} problems stop this server:"
    said = dict(re.split("  ", line.strip(), maxsplit=1) for line in problems)
    assert [item for item, rule in BAD.items() if not said[item].startswith(rule)] == []
