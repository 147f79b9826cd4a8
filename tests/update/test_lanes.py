"""From every release to now, through a life in between: no conflict, no line lost (M3).

One lane of each release runs here; `make laboratory` runs them all.
"""

from __future__ import annotations

import pytest

from tests.update.gates import failures
from tests.update.lanes import a_lane_of, lanes_of, live_through, slug_of
from tests.update.releases import past

FEW = 10
"""Lines that a team writes which rather deletes than builds."""


@pytest.mark.parametrize("number", range(len(past())), ids=[str(release) for release in past()])
def test_M3_update_to_now_has_no_conflict_and_loses_no_line(number: int) -> None:
    outcome = live_through(a_lane_of(number))

    assert outcome.account.wrong == {}
    assert outcome.account.lines > FEW


@pytest.mark.parametrize("version", ["0.1.0"])
def test_M3_after_refresh_the_projects_own_gates_are_green_and_its_server_answers(version: str) -> None:
    (release,) = (release for release in past() if release.version == version)

    outcome = live_through(next(lane for lane in lanes_of(release) if lane.life == "builds"), with_lock=True)

    assert outcome.account.wrong == {}
    assert failures(outcome.project, slug_of(outcome.project)) == {}
