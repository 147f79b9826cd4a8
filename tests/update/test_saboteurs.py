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

from tests.render.support import TEMPLATE, Answers
from tests.update.accounting import Account
from tests.update.gates import lock
from tests.update.lanes import Lane, Outcome, live_through
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


def a_readme_is_dropped_that_no_rule_kept(root: Path) -> None:
    rules(root, lambda config: without(config, "/README.md"))
    (root / TEMPLATE / "README.md").unlink()


def a_file_of_the_templates_is_not_delivered(root: Path) -> None:
    rules(
        root,
        lambda config: config["_exclude"].append(
            "{% if _copier_operation == 'update' %}/deploy/compose.yaml{% endif %}"
        ),
    )
    with (root / TEMPLATE / "deploy/compose.yaml").open("a", encoding="utf-8") as file:
        file.write("# Mended.\n")


def a_file_is_left_out_that_was_there(root: Path) -> None:
    rules(root, lambda config: config["_exclude"].append("/deploy/nginx/forward.conf"))


def a_choice_is_gone(root: Path) -> None:
    rules(root, lambda config: config["edge"]["choices"].pop("Caddy"))


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
    a_file_of_the_templates_is_not_delivered: ("stale",),
    a_file_is_left_out_that_was_there: ("stale",),
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


def update_to(saboteur: Callable[[Path], None], answers: Answers = ()) -> Outcome:
    """Live with the newest release, then update to one that the saboteur made."""
    template = broken()
    tag = template.with_release(str(next(_NUMBERS)), saboteur)
    lane = Lane(Release(template.now.removeprefix("v")), answers, "builds")
    return live_through(lane, template=template, to=tag)


def test_M3_laboratory_goes_red_when_a_readme_is_dropped_that_no_rule_kept() -> None:
    first = broken().with_release(str(next(_NUMBERS)), lambda root: rules(root, lambda one: without(one, "/README.md")))
    last = broken().with_release(str(next(_NUMBERS)), a_readme_is_dropped_that_no_rule_kept)

    outcome = live_through(Lane(Release(first.removeprefix("v")), (), "builds"), template=broken(), to=last)

    assert {"lost", "changed"} <= set(outcome.account.wrong)


@pytest.mark.parametrize("saboteur", SABOTEURS, ids=lambda saboteur: saboteur.__name__)
def test_M3_laboratory_goes_red_when(saboteur: Callable[[Path], None]) -> None:
    answers = (("edge", "caddy"),) if saboteur is a_choice_is_gone else ()

    outcome = update_to(saboteur, answers)

    assert set(SABOTEURS[saboteur]) <= set(outcome.account.wrong)


def test_M3_laboratory_is_green_when_nothing_is_broken() -> None:
    assert update_to(lambda root: None).account.wrong == {}


def test_M3_a_floor_that_the_users_own_forbids_is_refused_by_the_lock() -> None:
    def bound(root: Path) -> None:
        path = root / TEMPLATE / "chassis/pyproject.toml"
        path.write_text(path.read_text("utf-8").replace('  "orjson', '  "attrs<23",\n  "orjson'), encoding="utf-8")

    outcome = update_to(bound)

    assert outcome.account == Account(lines=outcome.account.lines)
    assert "No solution found" in lock(outcome.project)
