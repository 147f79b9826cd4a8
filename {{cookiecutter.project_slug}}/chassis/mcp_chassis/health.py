"""Whether the process lives, and whether what it needs answers (O4)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Literal, TypedDict

import anyio
from fastapi import APIRouter
from starlette.responses import JSONResponse

from mcp_chassis import downstream
from mcp_chassis.errors import declared_type
from mcp_chassis.telemetry import CHECK_STATUS, DRAINING

Status = Literal["healthy", "degraded", "unhealthy"]
_NUMBERS: Final[dict[Status, int]] = {"healthy": 0, "degraded": 1, "unhealthy": 2}
_STALE: Final = 3
"""Intervals without an answer after which the last one means nothing."""


class CheckOptions(TypedDict, total=False):
    """What `server.check()` takes beside name and question; `Check` says what it means."""

    required: bool
    interval: float
    timeout: float
    slow: float


@dataclass(slots=True)
class Check:
    """One thing the server needs, asked in the background so that probes never load it.

    Args:
        name: What it is called in the answer.
        ask: Raises, or returns False, if it does not answer.
        required: Whether the server is unhealthy without it, or only degraded.
        interval: Seconds between two questions.
        timeout: Seconds a question may take.
        slow: Seconds from which an answer is late: degraded.
    """

    name: str
    ask: Callable[[], Awaitable[object]]
    required: bool = True
    interval: float = 5
    timeout: float = 2
    slow: float = 1
    status: Status = "unhealthy"
    latency: float | None = None
    error: str | None = "NotAskedYet"
    asked_at: float = float("-inf")

    async def run(self) -> None:
        """Ask once."""
        begun, found = time.monotonic(), None
        try:
            with anyio.fail_after(self.timeout):
                if await self.ask() is False:
                    found = "NoAnswer"
        except Exception as error:
            found = declared_type(error).__name__
        # All at once: while a check asks, its last result is told whole.
        self.error, self.asked_at = found, time.monotonic()
        self.latency = self.asked_at - begun
        broken: Status = "unhealthy" if self.required else "degraded"
        self.status = broken if self.error else "degraded" if self.latency > self.slow else "healthy"
        CHECK_STATUS.labels(self.name).set(_NUMBERS[self.status])

    @property
    def current(self) -> Status:
        """What it is now; an answer that is too old is none."""
        if time.monotonic() - self.asked_at <= _STALE * (self.interval + self.timeout):
            return self.status
        return "unhealthy" if self.required else "degraded"

    def as_data(self) -> dict[str, object]:
        """Return what `/health` tells."""
        told: dict[str, object] = {"status": self.current, "required": self.required, "error": self.error}
        if self.latency is not None:
            told |= {"latency_ms": round(self.latency * 1000, 1), "age_s": round(time.monotonic() - self.asked_at, 1)}
        return told


class Health:
    """What the checks say together.

    Args:
        version: The server's.
        checks: All of them.
    """

    def __init__(self, version: str, checks: Sequence[Check]) -> None:
        self._version = version
        self._checks = checks
        self._started = time.monotonic()
        self.draining = False

    def drain(self) -> None:
        """Send no new requests here: the process was asked to stop."""
        self.draining = True
        DRAINING.set(1)

    @property
    def status(self) -> Status:
        """The worst of the checks."""
        if self.draining:
            return "unhealthy"
        return max((check.current for check in self._checks), key=_NUMBERS.__getitem__, default="healthy")

    @asynccontextmanager
    async def checking(self) -> AsyncIterator[None]:
        """Ask every check, then again and again for as long as the context lasts."""

        async def repeat(check: Check) -> None:
            while True:
                await anyio.sleep(check.interval)
                await check.run()

        async with anyio.create_task_group() as tasks:
            async with anyio.create_task_group() as first:
                for check in self._checks:
                    first.start_soon(check.run)
            for check in self._checks:
                tasks.start_soon(repeat, check)
            yield
            tasks.cancel_scope.cancel()

    def routes(self) -> APIRouter:
        """Return `/health/live`, which asks nothing, `/health/ready`, the status alone, and `/health`, the details."""
        routes = APIRouter()

        @routes.get("/health/live")
        async def live() -> dict[str, str]:
            return {"status": "alive"}

        @routes.get("/health/ready")
        async def ready() -> JSONResponse:
            return self._answer({})

        @routes.get("/health")
        async def health() -> JSONResponse:
            checks = {check.name: check.as_data() for check in self._checks}
            uptime = round(time.monotonic() - self._started)
            told = {"version": self._version, "uptime_seconds": uptime, "checks": checks, "breakers": downstream.states}
            return self._answer(told)

        return routes

    def _answer(self, details: dict[str, object]) -> JSONResponse:
        status = self.status
        told = {"status": status, **({"draining": True} if self.draining else {}), **details}
        return JSONResponse(told, status_code=503 if status == "unhealthy" else 200)
