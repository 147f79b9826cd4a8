"""From every release to now, through a life in between: no conflict, no line lost (M3).

One lane of each release runs here; `make laboratory` runs them all.
"""

from __future__ import annotations

import pytest

from tests.update.lanes import a_lane_of, live_through
from tests.update.releases import past

FEW = 10
"""Lines that a team writes which rather deletes than builds."""


@pytest.mark.parametrize("number", range(len(past())), ids=[str(release) for release in past()])
def test_M3_update_to_now_has_no_conflict_and_loses_no_line(number: int) -> None:
    outcome = live_through(a_lane_of(number))

    assert outcome.account.wrong == {}
    assert outcome.account.lines > FEW
