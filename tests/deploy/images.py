"""Images, really built by buildah and run by podman, without a registry and without a daemon."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.deploy.machine import PATIENCE, as_root, certificates, distribution, is_debian, mirror, run

BASE: Final = "localhost/python:base"
"""The stand-in for Python's own image: Debian with Python where that image has it, and pip beside it."""

_PROGRAMS: Final = {"buildah": "buildah", "podman": "podman", "runc": "runc", "mmdebstrap": "mmdebstrap"}
_PYTHON: Final = ("python3", "python3-venv", "python3-pip", "ca-certificates", "netbase", "tzdata")
_LAYOUT: Final = """\
set -eu
cd "$1"
place=$(echo usr/local/lib/python3.*)
mkdir "$place/site-packages"
rm -rf "$place/dist-packages"
ln -s site-packages "$place/dist-packages"
mv usr/lib/python3/dist-packages/pip* "$place/site-packages/"
mv usr/lib/python3.*/ensurepip "$place/"
mv usr/bin/pip* usr/local/bin/
rm -f usr/lib/python3.*/EXTERNALLY-MANAGED
ln -s /usr/bin/python3 usr/local/bin/python3
ln -s python3 usr/local/bin/python
"""
"""Moves Debian's Python to where Python's own image has it."""
_SETTINGS: Final = """\
[containers]
default_ulimits = ["nofile=8192:8192", "nproc=4096:4096"]
[engine]
runtime = "{runc}"
"""
"""podman asks for limits that a machine inside a container may not grant, and Debian's crun fails there."""


@dataclass(frozen=True)
class Images:
    """A store of images and containers of its own.

    Args:
        folder: Where it is kept; large.
    """

    folder: Path

    def prepare(self) -> None:
        """Make the store and the base image.

        Raises:
            RuntimeError: If a program is missing.
        """
        if missing := [package for name, package in _PROGRAMS.items() if not shutil.which(name)]:
            raise RuntimeError(f"apt-get install {' '.join(missing)}; `scripts/setup.sh --test-packages` does it")
        settings = _SETTINGS.format(runc=shutil.which("runc"))
        (self.folder / "containers.conf").write_text(settings, encoding="utf-8")
        layout = self.folder / "layout"
        layout.write_text(f"#!/bin/sh\n{_LAYOUT}", encoding="utf-8")
        layout.chmod(0o755)
        tree = self.folder / "base.tar"
        suite, components = ("trixie", "main") if is_debian() else (distribution()["VERSION_CODENAME"], "main,universe")
        options = ["--quiet", "--variant=minbase", f"--components={components}", "--dpkgopt=force-unsafe-io"]
        options += [f"--include={','.join(_PYTHON)}", f'--customize-hook={layout} "$1"']
        run(*as_root(), "mmdebstrap", *options, suite, tree, mirror())
        path = "PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
        self.podman("import", "--quiet", "--change", f"ENV {path}", "--change", 'CMD ["python3"]', str(tree), BASE)

    def podman_command(self, *arguments: str) -> list[str]:
        """Return podman's command on this store."""
        return self._command("podman", arguments)

    def podman(self, *arguments: str, timeout: float = PATIENCE) -> str:
        """Run podman, which must succeed; return what it printed."""
        return run(*self.podman_command(*arguments), timeout=timeout).strip()

    def inspect(self, image: str) -> dict[str, Any]:
        """Return what podman knows of an image."""
        found: dict[str, Any] = json.loads(self.podman("image", "inspect", image))[0]
        return found

    def layers(self, image: str) -> dict[str, int]:
        """Return the layers of an image by digest, each with its size in bytes."""
        digests = self.inspect(image)["RootFS"]["Layers"]
        history = json.loads(self.podman("history", "--format=json", image))
        sizes = [entry["size"] for entry in reversed(history) if entry["size"]]
        return dict(zip(digests, sizes, strict=True))

    def build(
        self,
        context: Path,
        tag: str,
        *options: str,
        file: str = "deploy/Dockerfile",
        given: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Build an image; layers of earlier builds serve again.

        Args:
            context: The folder that is sent.
            tag: What the image is called.
            options: Further options of `buildah build`.
            file: The Dockerfile, seen from the context.
            given: Build arguments beside those for this machine's index and certificates.
        """
        inside = "/run/secrets/ca"
        values = {"BASE_IMAGE": BASE, "SSL_CERT_FILE": inside, "PIP_CERT": inside}
        if index := os.environ.get("UV_DEFAULT_INDEX", os.environ.get("UV_INDEX_URL")):
            values |= {"UV_DEFAULT_INDEX": index, "PIP_INDEX_URL": os.environ.get("PIP_INDEX_URL", index)}
        arguments = [f"--build-arg={name}={value}" for name, value in (values | dict(given or {})).items()]
        how = ["--isolation=chroot", "--pull=never", "--network=host", "--format=docker", "--layers", "--force-rm"]
        secret = f"--secret=id=ca,src={certificates()}"
        command = self._command(
            "buildah",
            ["bud", *how, secret, *arguments, *options, "--file", str(context / file), "--tag", tag, str(context)],
        )
        return subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            stdin=subprocess.DEVNULL,
        )

    def remove(self) -> None:
        """Remove every container, and the store."""
        subprocess.run(self.podman_command("rm", "--all", "--force", "--time=0"), capture_output=True, timeout=PATIENCE)
        # A build that failed leaves its container, and that a mount.
        subprocess.run(self._command("buildah", ["rm", "--all"]), capture_output=True, timeout=PATIENCE)
        subprocess.run([*as_root(), "umount", "-l", str(self.folder / "root" / "overlay")], capture_output=True)
        subprocess.run([*as_root(), "rm", "-rf", str(self.folder)], capture_output=True, timeout=PATIENCE)

    def _command(self, program: str, arguments: Sequence[str]) -> list[str]:
        conf = f"CONTAINERS_CONF={self.folder / 'containers.conf'}"
        places = ["--root", str(self.folder / "root"), "--runroot", str(self.folder / "run")]
        return [*as_root(), "env", conf, program, *places, *arguments]
