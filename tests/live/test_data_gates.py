"""A project with a database passes its own tests, on SQLite and on PostgreSQL; tests/render sees to its other gates."""

from __future__ import annotations

import functools
import subprocess

import pytest

from tests.live.data import make_stored, shared_postgres, variables
from tests.live.project import Project, environment, folder
from tests.support.postgres import Postgres

pytestmark = pytest.mark.xdist_group("live-data-desk")


@pytest.fixture(scope="module")
def postgres(_apart: None) -> Postgres:
    """Return the PostgreSQL of this worker."""
    return shared_postgres()


@functools.cache
def pristine() -> Project:
    """Return a fresh project with a developer's tools; nobody may change it."""
    return make_stored(folder() / "pristine", developed=True)


def run_tests(given: dict[str, str]) -> str:
    """Return what the project's own tests say, which must pass."""
    done = subprocess.run(
        [str(pristine().python.parent / "pytest"), "-q"],
        cwd=pristine().root,
        env=environment(given),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.usefixtures("_apart")
def test_M6_tests_of_the_project_pass_on_sqlite_and_leave_no_file() -> None:
    said = run_tests({})

    assert " passed" in said
    assert "skipped" not in said
    assert list(pristine().root.glob("*.db*")) == []


def test_A9_tests_of_the_project_pass_on_postgresql_twice(postgres: Postgres) -> None:
    for _ in range(2):
        assert " passed" in run_tests(variables(postgres))

    assert int(postgres.ask("SELECT count(DISTINCT tenant) FROM notes")) >= 2
