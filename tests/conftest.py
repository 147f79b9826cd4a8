"""How tests are dealt to processes side by side: those that share what is dear together, the longest first.

What is dealt as one is a group, by the mark `xdist_group`, or else a file, whose fixtures are then made once. The
groups of xdist 3.8 hang on the ids of tests, which pytest 9.2 lets nobody change; here they are told beside the ids.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

LONGEST: Final = (
    "gates",
    "containers",
    "live",
    "drain",
    "live-processes",
    "live-data",
    "tests/update/test_lanes.py",
    "forwarding-owners",
    "tests/render/test_questions.py",
    "rehearsal",
    "kubernetes",
    "live-data-desk",
    "edges",
    "tests/update/test_saboteurs.py",
    "tests/update/test_trouble.py",
    "tests/render/test_update.py",
    "tests/deploy/test_check_timeouts.py",
    "newcomer",
    "forwarding",
    "limits-suspensions",
    "tests/pipelines/test_hardening.py",
    "tests/pipelines/test_scheduled.py",
)
"""Units that take longest, the longest first: one that begins late would end alone."""


def unit(item: pytest.Item) -> str:
    """Return what a test is dealt with: its group, or its file."""
    mark = item.get_closest_marker("xdist_group")
    return str(mark.args[0]) if mark else item.nodeid.partition("::")[0]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put each unit together, and the longest first."""
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    for item in items:
        ranks.setdefault(unit(item), len(ranks))
    items.sort(key=lambda item: ranks[unit(item)])


def told(worker: dict[str, Any]) -> Path:
    """Return where a process of this run tells the unit of each test."""
    return Path(tempfile.gettempdir()) / f"units-{worker['testrunuid']}-{worker['workerid']}.json"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Tell the unit of each test, before xdist tells the tests."""
    if worker := getattr(session.config, "workerinput", None):
        units = {item.nodeid: unit(item) for item in session.items}
        told(worker).write_text(json.dumps(units), encoding="utf-8")


class Dealing(LoadScopeScheduling):  # type: ignore[misc]
    """Deals units, in the order in which they were collected, to whoever has nothing left."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False
        self._units: dict[str, str] = {}

    def add_node_collection(self, node: Any, collection: Sequence[str]) -> None:
        """Learn the units with the tests."""
        self._units |= json.loads(told(node.workerinput).read_text(encoding="utf-8"))
        told(node.workerinput).unlink()
        super().add_node_collection(node, collection)

    def _split_scope(self, nodeid: str) -> str:
        return self._units[nodeid]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Dealing | None:
    """Deal in this way where `--dist loadgroup` asks for groups."""
    return Dealing(config, log) if config.getoption("dist") == "loadgroup" else None
