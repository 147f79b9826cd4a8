"""Whether the process lives; readiness and dependencies follow with the first dependency (O4)."""

from __future__ import annotations

from fastapi import APIRouter

routes = APIRouter()


@routes.get("/health/live")
async def live() -> dict[str, str]:
    """Answer as long as the event loop turns; it asks nothing else."""
    return {"status": "alive"}
