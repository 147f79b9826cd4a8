"""The body of a request: read whole, bounded, parsed once (T7).

It comes after identity, so that nobody costs us the reading and parsing of a body before they have proven who they are;
whether they have room is asked before it for large bodies, and after it, with what the message is, for the others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import anyio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_chassis import request as requests
from mcp_chassis.http.body import parse
from mcp_chassis.http.refusal import Refused
from mcp_chassis.limits.limiter import Entry
from mcp_chassis.request import Request

Judge = Callable[[Scope, Request, Entry], Awaitable[None]]
_LARGE: Final = 65_536


class Envelope:
    """Hand the body on in one piece, once its message is well formed.

    Args:
        judge: Lets a request pass whose message is not known, or raises `Refused`.
        max_body_bytes: Largest body.
        receive_timeout: Seconds the whole body may take to arrive.
    """

    def __init__(self, app: ASGIApp, *, judge: Judge, max_body_bytes: int, receive_timeout: float) -> None:
        self._app = app
        self._judge = judge
        self._max_body_bytes = max_body_bytes
        self._receive_timeout = receive_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = requests.current()
        if scope["type"] != "http" or request is None or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if _large(headers):
            # Reading and parsing it costs as much as many calls, so its caller must have room before.
            await self._judge(scope, request, "request")
        try:
            body = await self._read(headers, receive)
            if body is None:
                return
            request.message = parse(body)
        except Refused:
            # What cannot be read is a request all the same: else malformed ones would be without limit.
            if not request.judged:
                await self._judge(scope, request, "request")
            raise
        await self._app(scope, _replay(body, receive), send)

    async def _read(self, headers: Headers, receive: Receive) -> bytes | None:
        """Return the whole body, None if the client left, or refuse one that is too large or too slow."""
        too_large = Refused(413, "body_too_large", f"The body must be at most {self._max_body_bytes} bytes")
        declared = headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > self._max_body_bytes:
            raise too_large
        chunks: list[bytes] = []
        size = 0
        with anyio.move_on_after(self._receive_timeout):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                chunk = message.get("body", b"")
                size += len(chunk)
                if size > self._max_body_bytes:
                    raise too_large
                chunks.append(chunk)
                if not message.get("more_body", False):
                    return b"".join(chunks)
        seconds = f"{self._receive_timeout:g}"
        raise Refused(
            408,
            "body_too_slow",
            f"The body must arrive within {seconds} s",
            headers=[(b"connection", b"close")],
        )


def _large(headers: Headers) -> bool:
    declared = headers.get("content-length", "")
    return not declared.isdigit() or int(declared) > _LARGE


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives `body` in one piece and then waits for what comes after it."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return pending.pop() if pending else await receive()

    return replayed
