"""Where an OAuth client learns which issuer to ask (RFC 9728)."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from mcp_chassis.auth.challenge import METADATA_PATH


def metadata_route(*, resource: str, issuer: str, scopes: Iterable[str]) -> Route:
    """Return the route of the protected resource's metadata; it needs no credential.

    Args:
        resource: The server as clients address it, such as `https://notes.example.com/mcp`.
        issuer: The authorization server.
        scopes: All scopes that tools need.
    """
    document = {
        "resource": resource,
        "authorization_servers": [issuer],
        "scopes_supported": sorted(scopes),
        "bearer_methods_supported": ["header"],
    }

    async def answer(_request: Request) -> JSONResponse:
        # Any page may read it: a browser client needs it before it has an origin we know.
        return JSONResponse(document, headers={"Access-Control-Allow-Origin": "*", "Cache-Control": "max-age=300"})

    return Route(METADATA_PATH, endpoint=answer, methods=["GET"])
