"""The stdio transport: a message that cannot be read is answered, not dropped (T6)."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Final

import anyio
from mcp.server.stdio import stdio_server
from mcp.shared.message import SessionMessage
from mcp_types import INVALID_REQUEST, PARSE_ERROR, ErrorData, JSONRPCError, JSONRPCRequest, RequestId
from pydantic import ValidationError

from mcp_chassis.server import Server
from mcp_chassis.settings import Settings
from mcp_chassis.state import open_store
from mcp_chassis.telemetry.gate import catch_prints
from mcp_chassis.telemetry.tracing import start_tracing

_LONGEST_ID: Final = 128


async def serve_stdio(server: Server, settings: Settings, beside: AbstractAsyncContextManager[object]) -> None:
    """Serve one client over standard input and output until it closes them, with `beside` open meanwhile."""
    stop_tracing = start_tracing(server.name, server.version)
    store = open_store(settings.state_url.get_secret_value(), server=server.name, longest=settings.state_timeout)
    server.limit(settings, store)
    try:
        async with beside:
            await _serve(server)
    finally:
        await store.close()
        await server.close()
        stop_tracing()


async def _serve(server: Server) -> None:
    async with stdio_server() as (read, write), anyio.create_task_group() as tasks:
        # Not before the SDK has taken the real standard output for the protocol.
        catch_prints()
        inbound, readable = anyio.create_memory_object_stream[SessionMessage | Exception](0)

        async def sift() -> None:
            async with inbound:
                async for item in read:
                    error = _error_of(item)
                    if error is None:
                        await inbound.send(item)
                    else:
                        await write.send(SessionMessage(error))

        tasks.start_soon(sift)
        await server.serve_streams(readable, write)
        tasks.cancel_scope.cancel()


def _error_of(item: SessionMessage | Exception) -> JSONRPCError | None:
    """Return what to answer to an item that is no message of ours to handle."""
    if isinstance(item, ValidationError):
        broken = any(part["type"] == "json_invalid" for part in item.errors(include_input=False))
        return _error(None, PARSE_ERROR if broken else INVALID_REQUEST, "This line is not one JSON-RPC message")
    if isinstance(item, Exception):
        return _error(None, PARSE_ERROR, "This line is not JSON in UTF-8")
    if isinstance(item.message, JSONRPCRequest) and len(str(item.message.id)) > _LONGEST_ID:
        return _error(None, INVALID_REQUEST, f"id must have at most {_LONGEST_ID} characters")
    return None


def _error(request_id: RequestId | None, code: int, message: str) -> JSONRPCError:
    return JSONRPCError(jsonrpc="2.0", id=request_id, error=ErrorData(code=code, message=message))
