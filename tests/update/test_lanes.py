"""From every release to now, through a life in between: no conflict, no line lost (M3).

One lane of each release in history runs here, and one of everything made up; `make laboratory` runs them all.
"""

from __future__ import annotations

import re

import pytest
import yaml
from jinja2 import StrictUndefined
from jinja2.sandbox import SandboxedEnvironment

from tests.render.support import CONFIG, QUESTIONS
from tests.update.gates import failures
from tests.update.lanes import a_lane_of, lanes_of, live_through, slug_of
from tests.update.releases import Release, at_once, clone, questions, released

FEW = 10
"""Lines that a team writes which rather deletes than builds."""


RELEASES = [*released()[1:], at_once()]
"""The oldest has a test of its own below."""


@pytest.mark.parametrize("release", RELEASES, ids=str)
def test_M3_update_to_now_has_no_conflict_and_loses_no_line(release: Release) -> None:
    outcome = live_through(a_lane_of(release, RELEASES.index(release)))

    assert outcome.account.wrong == {}
    assert outcome.account.lines > FEW


def test_M3_rules_can_be_read_with_the_answers_of_the_oldest_release() -> None:
    oldest = questions(yaml.safe_load(clone().at(released()[0].tag, "copier.yml")))
    strict = SandboxedEnvironment(undefined=StrictUndefined)

    for rule in CONFIG["_exclude"]:
        # copier does so for the old version, with the strictness of the old version.
        strict.from_string(rule).render(dict.fromkeys(oldest, ""), _copier_operation="update")


def test_M3_rules_take_an_answer_that_is_missing_for_the_questions_default() -> None:
    taken = set(re.findall(r"(\w+) \| default\('(\w*)'\)", " ".join(CONFIG["_exclude"])))

    assert taken
    assert taken == {(name, QUESTIONS[name]["default"]) for name, _ in taken}


def test_M3_after_refresh_the_projects_own_gates_are_green_and_its_server_answers() -> None:
    outcome = live_through(next(lane for lane in lanes_of(released()[0]) if lane.life == "builds"), with_lock=True)

    assert outcome.account.wrong == {}
    assert failures(outcome.project, slug_of(outcome.project)) == {}
