"""`ops owned` says whose each file is, `check ownership` what was done to the template's, and what else to use (M4)."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from mcp_chassis.checks.ownership import ANSWERS, INSTEAD, MANIFEST, instead, ownership
from tests.ownership.conftest import command, failures
from tests.render.support import ROOT, by_copier, files, is_yours

OVERLAY = Path("deploy/kubernetes/overlays/production")
OWN = [
    ".github/workflows/own.yaml",
    "deploy/compose.override.yaml",
    "deploy/kubernetes/overlays/staging/kustomization.yaml",
    "deploy/nginx/conf.d/balancer.http.conf",
    "deploy/secrets/state_url",
    "docs/page.md",
    "src/acme_notes/tools/own.py",
]
PASSED_BY = [".git/HEAD", ".venv/bin/python", ".mypy_cache/x.json", "src/__pycache__/x.pyc", "chassis/.ruff_cache/x"]


def put(name: str, text: str = "x\n") -> None:
    """Write a file of the project, and the folders that it is in."""
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text, encoding="utf-8")


def test_M4_owned_lists_every_file_once_with_its_owner(project: Path) -> None:
    for name in [*OWN, *PASSED_BY, "uv.lock", ".env.example", "schema/tools.json", "schema/tools.sha256"]:
        put(name)

    code, said = command("ops", "owned", "--json")

    found = {one["path"]: (one["owner"], one["state"]) for one in json.loads(said)}
    assert code == 0
    assert set(files(by_copier())) | set(OWN) <= set(found)
    assert not set(PASSED_BY) & set(found)
    derived = {"uv.lock", ".env.example", "schema/tools.json", "schema/tools.sha256"}
    wanted = {name: "yours" if is_yours(name) or name in OWN else "template" for name in found}
    assert found == {name: ("derived" if name in derived else owner, "") for name, owner in wanted.items()}


def test_M4_owned_counts_owners_and_marks_what_is_not_as_it_was(project: Path) -> None:
    put("deploy/Dockerfile")
    Path("deploy/compose.yaml").unlink()

    lines = command("ops", "owned")[1].splitlines()

    assert "template  changed   deploy/Dockerfile" in lines
    assert "template  missing   deploy/compose.yaml" in lines
    yours = sum(is_yours(name) for name in files(project))
    assert lines[-1] == f"{len(files(project)) + 1 - yours} template, {yours} yours"


def test_M4_fresh_project_and_one_with_files_of_ones_own_is_good(project: Path) -> None:
    fresh = command("check", "ownership")
    for name in OWN:
        put(name)

    assert fresh[0] == 0, fresh[1]
    assert command("check", "ownership")[0] == 0


def test_M4_other_ends_of_lines_are_no_edit(project: Path) -> None:
    for path in (path for path in project.rglob("*") if path.is_file()):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))

    assert {name for name, _ in failures()} == set()


def test_M4_each_edited_file_is_named_with_what_to_use_instead(project: Path) -> None:
    names = {name for name in files(project) if not is_yours(name)} - {MANIFEST, ANSWERS}
    for name in names:
        Path(name).write_bytes(Path(name).read_bytes() + b"\n")

    found = failures()

    assert set(found) == {("unchanged", name) for name in names}
    assert all(fix.endswith(f"; instead: {instead(name)}") for (_, name), fix in found.items())
    assert command("check", "ownership")[0] == 1


@pytest.mark.parametrize("start", [start for start in INSTEAD if start])
def test_M4_what_to_use_instead_is_about_files_that_there_are(start: str) -> None:
    everything = (("database", "postgres"), ("ci", "both"))

    assert [name for name in files(by_copier(everything)) if name.startswith(start)]
    named = re.findall(r"(?<![\w/])(?:src|tests|migrations|deploy)/[\w./-]*", INSTEAD[start])
    assert all(
        is_yours(name.rstrip("/") + ("/x" if name.endswith("/") else "")) for name in named if "override" not in name
    )


def test_M4_deleted_file_is_named_and_may_be_detached_unless_it_is_code(project: Path) -> None:
    for name in ("deploy/nginx/forward.conf", "chassis/mcp_chassis/alive.py"):
        Path(name).unlink()

    assert failures() == {
        ("complete", "chassis/mcp_chassis/alive.py"): "bring it back from git",
        ("complete", "deploy/nginx/forward.conf"): (
            "bring it back from git, or make it yours: ops detach deploy/nginx/forward.conf"
        ),
    }


@pytest.mark.parametrize(
    "name", ["chassis/mcp_chassis/own/x.py", "deploy/kubernetes/base/own.yaml", "deploy/nginx/own.conf"]
)
def test_M4_file_of_ones_own_in_a_folder_of_the_templates_is_named(name: str, project: Path) -> None:
    put(name)

    ((found, fix),) = failures().items()

    assert found == ("nothing_added", name)
    assert fix == f"move it; instead: {instead(name)}"


def test_M4_manifest_that_a_merge_broke_is_named_with_its_line(project: Path) -> None:
    text = Path(MANIFEST).read_text(encoding="utf-8").splitlines()
    Path(MANIFEST).write_text("\n".join([*text[:2], "<<<<<<< ours", *text[2:]]), encoding="utf-8")

    assert set(failures()) == {("manifest", f"{MANIFEST}:3")}


def test_M4_missing_manifest_is_an_error_where_there_is_a_record_of_the_template(project: Path) -> None:
    Path(MANIFEST).unlink()
    kept = set(failures())
    Path(ANSWERS).unlink()

    assert kept == {("manifest", MANIFEST)}
    assert failures() == {}
    assert {one["owner"] for one in json.loads(command("ops", "owned", "--json")[1])} == {"yours"}


@pytest.mark.parametrize("arguments", [("check", "ownership"), ("ops", "owned"), ("ops", "detach", "x")])
def test_M4_elsewhere_the_commands_say_where_to_run(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    code, said = command(*arguments)

    assert code == 2
    assert "run this in the root of your project" in said


def overlay(old: str, new: str) -> None:
    """Change the overlay's kustomization."""
    path = OVERLAY / "kustomization.yaml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


