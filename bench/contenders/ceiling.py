"""A route that answers what the tool would, checking nothing: what Starlette and uvicorn leave to everybody."""

import json
import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


async def mcp(request: Request) -> Response:
    """Answer a call, and whatever comes before it as if it were one."""
    message = await request.json()
    if "id" not in message:
        return Response(status_code=202)
    said = message["params"].get("arguments", {})
    content = [{"type": "text", "text": json.dumps(said)}]
    result = {"content": content, "structuredContent": said, "isError": False}
    return JSONResponse({"jsonrpc": "2.0", "id": message["id"], "result": result})


if __name__ == "__main__":
    uvicorn.run(Starlette(routes=[Route("/mcp", mcp, methods=["POST"])]), port=int(sys.argv[1]), access_log=False)
