"""The releases that the laboratory updates from (M3)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.render.support import ROOT, succeed
from tests.update import releases
from tests.update.releases import Release, released, write_release


def tree(folder: Path) -> dict[str, bytes]:
    """Map each file of a folder to what it holds."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("version", ["0.1.0", "0.5.0"])
def test_M3_archive_of_releases_is_what_history_holds(version: str, tmp_path: Path) -> None:
    (release,) = [one for one in released() if one.version == version]
    for name, one in (("found", release), ("kept", replace(release, commit=""))):
        (tmp_path / name).mkdir()
        write_release(tmp_path / name, one)

    assert tree(tmp_path / "found") == tree(tmp_path / "kept") != {}


def test_M3_clone_without_history_takes_the_releases_of_the_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    succeed("git", "clone", "--quiet", "--depth=1", ROOT.as_uri(), "shallow", cwd=tmp_path)
    monkeypatch.setattr(releases, "ROOT", tmp_path / "shallow")

    found = released.__wrapped__()

    assert found == tuple(Release(f"0.{minor}.0") for minor in range(1, 6))
