"""What every way of starting a server does first: settings, logs, tools; nothing opens before they are right (S1)."""

from __future__ import annotations

import tempfile
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final, Literal, TextIO

import anyio
from mcp.server.stdio import stdio_server
from mcp.shared.message import SessionMessage
from mcp_types import INVALID_REQUEST, PARSE_ERROR, ErrorData, JSONRPCError, JSONRPCRequest, RequestId
from pydantic import ValidationError

from mcp_chassis import request as requests
from mcp_chassis.environment import ConfigurationError, Problem, ServerSettings, load, unknown_variables
from mcp_chassis.fetching import Fetcher
from mcp_chassis.pins import LOCK, Unpinnable, read_lock
from mcp_chassis.request import Caller
from mcp_chassis.resources import Copies, Resources, use
from mcp_chassis.server import Server
from mcp_chassis.settings import Settings
from mcp_chassis.state import open_store
from mcp_chassis.telemetry import start_tracing
from mcp_chassis.telemetry.gate import catch_prints, configure, log_crashes, own_stream
from mcp_chassis.telemetry.logging import log

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


def start(server: Server, *, stream: TextIO) -> Settings:
    """Read the environment, open the log on `stream` and import the tools.

    Raises:
        ConfigurationError: If the environment does not make this server.
    """
    settings, own = load(Settings, *server.own_settings)
    for loaded in own:
        ServerSettings.use(loaded)
    stream = own_stream(stream)
    configure(
        style=settings.log_format or _style(settings, stream),
        level=settings.log_level,
        trusted=settings.log_trusted_loggers,
        stream=stream,
    )
    log.payloads = settings.log_payloads
    if settings.log_payloads:
        log.warning("payloads_logged", hint="lines hold arguments and texts; production refuses this")
    for name, nearest in unknown_variables(Settings, *server.own_settings):
        log.warning("unknown_variable", variable=name, nearest=nearest or "", hint="nothing reads it")
    server.prepare(settings)
    speaker = Caller(settings.stdio_caller, settings.stdio_tenant, frozenset(settings.stdio_scopes))
    requests.local_caller.set(speaker)
    # From here on callers' data is near; before, the text of a failed import helps its author.
    log_crashes()
    return settings


def pinned(server: Server, settings: Settings) -> Resources:
    """Return the pinned resources of `server`, each with a verified copy (C1).

    Raises:
        ConfigurationError: If one has none, or the lock is wrong.
    """
    try:
        pins = read_lock()
    except Unpinnable as error:
        raise ConfigurationError([Problem(str(LOCK), None, str(error))]) from None
    cache = settings.resource_cache or Path(tempfile.gettempdir()) / f"{server.name}-resources"
    fetcher = Fetcher(internal_hosts=settings.resource_hosts)
    resources = Resources(pins, copies=Copies(cache), fetcher=fetcher, interval=settings.resource_interval)
    if pins:
        anyio.run(resources.prepare)
    use(resources)
    return resources


def _style(settings: Settings, stream: TextIO) -> Literal["json", "console"]:
    return "console" if settings.environment == "development" and stream.isatty() else "json"
