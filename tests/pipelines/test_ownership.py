"""An edited file of the template's stops the update before anything is lost, and turns ci red (M4)."""

from __future__ import annotations

import stat
from collections.abc import Callable

import pytest

from tests.ownership.conftest import PROGRAMS
from tests.pipelines.conftest import Repository

EDITED = "deploy/nginx/nginx.conf"
SAID = (
    "changed here (deploy/nginx/nginx.conf)",
    "a drop-in in deploy/nginx/conf.d/",
    "not updated, and nothing was changed",
)


@pytest.fixture
def edited(repository: Callable[..., Repository]) -> Repository:
    """Return a repository with an edit that is committed, where `check ownership` is the real one."""
    here = repository(("ci", "both"))
    path = here.project / EDITED
    path.write_text(path.read_text(encoding="utf-8") + "# Mine.\n", encoding="utf-8")
    here.git("commit", "--quiet", "--all", "--message=mine")
    stand_in = here.programs.programs / "uv"
    stand_in.rename(stand_in.with_name("uv.stand-in"))
    own = PROGRAMS["uv"].partition("\n")[2]
    stand_in.write_text(
        f'#!/bin/sh\ncase "$*" in *"check ownership"*) ;; *) exec "$0.stand-in" "$@" ;; esac\n{own}', encoding="utf-8"
    )
    stand_in.chmod(stand_in.stat().st_mode | stat.S_IXUSR)
    return here


@pytest.mark.parametrize("system", ["github", "gitlab"])
def test_M4_edited_file_stops_the_update_and_is_still_there(system: str, edited: Repository) -> None:
    before = edited.git("rev-parse", "HEAD"), (edited.project / EDITED).read_bytes()

    if system == "github":
        job = edited.github("update")["update"]
        failed, said = job.result == "failure", job.said
        assert job.outcomes["Update"] == "skipped"
    else:
        code, said = edited.gitlab("update")
        failed = code == 1

    assert failed, said
    assert [words for words in SAID if words not in said] == []
    assert edited.programs.calls("uvx", "gh") == []
    assert (edited.git("rev-parse", "HEAD"), (edited.project / EDITED).read_bytes()) == before
    assert edited.git("status", "--porcelain") == ""


def test_M4_edited_file_turns_ci_red(edited: Repository) -> None:
    jobs = edited.github("ci")

    assert (jobs["check"].result, jobs["ci"].result) == ("failure", "failure")
    assert SAID[0] in jobs["check"].said
