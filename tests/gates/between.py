"""Servers in threads of their own: foreign ones, and a saboteur that stands between a client and a real server."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

DEADLINE: Final = 20.0
_OF_ONE_CONNECTION: Final = {b"transfer-encoding", b"connection", b"date", b"server", b"content-length"}


@contextmanager
def serving(app: ASGIApp, *, certificate: Path | None = None, port: int = 0) -> Iterator[int]:
    """Serve `app` on loopback, over TLS if there is a folder with `tls.crt` and `tls.key`; yield the port."""
    files = (
        {} if certificate is None else {"ssl_certfile": certificate / "tls.crt", "ssl_keyfile": certificate / "tls.key"}
    )
    with socket.create_server(("127.0.0.1", port)) as listener:
        config = uvicorn.Config(app, log_config=None, server_header=False, timeout_graceful_shutdown=1, **files)  # type: ignore[arg-type]
        server = uvicorn.Server(config)
        thread = threading.Thread(target=asyncio.run, args=(server.serve([listener]),), daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(DEADLINE)


@dataclass
class Exchange:
    """One request on its way to the real server.

    Args:
        method: Of HTTP.
        headers: By lower-case name.
        body: As it came.
        message: The JSON in it.
    """

    method: str
    headers: dict[str, str]
    body: bytes
    message: Any
    _url: str
    _client: httpx2.AsyncClient

    @property
    def asks(self) -> str:
        """The method of JSON-RPC."""
        return str(self.message.get("method")) if isinstance(self.message, dict) else ""

    @property
    def tool(self) -> str:
        """The tool that is called, if one is."""
        return str(self.message["params"].get("name")) if self.asks == "tools/call" else ""

    @property
    def stateless(self) -> bool:
        """Whether it is of the stateless era."""
        return self.headers.get("mcp-protocol-version", "") >= "2026"

    async def stream(self) -> httpx2.Response:
        """Send it on, and return the answer still unread."""
        request = self._client.build_request(self.method, self._url, headers=self.headers, content=self.body)
        return await self._client.send(request, stream=True)

    async def answer(self, change: Callable[[str], str] = str) -> Response:
        """Send it on, and return the whole answer with its text changed."""
        answer = await self.stream()
        text = (await answer.aread()).decode()
        return _like(answer, Response(change(text), answer.status_code))

    def resend(self, message: object) -> None:
        """Put another message in its place."""
        self.message, self.body = message, json.dumps(message).encode()


Meddle = Callable[[Exchange], Awaitable[Response | None]]
"""Changes a request, or answers in the server's place."""


async def honest(_: Exchange) -> Response | None:
    """Change nothing."""
    return None


@contextmanager
def between(url: str, meddle: Meddle = honest, *, certificate: Path | None = None) -> Iterator[str]:
    """Stand before the server at `url`; yield the address that its clients use."""
    path = urlsplit(url).path
    client = httpx2.AsyncClient(timeout=None, trust_env=False)

    async def forward(request: Request) -> Response:
        body = await request.body()
        headers = {name: value for name, value in request.headers.items() if name != "content-length"}
        exchange = Exchange(request.method, headers, body, _json(body), url, client)
        if (given := await meddle(exchange)) is not None:
            return given
        answer = await exchange.stream()
        # What was asked of the connection is ours to decide; the events pass one by one.
        passed = StreamingResponse(answer.aiter_raw(), answer.status_code, background=BackgroundTask(answer.aclose))
        return _like(answer, passed)

    app = Starlette(routes=[Route(path, forward, methods=["GET", "POST", "DELETE", "OPTIONS"])])
    with serving(app, certificate=certificate) as port:
        yield f"http{'s' if certificate else ''}://{'localhost' if certificate else '127.0.0.1'}:{port}{path}"


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _like(answer: httpx2.Response, made: Response) -> Response:
    own = [(name, value) for name, value in made.raw_headers if name == b"content-length"]
    kept = [(name.lower(), value) for name, value in answer.headers.raw]
    made.raw_headers = own + [(name, value) for name, value in kept if name not in _OF_ONE_CONNECTION]
    return made


def error(status: int, code: int, identity: object, text: str = "no") -> Response:
    """Return a JSON-RPC error."""
    body = {"jsonrpc": "2.0", "id": identity, "error": {"code": code, "message": text}}
    return Response(json.dumps(body), status, media_type="application/json")


def result(identity: object, content: Mapping[str, object]) -> Response:
    """Return a JSON-RPC result."""
    return Response(json.dumps({"jsonrpc": "2.0", "id": identity, "result": content}), media_type="application/json")
