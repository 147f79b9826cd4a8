"""What `make release` needs of this repository (M7)."""

from __future__ import annotations

import os
import subprocess

from tests.render.support import ROOT, TEMPLATE

VERSION_FILE = f"{TEMPLATE}/chassis/pyproject.toml"


def test_M7_make_release_passes_the_version_and_the_arguments_on() -> None:
    done = subprocess.run(
        ["make", "--dry-run", "release", "VERSION=0.6.0", "ARGS=--dry-run"],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=True,
    )

    assert "scripts/setup.sh python scripts/release.py '0.6.0' --dry-run" in done.stdout


def test_M7_files_that_a_release_changes_are_as_it_expects_them() -> None:
    version = (ROOT / VERSION_FILE).read_text(encoding="utf-8").partition('\nversion = "')[2].partition('"')[0]

    assert f"Version {version}" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"\n## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
