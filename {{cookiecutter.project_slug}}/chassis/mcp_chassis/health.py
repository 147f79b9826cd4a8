"""Whether the process lives, and whether what it needs answers (O4)."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal

from fastapi import APIRouter
from starlette.responses import JSONResponse

_REMEMBERED: Final = 2.0
"""Seconds for which an answer is given again, so that probes never load what they ask about."""


@dataclass(slots=True)
class Check:
    """One thing the server needs.

    Args:
        name: What it is called in the answer.
        ask: Returns whether it answers; bounded in time by itself.
        required: Whether the server is unhealthy without it, or only degraded.
    """

    name: str
    ask: Callable[[], Awaitable[bool]]
    required: bool
    answered: bool = True
    asked_at: float = float("-inf")

    async def answers(self) -> bool:
        """Return the answer, at most `_REMEMBERED` seconds old."""
        if time.monotonic() - self.asked_at > _REMEMBERED:
            self.asked_at = time.monotonic()
            self.answered = await self.ask()
        return self.answered


def health_routes(*, version: str, checks: list[Check]) -> APIRouter:
    """Return `/health/live`, which asks nothing, and `/health` and `/health/ready`, which ask every check."""
    routes = APIRouter()
    started = time.monotonic()

    @routes.get("/health/live")
    async def live() -> dict[str, str]:
        return {"status": "alive"}

    @routes.get("/health/ready")
    async def ready() -> JSONResponse:
        status, _ = await ask()
        return JSONResponse({"status": status}, status_code=503 if status == "unhealthy" else 200)

    async def ask() -> tuple[Literal["healthy", "degraded", "unhealthy"], dict[str, bool]]:
        found = {check.name: await check.answers() for check in checks}
        broken = [check for check in checks if not found[check.name]]
        if not broken:
            return "healthy", found
        return ("unhealthy" if any(check.required for check in broken) else "degraded"), found

    @routes.get("/health")
    async def health() -> JSONResponse:
        status, found = await ask()
        body = {
            "status": status,
            "version": version,
            "uptime_seconds": round(time.monotonic() - started),
            "checks": {name: "ok" if answers else "silent" for name, answers in found.items()},
        }
        return JSONResponse(body, status_code=503 if status == "unhealthy" else 200)

    return routes
