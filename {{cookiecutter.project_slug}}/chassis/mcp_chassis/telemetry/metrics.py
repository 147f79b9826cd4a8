"""The numbers that `/metrics` shows; no label holds a caller's text (O5)."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

STORE_UP: Final = Gauge("mcp_store_up", "1 while the state store answers, 0 while it is silent.")
REFUSALS: Final = Counter("mcp_refusals_total", "Requests and calls refused by a limit.", ["limit"])
SUSPENSIONS: Final = Counter("mcp_suspensions_total", "Suspensions of callers that went on after refusals.")


def metrics_route() -> Route:
    """Return `/metrics`; the edges serve it on their internal listener alone."""

    async def metrics(_request: Request) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return Route("/metrics", endpoint=metrics)