SABOTAGE = {
    "not among the components": lambda: overlay("  - image ", "  # - image "),
    "not the last": lambda: overlay("  - ../../monitoring ", "  - image\n  - ../../monitoring\n  # "),
    "no file": lambda: (OVERLAY / "image/kustomization.yaml").unlink(),
    "no overlay": lambda: (OVERLAY / "kustomization.yaml").unlink(),
}


@pytest.mark.parametrize("story", SABOTAGE)
def test_M4_overlay_that_the_pipeline_cannot_deploy_is_told_in_the_words_of_upgrading(
    story: str, project: Path
) -> None:
    if story == "not the last":
        overlay("  - image ", "  # - image ")
    SABOTAGE[story]()

    found = failures()

    assert {name for name, _ in found} == {"pipeline_image"}
    assert all(place.startswith(str(OVERLAY)) for _, place in found)


def test_M4_overlay_is_nobodys_business_where_no_pipeline_deploys(project: Path) -> None:
    (OVERLAY / "kustomization.yaml").unlink()
    command("ops", "detach", ".github/workflows/deploy.yaml")
    Path(".github/workflows/deploy.yaml").unlink()

    assert failures() == {}


def test_M4_without_a_parser_of_yaml_the_overlay_is_unseen_and_the_way_out_is_told(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "mcp_chassis.checks.sources", raising=False)
    monkeypatch.setitem(sys.modules, "yaml", None)

    assert failures() == {("pipeline_image", ""): "uv add --dev 'mcp-chassis[checks]'"}


def test_M4_what_is_asked_of_your_files_stands_in_upgrading() -> None:
    text = (ROOT / "UPGRADING.md").read_text(encoding="utf-8")
    sections = {part.partition("\n")[0]: " ".join(re.sub("[*`]", "", part).split()) for part in text.split("\n## ")[1:]}
    asked = [check.fix for check in ownership if check.fix.startswith("UPGRADING ")]

    assert asked
    for fix in asked:
        version, words = re.fullmatch(r"UPGRADING (\d+\.\d+\.\d+): (.+)", fix).groups()  # type: ignore[union-attr]
        assert words in sections[version], fix
