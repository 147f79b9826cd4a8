"""A forwarder that adds a credential: the conformance suite cannot send one."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx2
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

_OWN = frozenset({b"transfer-encoding", b"connection", b"date", b"server"})
"""Headers of one connection, which the forwarder's own server sets again."""


@contextmanager
def forwarding(url: str, authorization: str) -> Iterator[str]:
    """Serve what `url` serves, each request with an `Authorization` header; yield the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(_application(url, authorization), http="h11", log_config=None, server_header=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=asyncio.run, args=(server.serve([listener]),), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}{urlsplit(url).path}"
        server.should_exit = server.force_exit = True
        thread.join(10)


def _application(url: str, authorization: str) -> Starlette:
    client = httpx2.AsyncClient(timeout=None)

    async def forward(request: Request) -> StreamingResponse:
        headers = [(name, value) for name, value in request.headers.raw if name != b"authorization"]
        headers.append((b"authorization", authorization.encode("ascii")))
        sent = client.build_request(request.method, url, headers=headers, content=await request.body())
        answer = await client.send(sent, stream=True)
        forwarded = StreamingResponse(answer.aiter_raw(), answer.status_code, background=BackgroundTask(answer.aclose))
        forwarded.raw_headers = [
            (name.lower(), value) for name, value in answer.headers.raw if name.lower() not in _OWN
        ]
        return forwarded

    methods = ["GET", "POST", "DELETE", "PUT", "OPTIONS"]
    return Starlette(routes=[Route(urlsplit(url).path, endpoint=forward, methods=methods)])
