# Template-owned: updates replace it.
"""Gate 1: the server that was built keeps the protocol (G1). Run it with `uv run pytest chassis/gate`."""

from __future__ import annotations

import io
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcp_chassis.checks import examine, write
from mcp_chassis.checks.protocol import GATE
from mcp_chassis.checks.target import NotStarted, Target, started

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
    try:
        with started(package) as running:
            yield running
    except NotStarted as error:
        pytest.fail(str(error), pytrace=False)


@pytest.mark.parametrize("name", GATE)
async def test_gate(name: str, target: Target) -> None:
    results = await examine([GATE[name]], target)

    told = io.StringIO()
    write(results, told, as_json=False)
    if any(result.result != "pass" for result in results):  # what is skipped was not proven
        pytest.fail(told.getvalue(), pytrace=False)
