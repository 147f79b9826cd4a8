"""A process that starts with one pinned resource, and what it shows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest
from prometheus_client import REGISTRY

from mcp_chassis.environment import ConfigurationError
from mcp_chassis.fetching import Fetcher
from mcp_chassis.pins import Pin, digest
from mcp_chassis.resources import Copies, Resources
from tests.resources.origin import DEADLINE

GOOD = b'{"colours": ["red"]}'
BAD = b'{"colours": ["rot"]}'
FILE = "/v1.2/definitions.json?token=s3cret"
URL = f"https://files.example.com{FILE}"
LABEL = "files.example.com/v1.2/definitions.json?…"


def pin(body: bytes = GOOD, media_type: str = "application/json") -> Pin:
    """Return the pin of a reviewed body."""
    moment = datetime(2026, 1, 31, tzinfo=UTC)
    return Pin(sha256=digest(body), size=len(body), media_type=media_type, last_verified=moment)


def resources(folder: Path, *, interval: float = 0.05, pins: dict[str, Pin] | None = None) -> Resources:
    """Return the resources of a process that starts."""
    return Resources(pins or {URL: pin()}, copies=Copies(folder), fetcher=Fetcher(), interval=interval)


def metric(name: str, label: str = LABEL) -> float | None:
    """Return what `/metrics` shows."""
    return REGISTRY.get_sample_value(f"mcp_resource_{name}", {"resource": label})


async def stopped(found: Resources) -> str:
    """Return why a server does not start."""
    with pytest.raises(ConfigurationError) as error:
        await found.prepare()
    return str(error.value)


@asynccontextmanager
async def running(found: Resources) -> AsyncIterator[None]:
    """Start as a server does, and verify on."""
    await found.prepare()
    async with found.verifying():
        yield


async def until(true: Callable[[], object]) -> None:
    """Wait for something that happens in the background."""
    with anyio.fail_after(DEADLINE):
        while not true():  # noqa: ASYNC110 - the other side is a server, it has no event
            await anyio.sleep(0.02)
