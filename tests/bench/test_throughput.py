"""Throughput counts only calls that were served, and its report shows what was found (issue 9)."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import contenders, running
from bench.contenders import CEILING, FASTMCP, GENERATED, QUICKSTART, Serving
from bench.figures import Chart, Figure, Goal, Invalid, Measurement, Series
from bench.plots import drawn
from bench.report import Report
from bench.throughput import Lane, charts, figures, lane, told_lane
from bench.wrk import TOOL, Found, Wire, load, opened, read
from tests.live.curl import ERAS, HANDSHAKE, STATELESS, Conversation, Era
from tests.live.project import folder, make_real

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(sys.executable)
"""The environment of the tests has what the contenders need."""
_WRK = "\nfound {} 2000000 {} {} 1500 9000\n{}\n"
"""Calls, microseconds, calls without an answer, wrong answers, median, p99, the first wrong answer."""


def test_rate_is_answers_a_second_and_waits_are_milliseconds() -> None:
    assert read("Running…" + _WRK.format(5000, 0, 0, ""), 0.25) == Found(2500, 1.5, 9, 0.25, 5000)


@pytest.mark.parametrize("told", [_WRK.format(5000, 0, 1, "401 no key"), _WRK.format(5000, 1, 0, ""), "Killed"])
def test_one_call_that_was_not_served_makes_it_invalid(told: str) -> None:
    with pytest.raises(Invalid):
        read(told, 0.25)


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Serving]:
    with contenders.serving(CEILING, HERE, tmp_path) as serving:
        yield serving


def test_every_answer_is_checked_for_its_form_and_its_content(
    plain: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = asyncio.run(opened([Conversation(plain.url, STATELESS)]))

    assert load(wire, 2, 1, folder=tmp_path).calls > 0
    with pytest.raises(Invalid, match=r"answered wrong.*200"):
        load(replace(wire, json=False), 2, 1, folder=tmp_path)
    monkeypatch.setattr("bench.wrk._TEXT", "bread")
    with pytest.raises(Invalid, match=r"answered wrong.*milk"):
        load(wire, 2, 1, folder=tmp_path)


def test_generated_server_is_called_with_keys_in_both_eras_and_forms(tmp_path: Path) -> None:
    made = make_real(folder() / "project")
    shutil.copy(Path(contenders.__file__).parent / "generated/tools/echo.py", made.source / "tools")

    with contenders.generated(made, tmp_path) as serving:
        with pytest.raises(Invalid, match="401"):
            asyncio.run(opened([Conversation(serving.url, STATELESS)]))
        lanes = [lane(serving, HANDSHAKE, 2), lane(serving, STATELESS, 2)]
        lanes.append(told_lane(lanes[0]))
        for taken in lanes:
            taken.run(2, 1, tmp_path)

    assert [taken.title for taken in lanes] == ["generated (JSON)"] * 2 + ["generated, tool that may notify (SSE)"]
    log = (tmp_path / "generated.log").read_text(encoding="utf-8")
    served = sum(found.calls for taken in lanes for found in taken.found[2])
    assert log.count('"tool_called"') >= served, "each call has its line"


@pytest.mark.parametrize("contender", [QUICKSTART, FASTMCP], ids=lambda one: one.name)
def test_others_serve_the_same_tool(contender: contenders.Contender, tmp_path: Path) -> None:
    with contenders.serving(contender, HERE, tmp_path) as serving:
        forms = {str(era): lane(serving, era, 1).wire.form for era in ERAS}

    assert forms == {"handshake": "SSE", "stateless": "JSON"}


def _lane(name: str, era: Era, *rates: float) -> Lane:
    wire = Wire([], TOOL, json=True)
    found = {count: [Found(rate, 1, 2, 0.1, 100) for rate in rates] for count in (1, 16)}
    return Lane(name, era, 1, wire, found, {count: [50.0 for _ in rates] for count in (1, 16)})


def test_ratio_is_one_of_medians_with_the_spread_of_the_rounds() -> None:
    lanes = [_lane(GENERATED, HANDSHAKE, 90, 100, 300), _lane(QUICKSTART.name, HANDSHAKE, 100, 100, 100)]

    found = {figure.what: figure for figure in figures([*lanes, _lane(FASTMCP.name, HANDSHAKE, 50, 50, 100)])}

    ours = found["handshake, 16 connections: generated (JSON) / SDK quickstart (JSON)"]
    assert (ours.value, ours.spread, ours.verdict, ours.shown) == (1.0, (0.9, 3.0), "met", True)
    assert found["handshake, 16 connections: generated (JSON) / FastMCP (JSON)"].verdict == "met"
    assert not found["handshake, 1 connection: generated (JSON) / FastMCP (JSON)"].shown
    assert found["handshake, 16 connections: generated (JSON)"].value == 100
    assert found["handshake, 1 connection: generated (JSON), p99"].value == 2


def test_picture_shows_every_rate_and_is_readable_on_black() -> None:
    lanes = [_lane(name, era, 100, 200) for era in ERAS for name in (GENERATED, "A <b> & c", CEILING.name)]

    alone, many, wait = charts(list(figures(lanes)))

    assert [chart.name for chart in (alone, many, wait)] == ["throughput-1", "throughput-16", "throughput-wait"]
    assert [value for _, value, _ in wait.series[0].bars] == [1, 1]
    tree = ElementTree.fromstring(text := drawn(many))
    bars = [part.get("class") for part in tree.iter("{http://www.w3.org/2000/svg}rect")]
    assert bars == ["mine", "other", "mine", "other"]
    assert "150" in [part.text for part in tree.iter("{http://www.w3.org/2000/svg}text")], "the median of both rounds"
    assert "prefers-color-scheme: dark" in text


def test_published_table_replaces_the_last_one_and_pictures_of_earlier_runs_go(tmp_path: Path) -> None:
    shown, hidden = Figure("a ratio", 2.5, goal=Goal("at least", 2), shown=True), Figure("else", 1)
    missed = Figure("missed", 1, goal=Goal("at least", 2))
    chart = Chart("made-up", "Made up", (Series("one", (("bar", 1, None),)),))
    measurement = Measurement("made-up", "Is it?", "None.", lambda _effort, _tell: (), lambda _figures: [chart])
    report = Report("make bench", "full", "2026-01-01 00:00 UTC", True, {}, [(measurement, [shown, hidden, missed])])
    page = tmp_path / "page.md"
    page.write_text((ROOT / "README.md").read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "earlier.svg").write_text("", encoding="utf-8")

    report.write(tmp_path)
    report.publish(page)
    once = page.read_text(encoding="utf-8")
    report.publish(page)

    assert [path.name for path in tmp_path.glob("*.svg")] == ["made-up.svg"]
    assert "![Made up](made-up.svg)" in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "| a ratio | 2.50 |  |  | ≥ 2 | ✓ met |" in once
    assert "| else |" not in once
    assert "| missed | 1 |  |  | ≥ 2 | ✗ missed |" in once
    assert "1 of 2 goals are met" in once
    assert page.read_text(encoding="utf-8") == once


def test_every_protection_is_on_in_what_is_measured() -> None:
    for variables in (contenders._PRODUCTION, running._ROOM):
        assert "0" not in variables.values()
        assert variables["MCP_AUTH"] == "keys"
