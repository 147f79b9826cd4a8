"""Where an OAuth client learns which issuer to ask (RFC 9728)."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, request_response

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
        return JSONResponse(document, headers={"Cache-Control": "max-age=300"})

    # Any page may read it, with any header: a browser client needs it before it has an origin we know.
    readable = CORSMiddleware(request_response(answer), allow_origins=["*"], allow_headers=["*"])
    return Route(METADATA_PATH, endpoint=readable, methods=["GET", "OPTIONS"])
