"""`make bench`: measure, show a table, keep the results."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bench.catalogue import MEASUREMENTS
from bench.figures import FULL, QUICK, TINY, Effort, Invalid, Tell
from bench.machine import facts
from bench.report import Report

ROOT: Final = Path(__file__).resolve().parent.parent
RESULTS: Final = ROOT / "bench" / "results"
_INTERRUPTED: Final = 130
"""As a shell reports Ctrl-C."""
_INVALID: Final = 3
_EXAMPLES: Final = """\
what is measured:
{measurements}

examples:
  make bench                                    all of it, about 20 minutes, into bench/results/
  make bench ARGS=--quick                       all of it, in a good two minutes
  make bench ARGS='--quick --only limit-check'  one of them, shown and not kept

Leave the machine alone meanwhile. Compare numbers of one run with each other, never with those of another machine.
Exit codes: 0 every goal is met, 1 a goal is missed, 2 wrong usage, 3 something was not served or is missing
and nothing is kept, 130 stopped.
"""


def paint(text: str, code: str) -> str:
    """Return `text` in a colour where somebody can see it."""
    return f"\033[{code}m{text}\033[0m" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    lines = "\n".join(f"  {measurement.name:16} {measurement.question}" for measurement in MEASUREMENTS)
    found = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure what the chassis costs and what it protects, and compare with the goals.",
        epilog=_EXAMPLES.format(measurements=lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    efforts = found.add_mutually_exclusive_group()
    less = "fewer rounds, 16 connections alone: a good two minutes"
    efforts.add_argument("--quick", dest="effort", action="store_const", const=QUICK, help=less)
    efforts.add_argument(
        "--tiny", dest="effort", action="store_const", const=TINY, help="show that it works; judges nothing"
    )
    names = [measurement.name for measurement in MEASUREMENTS]
    found.add_argument("--only", metavar="NAME", choices=names, action="append", help="one of them; may be repeated")
    found.add_argument(
        "--output",
        metavar="FOLDER",
        type=Path,
        help="where to keep the results; those of a whole run go to bench/results/ and into README.md",
    )
    found.set_defaults(effort=FULL)
    return found


def _teller(name: str, begun: float) -> Tell:
    """Return what says on standard error how far a measurement is."""
    return lambda text: print(f"[{time.monotonic() - begun:5.1f} s] {name}: {text}", file=sys.stderr, flush=True)


def _command(effort: Effort, only: Sequence[str]) -> str:
    """Return how somebody else takes the same numbers."""
    options = ([] if effort is FULL else [f"--{effort.name}"]) + [f"--only {name}" for name in only]
    return "make bench" + (f" ARGS='{' '.join(options)}'" if options else "")


def measured(effort: Effort, only: Sequence[str]) -> Report:
    """Take the measurements of these names, or all."""
    taken, machine, begun = datetime.now(UTC), facts(), time.monotonic()
    found = []
    for measurement in MEASUREMENTS:
        if not only or measurement.name in only:
            tell = _teller(measurement.name, begun)
            found.append((measurement, tuple(measurement.take(effort, tell))))
            tell("done")
    moment = taken.strftime("%Y-%m-%d %H:%M UTC")
    return Report(_command(effort, only), effort.name, moment, effort.judged, machine, found)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return the exit code."""
    options = parser().parse_args(arguments)
    effort: Effort = options.effort
    try:
        report = measured(effort, options.only or ())
    except KeyboardInterrupt:
        print("stopped; nothing is kept", file=sys.stderr)
        return _INTERRUPTED
    except (Invalid, FileNotFoundError, subprocess.CalledProcessError) as error:
        print(f"{paint('not measured:', '1;31')} {error}; nothing is kept", file=sys.stderr)
        return _INVALID
    print(report.as_text(paint))
    whole = effort is FULL and not options.only
    kept = options.output or (RESULTS if whole else None)
    if kept is not None:
        report.write(kept)
        if kept == RESULTS:
            report.publish(ROOT / "README.md")
        print(f"\nkept in {Path(os.path.relpath(kept))}/README.md and latest.json")
    if not effort.judged:
        print("\nToo little was measured to judge any goal.")
    elif not report.missed:
        print("\n" + paint("Every goal is met.", "32"))
    for line in report.missed:
        print(f"{paint('goal missed:', '1;31')} {line}", file=sys.stderr)
    return int(bool(report.missed))


if __name__ == "__main__":
    sys.exit(main())
