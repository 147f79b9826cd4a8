"""What the tests of the chassis share: its environment, and logging as it was before each test."""

from __future__ import annotations

import pytest

from tests.chassis.tools import Story
from tests.support.inside import _environment as _environment
from tests.support.inside import _logging as _logging
from tests.support.inside import anyio_backend as anyio_backend
from tests.support.inside import log as log


@pytest.fixture
def story() -> Story:
    """Return what the tools of one test tell it."""
    return Story()
