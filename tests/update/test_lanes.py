"""From every release to now, through a life in between: no conflict, no line lost (M3).

One lane of each release runs here; `make laboratory` runs them all.
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
from tests.update.releases import clone, past, questions

FEW = 10
"""Lines that a team writes which rather deletes than builds."""


@pytest.mark.parametrize("number", range(len(past())), ids=[str(release) for release in past()])
def test_M3_update_to_now_has_no_conflict_and_loses_no_line(number: int) -> None:
    outcome = live_through(a_lane_of(number))

    assert outcome.account.wrong == {}
    assert outcome.account.lines > FEW


def test_M3_rules_can_be_read_with_the_answers_of_the_oldest_release() -> None:
    oldest = questions(yaml.safe_load(clone().at(past()[0].tag, "copier.yml")))
    strict = SandboxedEnvironment(undefined=StrictUndefined)

    for rule in CONFIG["_exclude"]:
        # copier does so for the old version, with the strictness of the old version.
        strict.from_string(rule).render(dict.fromkeys(oldest, ""), _copier_operation="update")


def test_M3_rules_take_an_answer_that_is_missing_for_the_questions_default() -> None:
    taken = set(re.findall(r"(\w+) \| default\('(\w*)'\)", " ".join(CONFIG["_exclude"])))

    assert taken
    assert taken == {(name, QUESTIONS[name]["default"]) for name, _ in taken}


@pytest.mark.parametrize("version", ["0.1.0"])
def test_M3_after_refresh_the_projects_own_gates_are_green_and_its_server_answers(version: str) -> None:
    (release,) = (release for release in past() if release.version == version)

    outcome = live_through(next(lane for lane in lanes_of(release) if lane.life == "builds"), with_lock=True)

    assert outcome.account.wrong == {}
    assert failures(outcome.project, slug_of(outcome.project)) == {}
