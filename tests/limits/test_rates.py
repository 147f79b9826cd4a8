"""Rates and budgets are read as they are written, and what could not be a limit is refused (L3, L4)."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_chassis import policy
from mcp_chassis.policy import PerDay, Rate

GOOD = [
    ("20/5", Rate(20, 5), 50_000),
    (" 20/5 ", Rate(20, 5), 50_000),
    ("0.5/1", Rate(0.5, 1), 2_000_000),
    ("0.001/1", Rate(0.001, 1), 1_000_000_000),
    ("3/2", Rate(3, 2), 333_333),
    ("100000/100000", Rate(100_000, 100_000), 10),
]
BAD = ["", "20", "20/", "/5", "20/0", "0/5", "-1/5", "20/-1", "20/5/1", "20:5", "20/5 s", "1e3/5", "0.0001/5", "nan/1"]
BAD += ["inf/1", "20/1.5", "20 / 5", "20/5\n6", "100001/5", "20/100001", "0.000/1", ".5/1", "5./1", "20,5", "0x10/1"]
NO_RATES = [
    {"rate": 0}, {"rate": -1}, {"rate": math.nan}, {"rate": math.inf}, {"rate": 1e-320}, {"rate": 1, "burst": 0},
    {"rate": 1, "burst": -1}, {"rate": 1, "burst": 100_001}, {"rate": 1, "per": 0}, {"rate": 1, "per": -1},
    {"rate": -1, "per": -1}, {"rate": 1, "per": math.inf}, {"rate": 1, "per": math.nan}, {"rate": 100_001},
    {"rate": 1e-9, "burst": 100_000},
]  # fmt: skip


@pytest.mark.parametrize(("text", "found", "interval"), GOOD)
def test_L3_rate_is_read_as_written(text: str, found: Rate, interval: int) -> None:
    assert policy.rate(text) == found
    assert found.interval == interval


@pytest.mark.parametrize("text", BAD)
def test_L3_text_that_is_no_rate_is_refused_with_one_that_is(text: str) -> None:
    for read in (policy.rate, policy.rate_per_minute):
        with pytest.raises(ValueError, match=r"like 20/5|admits nothing or everything"):
            read(text)


@pytest.mark.parametrize("given", NO_RATES, ids=str)
def test_L3_rate_that_admits_nothing_or_everything_cannot_be_declared(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="admits nothing or everything"):
        Rate(**given)  # type: ignore[arg-type]  # a burst is whole


@given(st.integers(1, 10**6), st.integers(1, 10**5), st.sampled_from([1, 60]))
def test_L3_rate_survives_being_shown(thousandths: int, burst: int, per: int) -> None:
    rate = Rate(thousandths / 1000, burst, per)
    read = policy.rate if per == 1 else policy.rate_per_minute

    assert math.isclose(read(f"{rate.rate:.3f}/{burst}").interval, rate.interval, rel_tol=1e-6)
    # Exact to the microsecond also in Lua, whose numbers are doubles
    assert rate.interval * burst + 2_200_000_000 * 1_000_000 < 2**53


def test_L1_rate_per_minute_is_sixty_times_slower() -> None:
    assert policy.rate_per_minute("300/60") == Rate(300, 60, per=60)
    assert policy.rate_per_minute("300/60").interval == 200_000
    assert policy.rate_per_minute(Rate(1, 2, per=3)) == Rate(1, 2, per=3)
    assert policy.rate(Rate(1, 2, per=3)) == Rate(1, 2, per=3)


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "1e3", "many", " 5", "1" * 10])
def test_L4_text_that_is_no_number_of_units_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="whole number above 0"):
        policy.count(text)


@pytest.mark.parametrize("units", [0, -1, 10**9])
def test_L4_budget_that_admits_nothing_or_everything_cannot_be_declared(units: int) -> None:
    with pytest.raises(ValueError, match=re.escape(f"PerDay({units})")):
        PerDay(units)


def test_L3_names_are_read_once_each() -> None:
    assert policy.by_name(["a=20/5", "b.c-d=1/1"], policy.rate) == {"a": Rate(20, 5), "b.c-d": Rate(1, 1)}
    assert policy.by_name([], policy.rate) == {}
    assert PerDay(policy.count("100")) == PerDay(100)


@pytest.mark.parametrize("items", [["a"], ["=1"], ["a="], ["a=1", "a=2"], ["a=x"], ["a=1=2"]])
def test_L3_item_that_is_malformed_is_quoted(items: list[str]) -> None:
    with pytest.raises(ValueError, match=re.escape(items[-1])):
        policy.by_name(items, policy.count)
