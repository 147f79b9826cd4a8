# Template-owned: updates replace it.
"""Gate 1: the server that was built keeps the protocol (G1). Run it with `uv run pytest chassis/gate`."""

from __future__ import annotations

import io
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcp_chassis.checks.protocol import GATE
from mcp_chassis.checks.report import examine, failed, write
from mcp_chassis.checks.running import started
from mcp_chassis.checks.server import Target

pytestmark = pytest.mark.anyio
_PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Run on asyncio, as the server does."""
    return "asyncio"


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    """Start the project's server for all checks."""
    os.chdir(_PROJECT)
    scripts = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    package = next(iter(scripts.values())).partition(".")[0]
    with started(package) as running:
        yield running


@pytest.mark.parametrize("name", GATE)
async def test_gate(name: str, target: Target) -> None:
    results = await examine([GATE[name]], target)

    told = io.StringIO()
    write(results, told, as_json=False)
    assert not failed(results), told.getvalue()
