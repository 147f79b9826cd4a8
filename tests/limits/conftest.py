"""What the tests of limits share: asyncio, a log in memory, a Redis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.inside import _logging as _logging
from tests.support.inside import anyio_backend as anyio_backend
from tests.support.inside import log as log
from tests.support.redis import Redis, running


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    """Run a Redis of this test's own."""
    with running(tmp_path / "redis") as found:
        yield found


@pytest.fixture(scope="module")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """Run one Redis for tests that do not harm it."""
    with running(tmp_path_factory.mktemp("redis")) as found:
        yield found
