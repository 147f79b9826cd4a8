"""`make rehearsal`: restart under load, count every call, keep the promise or say what broke."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from rehearsal.ledger import Count
from rehearsal.play import Kind, Part, name_of, play, stage
from rehearsal.pod import Trouble
from rehearsal.report import as_data, as_text
from tests.live.curl import ERAS

_INTERRUPTED: Final = 130
"""As a shell reports Ctrl-C."""
_QUICK: Final = Part("nginx", restarts=2, calls=400, speed=5)
_ABOUT: Final = """\
Play Kubernetes on this machine: two replicas, each behind its own edge, are replaced again and again as the rendered
Deployment says, while clients call without a pause. Then count: each call carries a mark of its own, which the tool
writes down and gives back, so a call that was lost, done twice, or given the answer of another one is seen.
"""
_EXAMPLES: Final = """\
what is real: the rendered project in production mode, nginx and Caddy with the rendered configurations, Redis, signals.
what is played: the kubelet (startup probes, readiness, preStop, SIGTERM, the edge's signal, SIGKILL at the end of the
grace), the Deployment's controller (a new pod first), the endpoints that arrive late at the balancer, the balancer.

examples:
  make rehearsal                                 both edges, then the stock SDK server behind both: half an hour
  make rehearsal ARGS='--quick'                  two restarts each, waits divided by 5: three minutes
  make rehearsal ARGS='--edge caddy --era stateless --restarts 3 --calls 500'

Exit codes: 0 every promise is kept, 1 one is broken, 2 wrong usage. The stock server is shown and not judged.
"""


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    found = argparse.ArgumentParser(
        prog="python -m rehearsal",
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    part = Part("nginx")
    found.add_argument("--restarts", type=int, help=f"rolling restarts, each of both replicas ({part.restarts})")
    found.add_argument("--calls", type=int, help=f"calls at least; they go on until the restarts end ({part.calls})")
    found.add_argument("--rate", type=float, default=part.rate, help=f"calls a second ({part.rate:g})")
    found.add_argument("--edge", choices=["nginx", "caddy", "both"], default="both", help="in front of each replica")
    found.add_argument("--era", choices=[*map(str, ERAS), "both"], default="both", help="of the calls")
    found.add_argument(
        "--longest",
        type=float,
        default=part.longest,
        metavar="SECONDS",
        help=f"of every fiftieth call ({part.longest:g}); every tenth takes 3, all others no time",
    )
    found.add_argument(
        "--lag",
        type=float,
        default=part.lag,
        metavar="SECONDS",
        help=f"until the balancer learns that a pod leaves ({part.lag:g}); the manifest's preStop must be longer",
    )
    found.add_argument(
        "--speed",
        type=float,
        metavar="N",
        help="divide the manifest's waits, the lag and the longest calls by N (1)",
    )
    found.add_argument("--stock", action="store_true", help="the stock SDK server as well, for comparison")
    found.add_argument("--quick", action="store_true", help="two restarts, 400 calls, --speed 5, unless told otherwise")
    found.add_argument(
        "--logs", type=Path, metavar="FOLDER", help="keep what everything said; a call's mark is its request id"
    )
    found.add_argument("--json", type=Path, metavar="FILE", help="write everything that was counted")
    return found


def parts(options: argparse.Namespace) -> list[Part]:
    """Return what is to be played, in order."""
    base = _QUICK if options.quick else Part("nginx")
    given = {name: getattr(options, name) for name in ("restarts", "calls", "rate", "speed", "lag", "longest")}
    base = replace(base, **{name: value for name, value in given.items() if value is not None})
    base = replace(base, eras=[era for era in ERAS if options.era in (era.name, "both")])
    edges = ["nginx", "caddy"] if options.edge == "both" else [options.edge]
    kinds: list[Kind] = ["chassis", "stock"] if options.stock else ["chassis"]
    return [replace(base, edge=edge, kind=kind) for kind in kinds for edge in edges]


def tell(text: str) -> None:
    """Say how far it is, on one line, where somebody is looking."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return the exit code."""
    options = parser().parse_args(arguments)
    counts: list[Count] = []
    judged: list[Count] = []
    try:
        with stage(options.logs) as folder:
            for part in parts(options):
                print(f"{name_of(part)}: {part.restarts} rolling restarts, {part.calls:,} calls", file=sys.stderr)
                counts.append(play(folder, part, tell))
                tell("")
                if part.kind == "chassis":
                    judged.append(counts[-1])
    except KeyboardInterrupt:
        print("stopped; nothing was counted", file=sys.stderr)
        return _INTERRUPTED
    except Trouble as trouble:
        print(f"the rehearsal broke off: {trouble}", file=sys.stderr)
        return 1
    print(as_text(counts))
    if options.json is not None:
        given = {name: value for name, value in vars(options).items() if name not in ("json", "logs")}
        options.json.write_text(json.dumps(as_data(counts, given), indent=2) + "\n", encoding="utf-8")
    broken = [line for one in judged for line in one.broken]
    for line in broken:
        print(f"broken: {line}", file=sys.stderr)
    if not broken:
        print("\nEvery call got its own answer, once, and every process ended with 0.")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
