"""Serve the stock server: `python -m rehearsal.hosted PORT`, with the routes that the manifest's probes ask."""

import sys

from starlette.requests import Request
from starlette.responses import Response

from rehearsal.hosted.server import server
from rehearsal.hosted.tools import rehearsed as rehearsed


@server.custom_route("/health/live", ["GET"])  # type: ignore[untyped-decorator]
async def live(_request: Request) -> Response:
    """Answer that it runs."""
    return Response()


@server.custom_route("/health/ready", ["GET"])  # type: ignore[untyped-decorator]
async def ready(_request: Request) -> Response:
    """Answer that it runs: the stock server knows no more."""
    return Response()


server.run(transport="streamable-http", port=int(sys.argv[1]))
