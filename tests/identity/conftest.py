"""What the tests of identity share: an empty environment, a log in memory, an issuer, a Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.identity.issuer import Issuer, issuing
from tests.support.inside import _environment as _environment
from tests.support.inside import _logging as _logging
from tests.support.inside import anyio_backend as anyio_backend
from tests.support.inside import log as log
from tests.support.redis import Redis, running


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    """Run an OAuth issuer."""
    async with issuing() as found:
        yield found


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    """Run a Redis of this test's own."""
    with running(tmp_path / "redis") as found:
        yield found


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Give the issuer's cache a clock that the test moves."""
    now = [1000.0]
    monkeypatch.setattr("mcp_chassis.auth.tokens.time", SimpleNamespace(monotonic=lambda: now[0]))
    return now
