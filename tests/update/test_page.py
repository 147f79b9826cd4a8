"""The published table is the laboratory's, of every release and with nothing lost (M3)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.update import table
from tests.update.__main__ import is_published
from tests.update.lanes import all_lanes, lanes_of
from tests.update.releases import current_version, past, released
from tests.update.table import PAGE, SAMPLE, publish, published


def test_M3_page_names_every_release_that_is_past() -> None:
    shown = {row[0] for row in published()}

    # A release that is being cut is in history before the laboratory can have updated from it.
    assert {str(release) for release in past() if release.version != current_version()} <= shown


def test_M3_page_shows_no_conflict_and_no_lost_line() -> None:
    for _, lanes, conflicts, lines, lost, wrong, _, gates in published():
        passed, _, ran = gates.partition(" of ")

        assert (conflicts, lost, wrong) == ("0", "0", "0")
        assert int(lanes) > 1
        assert int(lines.replace(",", "")) > int(lanes)
        assert passed == ran != "0"


def test_M3_page_shows_every_lane_or_says_how_many_it_shows() -> None:
    shown = {row[0]: int(row[1]) for row in published()}
    said = SAMPLE.search(PAGE.read_text(encoding="utf-8"))

    if said:
        assert sum(shown.values()) == int(said[1]) < int(said[2])
    else:
        # What a release asked changes no more; made-up ones ask what is asked now.
        kept = [release for release in released() if release.version != current_version()]
        assert [str(release) for release in kept if shown[str(release)] < len(lanes_of(release))] == []


def test_M3_a_thinned_or_a_red_run_is_not_published() -> None:
    lanes = all_lanes()

    assert is_published(clean=True, lanes=lanes)
    assert not is_published(clean=False, lanes=lanes)
    assert not is_published(clean=True, lanes=lanes[:-1])


def test_M3_a_full_run_takes_the_word_of_the_sample_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = "<!-- laboratory: begin -->\n{}<!-- laboratory: end -->\n"
    sample = "**A sample**: the table shows 3 of 9 lanes, for now.\n\n"
    monkeypatch.setattr(table, "PAGE", tmp_path / "page.md")
    table.PAGE.write_text(f"Before.\n\n{sample}{place.format('old')}", encoding="utf-8")

    publish("| new |\n", "2027-01-01")

    new = "\n| new |\n\nMade by `make laboratory` on 2027-01-01.\n\n"
    assert table.PAGE.read_text(encoding="utf-8") == f"Before.\n\n{place.format(new)}"
