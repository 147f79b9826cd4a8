"""The body of a request: read whole, bounded, parsed once (T7).

It comes after identity, so that nobody costs us the reading and parsing of a body before they have proven who they are;
whether they have room is asked before it for large bodies, and after it, with what the message is, for the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from mcp_types import INVALID_REQUEST, PARSE_ERROR
from pydantic_core import from_json
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as Event

from mcp_chassis import request as requests
from mcp_chassis.http import Refused
from mcp_chassis.limiter import Entry
from mcp_chassis.request import Message, Request

_DEEPEST: Final = 64
_LONGEST_TEXT: Final = 128
"""For ids, methods and tool names; the specification bounds the last at 128 (2026-07-28, tool names)."""
_LARGEST_ID: Final = 2**53 - 1
"""The largest integer that every JSON reader keeps exactly (RFC 8259, 6)."""
Judge = Callable[[Scope, Request, Entry], Awaitable[None]]
_LARGE: Final = 65_536


def parse(body: bytes) -> Message:
    """Return what decisions need of `body`.

    Raises:
        Refused: If it is not one JSON-RPC message within the bounds, with the code the SDK would use.
    """
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError:
        raise Refused(400, "not_json", "The body must be JSON in UTF-8", PARSE_ERROR) from None
    if isinstance(value, list):
        raise _malformed("batch", "Send one message per POST; the protocol has no batches since 2025-06-18")
    if not isinstance(value, dict):
        raise _malformed("not_a_message", "The body must be one JSON-RPC object")
    if _deeper(body, value):
        raise _malformed("too_deep", f"The body must nest at most {_DEEPEST} levels")
    if value.get("jsonrpc") != "2.0":
        raise _malformed("bad_version", 'jsonrpc must be "2.0"')
    if not isinstance(value.get("params"), dict | None):
        raise _malformed("bad_params", "params must be an object")
    method = _method(value)
    if method is None and not _is_answer(value):
        raise _malformed("bad_answer", "An answer must hold an id and a result object, or an error's code and message")
    return Message(method=method, id=_id(value), tool=_tool(value))


def _malformed(reason: str, message: str) -> Refused:
    return Refused(400, reason, message, INVALID_REQUEST)


def _deeper(body: bytes, value: dict[str, Any]) -> bool:
    if body.count(b"{") + body.count(b"[") <= _DEEPEST:
        return False
    level: list[Any] = [value]
    for _ in range(_DEEPEST):
        level = [child for node in level for child in _children(node)]
        if not level:
            return False
    return True


def _children(node: Any) -> list[Any]:
    inner = node.values() if isinstance(node, dict) else node
    return [child for child in inner if isinstance(child, dict | list)]


def _method(value: dict[str, Any]) -> str | None:
    method = value.get("method")
    if method is None and ("result" in value or "error" in value):
        return None
    if not isinstance(method, str) or not 0 < len(method) <= _LONGEST_TEXT:
        raise _malformed("bad_method", f"method must be text of 1 to {_LONGEST_TEXT} characters")
    return method


def _is_answer(value: dict[str, Any]) -> bool:
    """Tell whether the SDK takes `value` as an answer to it; what it refuses, it quotes."""
    if "id" not in value:
        return False
    error = value.get("error")
    if not isinstance(error, dict):
        return isinstance(value.get("result"), dict)
    return type(error.get("code")) is int and isinstance(error.get("message"), str)


def _id(value: dict[str, Any]) -> str | int | None:
    if "id" not in value:
        return None
    given = value["id"]
    if isinstance(given, str) and len(given) <= _LONGEST_TEXT:
        return given
    if isinstance(given, int) and not isinstance(given, bool) and abs(given) <= _LARGEST_ID:
        return given
    raise _malformed("bad_id", f"id must be a whole number or text of at most {_LONGEST_TEXT} characters")


def _tool(value: dict[str, Any]) -> str | None:
    if value.get("method") != "tools/call":
        return None
    params = value.get("params")
    name = params.get("name") if isinstance(params, dict) else None
    if isinstance(name, str) and len(name) > _LONGEST_TEXT:
        raise _malformed("bad_tool_name", f"A tool's name has at most {_LONGEST_TEXT} characters")
    return name if isinstance(name, str) else None


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
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        request = requests.entered()
        if _large(request.headers):
            # Reading and parsing it costs as much as many calls, so its caller must have room before.
            await self._judge(scope, request, "request")
        try:
            body = await self._read(request.headers, receive)
            if body is None:
                return
            if request.asserted is not None:
                request.asserted.check_body(body)
            request.message = parse(body)
        except Refused:
            # What cannot be read is a request all the same: else malformed ones would be without limit.
            if not request.judged:
                await self._judge(scope, request, "request")
            raise
        await self._app(scope, _replay(body, receive), send)

    async def _read(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes | None:
        """Return the whole body, None if the client left, or refuse one that is too large or too slow."""
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._max_body_bytes:
            raise self._too_large()
        try:
            # asyncio's own: it costs a tenth of a cancel scope, and nothing below is to be shielded from it.
            async with asyncio.timeout(self._receive_timeout):
                return await self._collect(receive)
        except TimeoutError:
            text = f"The body must arrive within {self._receive_timeout:g} s"
            raise Refused(408, "body_too_slow", text, headers=[(b"connection", b"close")]) from None

    async def _collect(self, receive: Receive) -> bytes | None:
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self._max_body_bytes:
                raise self._too_large()
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)

    def _too_large(self) -> Refused:
        return Refused(413, "body_too_large", f"The body must be at most {self._max_body_bytes} bytes")


def _large(headers: Mapping[bytes, bytes]) -> bool:
    declared = headers.get(b"content-length", b"")
    return not declared.isdigit() or int(declared) > _LARGE


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives `body` in one piece and then waits for what comes after it."""
    pending: list[Event] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Event:
        return pending.pop() if pending else await receive()

    return replayed
