"""The page about checks lists what the code has, each with its reason."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mcp_chassis.checks import Check
from mcp_chassis.checks.manifests import manifests
from mcp_chassis.checks.timeouts import timeouts

PAGE = Path(__file__).resolve().parents[2] / "docs" / "checks.md"


@pytest.mark.parametrize(("heading", "checks"), [("Time limits", timeouts), ("Manifests", manifests)])
def test_D5_checks_page_lists_every_check_in_order_with_its_reason(heading: str, checks: Sequence[Check[Any]]) -> None:
    section = PAGE.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.+) \| (.+\.) \|$", section, flags=re.MULTILINE)

    assert [row[:3] for row in rows] == [(check.name, check.id, check.rule) for check in checks]


@pytest.mark.parametrize("checks", [timeouts, manifests])
def test_G3_names_are_stable_so_each_is_there_once(checks: Sequence[Check[Any]]) -> None:
    names = [check.name for check in checks]

    assert len(set(names)) == len(names)
    assert all(check.rule and check.fix for check in checks)
