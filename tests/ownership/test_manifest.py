"""The manifest that both engines render lists what an update replaces, and nothing else, with its digests (M4).

That cookiecutter writes the same bytes is what tests/render/test_parity.py compares.
"""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from mcp_chassis.checks.ownership import ANSWERS, MANIFEST
from scripts.derive_owned import derive, tracked
from tests.render.support import (
    CONFIG,
    ROOT,
    TEMPLATE,
    Answers,
    by_copier,
    files,
    is_yours,
    label,
    matrix,
    render_by_copier,
    template,
)


def listed(text: bytes) -> dict[str, str]:
    """Map each file that a manifest lists to its digest."""
    lines = [line for line in text.decode().splitlines() if not line.startswith("#")]
    return {path: digest for digest, path in (line.split("  ") for line in lines)}


@pytest.mark.parametrize("answers", matrix(), ids=label)
def test_M4_manifest_lists_what_an_update_replaces_and_nothing_else(answers: Answers) -> None:
    rendered = files(by_copier(answers))

    templates = {name for name in rendered if not is_yours(name)} - {MANIFEST, ANSWERS}

    assert listed(rendered[MANIFEST]) == {name: hashlib.sha256(rendered[name]).hexdigest() for name in templates}
    assert list(listed(rendered[MANIFEST])) == sorted(templates)


def test_M4_sha256sum_reads_the_manifest_and_finds_an_edit(project: Path) -> None:
    check = ["sha256sum", "--check", "--quiet", "--strict", MANIFEST]

    before = subprocess.run(check, cwd=project, capture_output=True, text=True, check=False)
    (project / "deploy/Dockerfile").write_text("FROM scratch\n", encoding="utf-8")
    after = subprocess.run(check, cwd=project, capture_output=True, text=True, check=False)

    assert (before.returncode, before.stdout, before.stderr) == (0, "", "")
    assert (after.returncode, after.stdout) == (1, "deploy/Dockerfile: FAILED\n")


def test_M4_list_of_the_manifest_follows_the_tree_and_copier_yml() -> None:
    text = (ROOT / TEMPLATE / MANIFEST).read_text(encoding="utf-8")

    assert text == derive(tracked(), CONFIG), "run: python scripts/derive_owned.py"


def test_M4_file_of_the_templates_whose_name_depends_on_an_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="must not depend on an answer"):
        derive(["chassis/{{cookiecutter.project_slug}}.py"], CONFIG)


def test_M4_detached_files_are_left_out_and_named(tmp_path: Path) -> None:
    answers = (("detached", "[deploy/Dockerfile, .github/workflows/probe.yaml]"),)

    rendered = files(render_by_copier(template(), tmp_path / "project", answers))

    gone = {"deploy/Dockerfile", ".github/workflows/probe.yaml"}
    assert gone.isdisjoint(rendered)
    assert set(listed(rendered[MANIFEST])) == set(listed(files(by_copier())[MANIFEST])) - gone
    named = [line for line in rendered[MANIFEST].decode().splitlines() if line.startswith("# detached")]
    assert named == ["# detached  .github/workflows/probe.yaml", "# detached  deploy/Dockerfile"]


@pytest.mark.parametrize("answer", ["deploy/Dockerfile", "['../x']", "[/etc/passwd]", "['*']", "[1]", "{a: b}", "null"])
def test_M4_detached_that_is_no_list_of_paths_is_refused(answer: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="detached"):
        render_by_copier(template(), tmp_path / "project", (("detached", answer),))
