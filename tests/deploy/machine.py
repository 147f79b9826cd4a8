"""What this machine can give to the tests of containers: root, a Debian mirror, programs of a newer Debian."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

PATIENCE = 300.0
"""Seconds after which a program that fetches or builds counts as stuck."""

_SOURCES = Path("/etc/apt")
_PLUGINS = tuple(Path(f"/usr/{place}/docker/cli-plugins") for place in ("local/libexec", "local/lib", "libexec", "lib"))
_ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def as_root() -> tuple[str, ...]:
    """Return what stands before a command that only root may run.

    Raises:
        RuntimeError: If this user cannot become root without a password.
    """
    if os.geteuid() == 0:
        return ()
    if shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
        return ("sudo", "-n", "-E")
    raise RuntimeError("images are built and run as root here: run the tests as root, or allow sudo without a password")


def run(*command: str | Path, timeout: float = PATIENCE, cwd: Path | None = None) -> str:
    """Run a command that must exit 0; return what it wrote to standard output."""
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


@functools.cache
def distribution() -> Mapping[str, str]:
    """Return what `/etc/os-release` says."""
    lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    return {name: value.strip('"') for name, _, value in (line.partition("=") for line in lines)}


def is_debian() -> bool:
    """Tell Debian, whose images Python's own are made from, from what descends from it."""
    return distribution()["ID"] == "debian"


@functools.cache
def mirror() -> str:
    """Return the package mirror that this machine uses.

    Raises:
        RuntimeError: If apt has no source that is served over HTTP.
    """
    for path in sorted((*_SOURCES.glob("sources.list.d/*.sources"), *_SOURCES.glob("sources.list*"))):
        words = path.read_text(encoding="utf-8").split() if path.is_file() else []
        for word in words:
            if word.startswith(("http://", "https://")) and "security" not in word and "snapshot" not in word:
                return word
    raise RuntimeError("no package mirror in /etc/apt: these tests make their base image from one")


def certificates() -> Path:
    """Return the authorities that this machine trusts; a registry behind a proxy may need more than the usual ones."""
    return Path(os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt"))


@functools.cache
def compose() -> Path:
    """Return Docker's Compose 2: this machine's, or the one of a newer Debian, since Debian 12 has version 1 alone."""
    fetched = (Path(run(_ROOT / "scripts" / "newer_debian.sh", "trixie", "docker-compose").strip()) for _ in "1")
    for folder in (*_PLUGINS, *(home / "usr/libexec/docker/cli-plugins" for home in fetched)):
        if (folder / "docker-compose").is_file():
            return folder / "docker-compose"
    raise RuntimeError("there is no Compose 2 here: install docker-compose-v2")
