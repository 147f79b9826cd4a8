"""Both engines say the same: questions, bytes, and what an answer switches off (M2)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from jinja2 import Environment, nodes

from mcp_chassis.checks.ownership import MANIFEST, NO_RECORD
from scripts.derive_cookiecutter import derive
from tests.render.support import (
    ANSWERS_FILE,
    AWKWARD,
    CONFIG,
    QUESTIONS,
    ROOT,
    TEMPLATE,
    Answers,
    by_cookiecutter,
    by_copier,
    copy_template,
    files,
    label,
    matrix,
    native,
    render_by_cookiecutter,
    render_by_copier,
    succeed,
)


def unrecord(rendered: dict[str, bytes]) -> None:
    """Take the record away, as cookiecutter renders from a folder; the manifest says so then."""
    del rendered[ANSWERS_FILE]
    rendered[MANIFEST] = f"{NO_RECORD}\n".encode() + rendered[MANIFEST]


@pytest.mark.parametrize("answers", matrix(), ids=label)
def test_M2_engines_render_the_same_bytes(answers: Answers) -> None:
    ours, theirs = files(by_copier(answers)), files(by_cookiecutter(answers))

    unrecord(ours)

    assert sorted(ours) == sorted(theirs)
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_M2_awkward_answers_arrive_unchanged() -> None:
    recorded = yaml.safe_load((by_copier(AWKWARD) / ANSWERS_FILE).read_text(encoding="utf-8"))

    assert {name: recorded[name] for name, _ in AWKWARD} == native(AWKWARD)


def test_M2_files_keep_their_mode_in_both_engines() -> None:
    ours, theirs = by_copier(), by_cookiecutter()

    modes = {name: [(root / name).stat().st_mode for root in (ours, theirs)] for name in files(theirs)}

    assert {name: pair for name, pair in modes.items() if pair[0] != pair[1]} == {}


def test_M2_cookiecutter_json_follows_copier_yml() -> None:
    assert json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8")) == derive(CONFIG)


def is_computed(name: str, details: object) -> bool:
    """Tell whether an entry of copier.yml is a question that nobody is ever asked."""
    return not name.startswith("_") and isinstance(details, dict) and details.get("when") is False


def test_M2_bridge_holds_every_answer_and_every_computed_value() -> None:
    computed = {name for name, details in CONFIG.items() if name != "cookiecutter" and is_computed(name, details)}

    tree = Environment().parse(CONFIG["cookiecutter"]["default"])
    (mapping,) = tree.find_all(nodes.Dict)
    bridged = {item.key.as_const(): item.value for item in mapping.items}

    assert set(bridged) == set(QUESTIONS) | {f"__{name}" for name in computed}
    assert {name.removeprefix("__") for name in bridged} == {
        value.name for value in bridged.values() if isinstance(value, nodes.Name)
    }


def test_M2_what_an_answer_switches_off_leaves_no_trace_in_either_engine(tmp_path: Path) -> None:
    source = copy_template(tmp_path / "template")
    for name in ("deploy/optional/nested/one.txt", "deploy/optional/two.txt", "deploy/kept.txt"):
        (source / TEMPLATE / name).parent.mkdir(parents=True, exist_ok=True)
        (source / TEMPLATE / name).write_text("content\n", encoding="utf-8")
    config = CONFIG | {
        "_exclude": [*CONFIG["_exclude"], "{% if edge == 'mesh' %}deploy/optional{% endif %}"],
    }
    (source / "copier.yml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    (source / "scripts").mkdir()
    (source / "scripts/derive.py").write_bytes((ROOT / "scripts/derive_cookiecutter.py").read_bytes())
    succeed("python", "scripts/derive.py", cwd=source)

    for edge, expected in (("mesh", False), ("nginx", True)):
        answers = (("edge", edge),)
        ours = files(render_by_copier(source, tmp_path / f"copier-{edge}", answers))
        theirs = files(render_by_cookiecutter(source, tmp_path / f"cookiecutter-{edge}", answers))
        unrecord(ours)

        assert ours == theirs
        assert "deploy/kept.txt" in ours
        assert any(name.startswith("deploy/optional/") for name in ours) is expected


@pytest.mark.parametrize("leftover", ["chassis/mcp_chassis/__pycache__/x.pyc", "chassis/.mypy_cache/x.json"])
def test_M2_leftovers_of_work_on_the_template_are_not_rendered(tmp_path: Path, leftover: str) -> None:
    source = copy_template(tmp_path / "template")
    (source / TEMPLATE / leftover).parent.mkdir(parents=True)
    (source / TEMPLATE / leftover).write_bytes(b"\0left")

    ours = files(render_by_copier(source, tmp_path / "copier", ()))
    theirs = files(render_by_cookiecutter(source, tmp_path / "cookiecutter", ()))

    assert leftover not in {*ours, *theirs}
