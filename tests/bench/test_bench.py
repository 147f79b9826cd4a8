"""The bench works and writes what it declares; speeds are for people who look at them (issue 4)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from bench import __main__ as program
from bench.catalogue import MEASUREMENTS
from bench.figures import Effort, Figure, Goal, Measurement, Tell
from bench.report import COLUMNS
from bench.templating import Case, files, write_plain
from tests.render.support import environment

ROOT = Path(__file__).resolve().parents[2]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program as `make bench` does."""
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_cheapest_measurement_is_shown_and_kept_in_the_declared_columns(tmp_path: Path) -> None:
    done = bench("--tiny", "--only", "limit-check", "--output", str(tmp_path))

    assert done.returncode == 0, done.stderr
    data = json.loads((tmp_path / "latest.json").read_text(encoding="utf-8"))
    (measurement,) = data["measurements"]
    assert {"processor", "cores", "python", "mcp"} <= set(data["machine"])
    assert {tuple(figure) for figure in measurement["figures"]} == {COLUMNS}
    assert all(figure["value"] > 0 for figure in measurement["figures"])
    assert {str(figure["verdict"]) for figure in measurement["figures"]} == {""}, "tiny judges nothing"
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert f"| {' | '.join(COLUMNS)} |" in page
    assert all(figure["what"] in page and figure["what"] in done.stdout for figure in measurement["figures"])
    assert "\033" not in done.stdout, "colours are for terminals"
    assert "limit-check: done" in done.stderr


def test_help_names_every_measurement_and_the_exit_codes() -> None:
    told = bench("--help").stdout

    assert all(measurement.name in told for measurement in MEASUREMENTS)
    assert "1 a goal is missed" in told


@pytest.mark.parametrize(("value", "code"), [(2.0, 0), (2.1, 1)])
def test_missed_goal_is_told_and_is_exit_code_1(
    value: float, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def take(_effort: Effort, _tell: Tell) -> Iterable[Figure]:
        return [Figure("a ratio", value, goal=Goal("at most", 2))]

    monkeypatch.setattr(program, "MEASUREMENTS", (Measurement("made-up", "Is it?", "None.", take),))

    assert program.main(["--quick", "--only", "made-up"]) == code

    shown = capsys.readouterr()
    assert ("goal missed: made-up: a ratio is 2.10; the goal is ≤ 2" in shown.err) == bool(code)
    assert ("✗ missed" in shown.out) == bool(code)


def test_plain_template_has_as_many_files_as_large_and_copier_updates_it(tmp_path: Path) -> None:
    render = tmp_path / "render"
    for number in range(10):
        path = render / f"folder-{number % 3}" / f"file-{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x" * 300 * number, encoding="utf-8")
    case = Case(tmp_path / "template", tmp_path / "project", environment())

    write_plain(case, render)
    case.take()

    made = {path.relative_to(case.project): path.stat().st_size for path in files(case.project)}
    wanted = {path.relative_to(render): path.stat().st_size for path in files(render)}
    assert made.keys() == wanted.keys()
    assert all(abs(made[path] - wanted[path]) < 50 for path in wanted)
    assert "_commit: v2.0.0" in (case.project / ".copier-answers.yml").read_text(encoding="utf-8")
