"""The table of the laboratory: a row for each release, printed and published (M3)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Final

from tests.render.support import ROOT
from tests.update.lanes import Outcome

PAGE: Final = ROOT / "docs/updating.md"
_COLUMNS: Final = ("from", "lanes", "conflicts", "lines", "lost", "else wrong", "seconds", "gates")
SAMPLE: Final = re.compile(r"\*\*A sample\*\*: the table shows ([\d,]+) of ([\d,]+) lanes[^\n]*\n\n")
"""What the page says before the table, for as long as it is not of a full run."""
_PLACE: Final = re.compile(r"(<!-- laboratory: begin -->\n).*?(<!-- laboratory: end -->)", flags=re.DOTALL)


def _row(outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    accounts = [outcome.account for outcome in outcomes]
    counted = ("conflicts", "lost")
    others = sum(len(one.wrong.keys() - set(counted)) for one in accounts)
    gated = [outcome for outcome in outcomes if outcome.gates is not None]
    passed = sum(not outcome.gates for outcome in gated)
    return (
        str(outcomes[0].lane.release),
        str(len(outcomes)),
        str(sum(len(one.conflicts) for one in accounts)),
        f"{sum(one.lines for one in accounts):,}",
        str(sum(len(one.lost) for one in accounts)),
        str(others),
        f"{median(outcome.seconds for outcome in outcomes):.1f}",
        f"{passed} of {len(gated)}" if gated else "",
    )


def table(outcomes: Iterable[Outcome]) -> str:
    """Return a table in Markdown; outcomes of one release stand together."""
    by_release: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_release.setdefault(outcome.lane.release.tag, []).append(outcome)
    rows = [_COLUMNS, ("---", *("---:",) * (len(_COLUMNS) - 1)), *map(_row, by_release.values())]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def published() -> list[list[str]]:
    """Return the cells of the rows that the page shows, without its heads."""
    found = _PLACE.search(PAGE.read_text(encoding="utf-8"))
    assert found, f"{PAGE} has no place for the table"
    lines = [line for line in found.group().splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def publish(text: str, when: str) -> None:
    """Put the table of a full run into the page, with how and when it was made; it is no sample any more."""
    page = SAMPLE.sub("", PAGE.read_text(encoding="utf-8"))
    shown = f"\n{text}\nMade by `make laboratory` on {when}.\n\n"
    PAGE.write_text(_PLACE.sub(lambda found: found[1] + shown + found[2], page), encoding="utf-8")
