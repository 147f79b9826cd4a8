"""The published table is the laboratory's, of every release and with nothing lost (M3)."""

from __future__ import annotations

from tests.update.releases import current_version, past
from tests.update.table import published


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
