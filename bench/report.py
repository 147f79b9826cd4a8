"""The results, for a person, for a page and for a program."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.figures import Figure, Measurement
from bench.plots import drawn

COLUMNS: Final = ("what", "value", "unit", "spread", "goal", "verdict")
_MARKS: Final = {"met": "✓ met", "missed": "✗ missed", "": ""}
_COLOURS: Final = {"met": "32", "missed": "1;31", "": "0"}
Paint = Callable[[str, str], str]
_PLACE: Final = re.compile(r"(<!-- bench: begin -->\n).*?(<!-- bench: end -->)", flags=re.DOTALL)


@dataclass(frozen=True)
class Report:
    """What one run found.

    Args:
        command: How to take it again.
        effort: How much was measured.
        taken: When, in UTC.
        judged: Whether goals were judged.
        machine: On what.
        found: The figures of each measurement.
    """

    command: str
    effort: str
    taken: str
    judged: bool
    machine: Mapping[str, str]
    found: Sequence[tuple[Measurement, Sequence[Figure]]]

    @property
    def missed(self) -> list[str]:
        """The goals that were not reached, as lines."""
        return [
            f"{measurement.name}: {figure.what} is {number(figure.value)} {figure.unit}".rstrip()
            + f"; the goal is {figure.goal}"
            for measurement, figures in self.found
            for figure in figures
            if self.judged and figure.verdict == "missed"
        ]

    def _cells(self, figure: Figure) -> tuple[str, ...]:
        spread = "" if figure.spread is None else " … ".join(map(number, figure.spread))
        mark = _MARKS[figure.verdict] if self.judged else ""
        return figure.what, number(figure.value), figure.unit, spread, str(figure.goal or ""), mark

    def as_text(self, paint: Paint) -> str:
        """Return the tables for a terminal."""
        lines = []
        rows = [self._cells(figure) for _, figures in self.found for figure in figures]
        widths = [max(map(len, column)) for column in zip(COLUMNS, *rows, strict=True)]
        for measurement, figures in self.found:
            lines += ["", paint(measurement.name, "1") + f"  {measurement.question}", ""]
            lines.append("  " + paint(_aligned(COLUMNS, widths), "2"))
            for figure in figures:
                colour = _COLOURS[figure.verdict] if self.judged else "0"
                lines.append("  " + paint(_aligned(self._cells(figure), widths), colour))
        lines += ["", ", ".join(f"{name} {value}" for name, value in self.machine.items())]
        return "\n".join(lines)

    def as_page(self) -> str:
        """Return the page of the newest results."""
        lines = [
            "# The newest results",
            "",
            f"Written by `{self.command}` ({self.effort}) at {self.taken}. Times depend on the machine; compare within "
            "one run.",
            "",
            *(f"- {name}: {value}" for name, value in self.machine.items()),
        ]
        for measurement, figures in self.found:
            lines += ["", f"## {measurement.name}", "", measurement.question, ""]
            for chart in measurement.charts(figures):
                lines += [f"![{chart.title}]({chart.name}.svg)", ""]
            lines += _table([self._cells(figure) for figure in figures])
            lines += ["", f"How: {measurement.method}"]
        return "\n".join(lines) + "\n"

    def as_data(self) -> dict[str, Any]:
        """Return the same for programs."""
        measurements = [
            {
                "name": measurement.name,
                "question": measurement.question,
                "method": measurement.method,
                "figures": [self._as_data(figure) for figure in figures],
            }
            for measurement, figures in self.found
        ]
        head = {"command": self.command, "effort": self.effort, "taken": self.taken, "machine": dict(self.machine)}
        return {**head, "measurements": measurements}

    def _as_data(self, figure: Figure) -> dict[str, Any]:
        goal = None if figure.goal is None else {"word": figure.goal.word, "bound": figure.goal.bound}
        verdict = figure.verdict if self.judged else ""
        values = (figure.what, figure.value, figure.unit, figure.spread, goal, verdict)
        return dict(zip(COLUMNS, values, strict=True))

    def write(self, folder: Path) -> None:
        """Write page, data and pictures; pictures of an earlier run go."""
        folder.mkdir(parents=True, exist_ok=True)
        data = json.dumps(self.as_data(), indent=2, ensure_ascii=False)
        (folder / "latest.json").write_text(data + "\n", encoding="utf-8")
        (folder / "README.md").write_text(self.as_page(), encoding="utf-8")
        for picture in folder.glob("*.svg"):
            picture.unlink()
        for measurement, figures in self.found:
            for chart in measurement.charts(figures):
                (folder / f"{chart.name}.svg").write_text(drawn(chart), encoding="utf-8")

    def publish(self, page: Path) -> None:
        """Show the figures that matter most in the README of the repository, between its marks."""
        figures = [figure for _, found in self.found for figure in found]
        rows = [self._cells(figure) for figure in figures if figure.shown or figure.verdict == "missed"]
        goals = [figure.verdict for figure in figures if figure.goal is not None]
        told = f"{goals.count('met')} of {len(goals)} goals are met; each that is missed is among these."
        shown = "\n".join([*_table(rows), "", f"{told} Written by `{self.command}` at {self.taken}."])
        text = page.read_text(encoding="utf-8")
        if not _PLACE.search(text):
            raise ValueError(f"{page} has no place for the results of the bench")
        page.write_text(_PLACE.sub(lambda found: f"{found[1]}\n{shown}\n\n{found[2]}", text), encoding="utf-8")


def number(value: float) -> str:
    """Return three digits that say something, or all of a whole number."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, second, *rest = zip(cells, widths, strict=True)
    parts = [first[0].ljust(first[1]), second[0].rjust(second[1]), *(cell.ljust(width) for cell, width in rest)]
    return "  ".join(parts).rstrip()


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    return [_row(COLUMNS), _row(["---", "---:", *["---"] * (len(COLUMNS) - 2)]), *map(_row, rows)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
