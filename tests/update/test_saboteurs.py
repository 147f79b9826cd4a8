"""Releases that break a promise: the laboratory must say which (M3).

Each of these was shipped by some template. An account that stays empty here would prove nothing anywhere.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.render.support import ANSWERS_FILE, TEMPLATE
from tests.update.accounting import File, account, snapshot
from tests.update.gates import lock
from tests.update.lanes import Lane, Lived, live, update
from tests.update.releases import Clone, Release, make_clone

_NUMBERS = itertools.count(100)


def rules(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the questions and rules of a tree of the template."""
    path = root / "copier.yml"
    config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(config)
    path.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=1000), encoding="utf-8")


def without(config: dict[str, Any], *ends: str) -> None:
    """Drop the rules that leave these paths to their user."""
    dropped = {f"{{% if _copier_operation == 'update' %}}{end}{{% endif %}}" for end in ends}
    config["_exclude"] = [rule for rule in config["_exclude"] if rule not in dropped]


def a_readme_of_the_users_is_replaced(root: Path) -> None:
    rules(root, lambda config: without(config, "/README.md"))
    (root / TEMPLATE / "README.md").write_text("# Another beginning\n", encoding="utf-8")


def files_of_the_templates_are_not_delivered_or_left_behind(root: Path) -> None:
    rule = "{% if _copier_operation == 'update' %}/deploy/compose.yaml{% endif %}"
    rules(root, lambda config: config["_exclude"].extend([rule, "/deploy/nginx/forward.conf"]))
    with (root / TEMPLATE / "deploy/compose.yaml").open("a", encoding="utf-8") as file:
        file.write("# Mended.\n")


def a_choice_is_gone(root: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        del config["edge"]["choices"]["nginx"]
        config["edge"]["default"] = "caddy"

    rules(root, change)


def an_exclusion_asks_for_a_new_answer(root: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        config["novel"] = {"type": "str", "default": "no"}
        config["_exclude"].append("{% if novel == 'no' %}/deploy/novel{% endif %}")

    rules(root, change)


def a_deleted_example_comes_back(root: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        without(config, "/src")
        config["_skip_if_exists"] = ["/src"]

    rules(root, change)


def a_file_stands_where_users_have_theirs(root: Path) -> None:
    (root / TEMPLATE / ".vscode").mkdir()
    (root / TEMPLATE / ".vscode/settings.json").write_text('{"ours": true}\n', encoding="utf-8")


SABOTEURS: dict[Callable[[Path], None], tuple[str, ...]] = {
    a_readme_of_the_users_is_replaced: ("conflicts", "changed"),
    files_of_the_templates_are_not_delivered_or_left_behind: ("stale",),
    a_choice_is_gone: ("answers",),
    an_exclusion_asks_for_a_new_answer: ("stopped",),
    a_deleted_example_comes_back: ("returned",),
    a_file_stands_where_users_have_theirs: ("conflicts",),
}
"""What each breaks, by the account's names."""


@functools.cache
def broken() -> Clone:
    """Return a clone for these releases alone: they would be the newest everywhere else."""
    return make_clone()


@functools.cache
def lived(tag: str) -> Lived:
    """Return a project of a release that a team builds in."""
    return live(Lane(Release(tag.removeprefix("v")), (), "builds"), broken())


def broken_by(saboteur: Callable[[Path], None]) -> str:
    """Make a release of what a saboteur leaves, and return its tag."""
    return broken().with_release(str(next(_NUMBERS)), saboteur)


def without_rule_of_readme(root: Path) -> None:
    rules(root, lambda config: without(config, "/README.md"))


def without_readme(root: Path) -> None:
    without_rule_of_readme(root)
    (root / TEMPLATE / "README.md").unlink()


@pytest.mark.parametrize("saboteur", SABOTEURS, ids=lambda saboteur: saboteur.__name__)
def test_M3_laboratory_goes_red_when(saboteur: Callable[[Path], None]) -> None:
    outcome = update(lived(broken().now), broken(), broken_by(saboteur))

    assert set(SABOTEURS[saboteur]) <= set(outcome.account.wrong)
    if saboteur is files_of_the_templates_are_not_delivered_or_left_behind:
        assert outcome.account.stale == ["deploy/compose.yaml", "deploy/nginx/forward.conf"]


def test_M3_laboratory_goes_red_when_a_file_is_dropped_that_no_rule_left_to_its_user() -> None:
    outcome = update(lived(broken_by(without_rule_of_readme)), broken(), broken_by(without_readme))

    assert {"lost", "changed"} <= set(outcome.account.wrong)


def test_M3_account_finds_line_ends_and_links_of_the_users_that_changed(tmp_path: Path) -> None:
    def project(name: str, text: bytes, target: str) -> dict[str, File]:
        (tmp_path / name).mkdir()
        (tmp_path / name / ANSWERS_FILE).write_text("{}\n", encoding="utf-8")
        (tmp_path / name / "README.md").write_bytes(text)
        (tmp_path / name / "own.txt").write_text("Same.\n", encoding="utf-8")
        (tmp_path / name / "other.txt").write_text("Same.\n", encoding="utf-8")
        (tmp_path / name / "link").symlink_to(target)
        return snapshot(tmp_path / name)

    base = fresh = {ANSWERS_FILE: File(b"{}\n", executable=False)}
    lived = project("lived", b"Ours.\r\n", "own.txt")

    assert account(base, lived, project("same", b"Ours.\r\n", "own.txt"), fresh).changed == []
    assert account(base, lived, project("ends", b"Ours.\n", "own.txt"), fresh).changed == ["README.md"]
    assert account(base, lived, project("link", b"Ours.\r\n", "other.txt"), fresh).changed == ["link"]
    assert account(base, lived, project("gone", b"Ours.\r\n", "missing"), fresh).changed == ["link"]


def test_M3_a_bound_that_the_users_own_forbids_is_refused_by_the_lock() -> None:
    def bound(root: Path) -> None:
        path = root / TEMPLATE / "chassis/pyproject.toml"
        path.write_text(path.read_text("utf-8").replace('  "orjson', '  "attrs<23",\n  "orjson'), encoding="utf-8")

    outcome = update(lived(broken().now), broken(), broken_by(bound))

    assert outcome.account.wrong == {}
    assert "No solution found" in lock(outcome.project)
