"""`make laboratory`: live through every lane of every release, print the table, publish it in docs/updating.md (M3)."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from datetime import UTC, datetime

from tests.render.support import environment
from tests.update.gates import failures, lock
from tests.update.lanes import Lane, Outcome, all_lanes, lanes_of, live_through, slug_of
from tests.update.releases import past
from tests.update.table import publish, table

_BUILDING = ("builds", "crlf")
"""Lives that leave a server to run; the others delete parts of it."""


def _apart() -> None:
    os.environ.update(environment())


def _live(lane: Lane, with_gates: bool) -> Outcome:
    """Live through a lane, and through its project's own gates; its folder is gone afterwards."""
    outcome = live_through(lane, with_lock=with_gates)
    if not outcome.account.stopped:
        outcome.account.lock = lock(outcome.project)
        if with_gates:
            outcome = replace(outcome, gates=failures(outcome.project, slug_of(outcome.project)))
    shutil.rmtree(outcome.project.parent, ignore_errors=True)
    return outcome


def _planned(only: str | None, most: int | None, gates: int) -> list[tuple[Lane, bool]]:
    """Return every lane, and whether its project's gates run: in the first ones of each release that keep a server."""
    planned = []
    for release in past():
        if only in (None, release.version):
            lanes = lanes_of(release)[:most]
            gated = [lane for lane in lanes if lane.life in _BUILDING][:gates]
            planned += [(lane, lane in gated) for lane in lanes]
    return planned


def is_published(*, clean: bool, lanes: Sequence[Lane]) -> bool:
    """Tell whether the page shows a run: one in which nothing is red and no lane is left out."""
    return clean and list(lanes) == all_lanes()


def main() -> int:
    """Return the exit code: 1 if an update broke a promise."""
    parser = argparse.ArgumentParser(prog="python -m tests.update", description=__doc__)
    parser.add_argument("--only", metavar="VERSION", help="lanes of one release, shown and not published")
    parser.add_argument("--gates", type=int, default=1, help="lanes of each release whose project runs its own gates")
    more = "at most so many lanes of each release, each life once in three; shown and not published"
    parser.add_argument("--lanes", type=int, help=more)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many lanes at once")
    arguments = parser.parse_args()
    _apart()
    started, planned = time.monotonic(), _planned(arguments.only, arguments.lanes, arguments.gates)
    print(f"{len(planned)} lanes", flush=True)
    outcomes: list[Outcome] = []
    with ProcessPoolExecutor(arguments.jobs, initializer=_apart) as pool:
        for done in as_completed(pool.submit(_live, *one) for one in planned):
            outcome = done.result()
            outcomes.append(outcome)
            mark = "ok" if outcome.is_clean else f"RED {outcome.account.wrong} {outcome.gates or ''}"
            print(f"  {len(outcomes):3}  {outcome.seconds:5.1f} s  {outcome.lane}: {mark}", flush=True)
    order = {lane: number for number, (lane, _) in enumerate(planned)}
    shown = table(sorted(outcomes, key=lambda outcome: order[outcome.lane]))
    print(f"\n{shown}\n{time.monotonic() - started:.0f} s")
    clean = all(outcome.is_clean for outcome in outcomes)
    if is_published(clean=clean, lanes=[lane for lane, _ in planned]):
        publish(shown, f"{datetime.now(UTC):%Y-%m-%d}")
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
