"""The engine of every check: a list of them over a subject, and its report (DESIGN 11)."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable

import anyio
import pytest

from mcp_chassis.checks import Check, Finding, Nothing, Profile, Result, examine, failed, judged, write
from tests.chassis.client import JSON, Client, exchange
from tests.chassis.serving import chassis
from tests.chassis.tools import Story, chassis_server


def of(*findings: Finding) -> list[Result]:
    """Return what the engine makes of a check's findings."""
    return anyio.run(examine, [Check("T1", "asked", "the rule", "the remedy", lambda _: findings)], "subject")


def said(results: list[Result], *, as_json: bool = False) -> str:
    """Return the report."""
    stream = io.StringIO()
    write(results, stream, as_json=as_json)
    return stream.getvalue()


def test_G3_a_function_joins_a_profile_with_its_docstring_as_the_rule() -> None:
    profile: Profile[int] = Profile()

    @profile.check("T1", "make it larger")
    def above_three(number: int) -> Iterable[Finding]:
        """the number is above 3"""
        yield judged(number > 3, "here:1", str(number))

    (found,) = anyio.run(examine, profile, 2)

    assert (found.id, found.name, found.result, found.expected) == (
        "T1",
        "above_three",
        "fail",
        "the number is above 3",
    )
    assert (found.found, found.where, found.fix) == ("2", "here:1", "make it larger")


@pytest.mark.anyio
async def test_G3_a_check_may_ask_a_server_and_is_timed(story: Story) -> None:
    async def lists_tools(port: int) -> list[Finding]:
        answer = await exchange(port, Client(port, "stateless").request_bytes("tools/list", {}, accept=JSON))
        return [judged(answer.status == 200, f"http://127.0.0.1:{port}/mcp", str(answer.status))]

    async with chassis(chassis_server(story)) as port:
        (found,) = await examine([Check("G3", "lists", "tools/list answers", "start it", lists_tools)], port)

    assert (found.result, found.found) == ("pass", "200")
    assert found.where.endswith("/mcp")
    assert found.seconds > 0


def test_G3_what_could_not_be_seen_never_passes() -> None:
    def broken(_: str) -> Iterable[Finding]:
        raise RuntimeError("no route to host")

    (found,) = anyio.run(examine, [Check("T1", "broken", "", "", broken)], "subject")

    assert (found.result, found.found) == ("unseen", "RuntimeError: no route to host")
    assert failed([found])
    assert not failed(of(Finding("unseen", required=False)))


def test_G3_nothing_to_look_at_is_skipped_with_the_reason() -> None:
    def absent(_: str) -> Iterable[Finding]:
        raise Nothing("no compose.yaml")

    (found,) = anyio.run(examine, [Check("T1", "absent", "", "", absent)], "subject")

    assert (found.result, found.found) == ("skip", "no compose.yaml")
    assert [item.result for item in of()] == ["skip"]
    assert not failed([found, *of()])


def test_G3_each_wrong_place_is_told_and_the_good_ones_are_counted() -> None:
    good, bad = Finding("pass", "1 s", "a:1"), Finding("fail", "9 s", "b:2")

    assert [(item.result, item.found) for item in of(good, good, Finding("pass", "2 s", "a:2"))] == [
        ("pass", "1 s, and 1 more")
    ]
    assert [(item.result, item.where) for item in of(good, bad, Finding("fail", "8 s", "c:3"))] == [
        ("fail", "b:2"),
        ("fail", "c:3"),
    ]


def test_G3_report_tells_what_is_wrong_last_and_how_to_mend_it() -> None:
    text = said([*of(Finding("fail", "9 s", "b:2")), *of(Finding("skip", "none")), *of(Finding("pass", "1 s", "a:1"))])

    assert text.splitlines() == [
        "ok      T1   asked                   1 s (a:1)",
        "skip    T1   asked                   none",
        "FAILED  T1   asked                   9 s (b:2)",
        "          expected: the rule",
        "          fix: the remedy",
        "",
        "1 pass, 1 skip, 1 fail",
    ]


def test_G3_report_is_coloured_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    plain, terminal = io.StringIO(), io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)

    for stream in (plain, terminal):
        write(of(Finding("fail")), stream, as_json=False)

    assert "\x1b[31mFAILED" in terminal.getvalue()
    assert "\x1b" not in plain.getvalue()


def test_G3_report_for_programs_has_an_object_for_each_result() -> None:
    (found,) = json.loads(said(of(Finding("fail", "9 s", "b:2", fix="its own remedy")), as_json=True))

    assert found.pop("seconds") >= 0
    assert found == {
        "id": "T1",
        "name": "asked",
        "result": "fail",
        "expected": "the rule",
        "found": "9 s",
        "where": "b:2",
        "fix": "its own remedy",
        "required": True,
    }
