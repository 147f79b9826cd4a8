#!/usr/bin/env python3
"""Pin the newest SDK in this clone, whatever the chassis allows, and print its version: scripts/newest_sdk.py [--pre]

With --pre the newest pre-release; if none is newer than the newest release, nothing is pinned or printed. `SDK` in
the environment holds another requirement than `mcp`. Commit nothing of it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHASSIS, ENVIRONMENT = "{{cookiecutter.project_slug}}/chassis/pyproject.toml", "pyproject.toml"
PACKAGES = ("mcp", "mcp-types")
"""They move together, and the second is a pre-release whenever the first is."""


def newest(*, pre: bool) -> list[str]:
    """Return the newest SDK as pins, the package itself first."""
    allowed = [f"--prerelease-package={name}={'allow' if pre else 'disallow'}" for name in PACKAGES]
    command = ["uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", *allowed, "-"]
    wanted = os.environ.get("SDK", "mcp")
    found = subprocess.run(command, cwd=ROOT.parent, input=wanted, stdout=subprocess.PIPE, text=True, check=True).stdout
    return [line for line in found.splitlines() if line.partition("==")[0] in PACKAGES]


def pin(pins: list[str]) -> None:
    """Ask for these pins in the chassis, which every render has, and over any other wish in our own environment.

    Raises:
        SystemExit: If a file does not look as it did.
    """
    listed = ", ".join(f'"{one}"' for one in pins)
    for name, pattern, replacement in (
        (CHASSIS, r'^  "mcp[=<>].*",$', f"  {listed},"),
        (ENVIRONMENT, r"^\[tool\.uv\]$", f"[tool.uv]\noverride-dependencies = [{listed}]"),
    ):
        text, count = re.subn(pattern, replacement, (ROOT / name).read_text("utf-8"), flags=re.MULTILINE)
        if count != 1:
            sys.exit(f"{name}: {count} lines are like {pattern}; one is expected")
        (ROOT / name).write_text(text, encoding="utf-8")


def main() -> None:
    """Pin and print."""
    pre = "--pre" in sys.argv[1:]
    pins = newest(pre=pre)
    if not pre or pins != newest(pre=False):
        pin(pins)
        print(pins[0].partition("==")[2])


if __name__ == "__main__":
    main()
