"""Every test here runs apart from the settings of the person and the machine."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.render.support import environment


@pytest.fixture(scope="session", autouse=True)
def _apart() -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(wanted := environment())
    for name in set(os.environ) - set(wanted):
        del os.environ[name]
    yield
    os.environ.clear()
    os.environ.update(before)
