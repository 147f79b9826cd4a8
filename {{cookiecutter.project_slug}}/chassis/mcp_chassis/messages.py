"""The outermost look at every MCP message: ids, one log line, and no exception past this point (E2, O1).

It sits at index 0 of the SDK's middleware, so the SDK's own middleware, its handlers and yours are all inside.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, TypeVar

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.session import ServerSession
from mcp.shared.dispatcher import ProgressFnT
from mcp.shared.exceptions import MCPError, NoBackChannelError
from mcp.shared.message import ServerMessageMetadata
from mcp_types import (
    CLIENT_INFO_META_KEY,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    PROTOCOL_VERSION_META_KEY,
    ErrorData,
    ServerNotification,
    ServerRequest,
)
from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from mcp_chassis import request as requests
from mcp_chassis.errors import is_cancellation, printable, violations
from mcp_chassis.request import Message, Request
from mcp_chassis.telemetry import count_call, span
from mcp_chassis.telemetry.logging import Fields, log

_TOOL_CALL: Final = "tools/call"
_INTRODUCTIONS: Final = frozenset({"initialize", "server/discover"})
_BYTES_A_TOKEN: Final = 4
"""A rough measure for `input_token_count`, good enough to see which calls are large."""


_CAPABILITIES: Final = {
    "elicitation/create": "elicitation",
    "sampling/createMessage": "sampling",
    "roots/list": "roots",
}
"""What a client must declare before it may be asked (2025-11-25, lifecycle, capability negotiation)."""
_Answer = TypeVar("_Answer", bound=BaseModel)


class Messages:
    """Server middleware that gives every message its identity, its log line and its last line of defence.

    Args:
        known_tool: Tells whether a tool is ours; any other name is the caller's text and stays out of the log.
        known_method: The same for methods.
    """

    def __init__(self, known_tool: Callable[[str], bool], known_method: Callable[[str], bool]) -> None:
        self._known_tool = known_tool
        self._known_method = known_method

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Handle one message and write its line."""
        request = _request_of(ctx)
        method = ctx.method if self._known_method(ctx.method) else "unknown"
        started = time.perf_counter()
        try:
            with span(method, request.trace_parent, request_id=request.id):
                # What can tell nothing but its answer needs no session that counts.
                result = await call_next(
                    ctx if request.answer_only else replace(ctx, session=_Session(ctx.session, request))
                )
            request.initialized = ctx.method == "initialize"
            return result
        except MCPError as error:
            request.status, request.error_code = "rejected", str(error.code)
            raise
        except ValidationError as error:
            request.status, request.error_code = "rejected", str(INVALID_PARAMS)
            raise MCPError(INVALID_PARAMS, f"Invalid params: {violations(error)}") from None
        except BaseException as error:
            if is_cancellation(error):
                request.status = "cancelled"
                raise
            request.status, request.error_code = "crashed", str(INTERNAL_ERROR)
            log.crash(error)
            raise MCPError.from_error_data(unexpected(request)) from None
        finally:
            self._finish(ctx, request, method, time.perf_counter() - started)

    def _finish(self, ctx: ServerRequestContext[Any, Any], request: Request, method: str, seconds: float) -> None:
        try:
            self._write(ctx, request, method, seconds)
        except Exception as error:
            log.crash(error)  # counting and writing must not cost the caller the answer (E2)

    def _write(self, ctx: ServerRequestContext[Any, Any], request: Request, method: str, seconds: float) -> None:
        fields = Fields(method=method, duration_ms=round(seconds * 1000, 3), status=request.status)
        if request.error_code is not None:
            fields["error_code"] = request.error_code
        params = ctx.params or {}
        if ctx.method in _INTRODUCTIONS:
            fields.update(_introduction(params))
        if ctx.method != _TOOL_CALL:
            log.info("message_handled", **fields)
            return
        name = params.get("name")
        tool = name if isinstance(name, str) and self._known_tool(name) else "unknown"
        arguments = to_json(params.get("arguments"), fallback=str)
        fields["tool_name"] = tool
        fields["input_token_count"] = len(arguments) // _BYTES_A_TOKEN
        fields["notifications_sent"] = request.notifications_sent
        fields["downstream_calls"] = request.downstream_calls
        if log.payloads:
            fields["payload"] = arguments.decode("utf-8", "replace")
        asked = "progressToken" in _mapping(params.get("_meta"))
        count_call(tool, request, seconds, progress_asked=asked)
        log.info("tool_called", **fields)


def unexpected(request: Request) -> ErrorData:
    """Return the answer to a crash: generic, with the id under which the log tells more."""
    return ErrorData(
        code=INTERNAL_ERROR,
        message=f"Internal error; quote request {request.id} when you report it",
        data={"requestId": request.id},
    )


def _request_of(ctx: ServerRequestContext[Any, Any]) -> Request:
    request = requests.current()
    if request is None or ctx.request is None:
        # Without HTTP no layer opened a request, and one that `initialize` left behind is not this message's.
        request = Request(id=requests.new_id(), caller=requests.local_caller.get())
        request.message = Message(method=ctx.method, id=ctx.request_id, tool=None)
        requests.enter(request)
    given = requests.trace_parent(_mapping((ctx.params or {}).get("_meta")).get("traceparent"))
    request.trace_parent = given or request.trace_parent
    return request


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _introduction(params: Mapping[str, Any]) -> Fields:
    """Return what a client says about itself, cut short: it is unverified text."""
    meta = _mapping(params.get("_meta"))
    shown = _mapping(params.get("clientInfo", meta.get(CLIENT_INFO_META_KEY)))
    version = params.get("protocolVersion", meta.get(PROTOCOL_VERSION_META_KEY, ""))
    return Fields(
        client_name=printable(shown.get("name", "")),
        client_version=printable(shown.get("version", "")),
        protocol_version=printable(version),
    )


class _Session(ServerSession):
    """The SDK's session, which counts what a message sends, and asks nobody who never said that they answer."""

    def __init__(self, session: ServerSession, request: Request) -> None:
        self.__dict__.update(session.__dict__)
        self._request = request

    async def send_request(
        self,
        request: ServerRequest,
        result_type: type[_Answer],
        request_read_timeout_seconds: float | None = None,
        metadata: ServerMessageMetadata | None = None,
        progress_callback: ProgressFnT | None = None,
    ) -> _Answer:
        """Ask the client.

        Raises:
            NoBackChannelError: If it declared no capability for such a question: it may leave it unanswered for ever.
        """
        needed = _CAPABILITIES.get(request.method)
        if needed is not None and getattr(self.client_capabilities, needed, None) is None:
            raise NoBackChannelError(request.method)
        return await super().send_request(
            request, result_type, request_read_timeout_seconds, metadata, progress_callback
        )

    async def report_progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Report progress and count it."""
        self._request.notifications_sent += 1
        await super().report_progress(progress, total, message)

    async def _notify(self, notification: ServerNotification, *, request_scoped: bool) -> None:
        """Count what is sent: log messages that the client did not ask for never get here."""
        self._request.notifications_sent += 1
        await super()._notify(notification, request_scoped=request_scoped)
