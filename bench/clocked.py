"""The generated server with a clock at the border of each layer: `python -m bench.clocked MODULE FILE`.

It runs with the project's own interpreter, so it imports nothing but the chassis. It measures by wrapping what each
layer calls: the layer below, and the ways in and out that it hands down. The product knows nothing of it. A reading is
the time between entering a layer and leaving it, without what it called meanwhile: whatever another layer does for this
one, such as sending, is that other layer's. Waiting counts too, also that for a task of its own to be run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from functools import partial, wraps
from importlib import import_module
from pathlib import Path
from time import perf_counter_ns
from typing import Any, Final, TypeVar

from mcp.server.mcpserver import MCPServer
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_chassis import app as application
from mcp_chassis import request as requests
from mcp_chassis.messages import Messages
from mcp_chassis.serve import serve
from mcp_chassis.server import Server
from mcp_chassis.telemetry.logging import Log

ROUTING: Final = "the way to the first layer"
EMPTY: Final = "an empty layer"
WHOLE: Final = "the whole call"
_OTHER: Final = ""
"""What is not ours: the SDK, the tool and the connection, parts of which run beside each other."""
_VERSION: Final = b"mcp-protocol-version"
Record = dict[str, int]
"""Nanoseconds by layer, of one request; those of the whole call among them."""
_T = TypeVar("_T")


class _Frame:
    """A layer that is at work, and the nanoseconds of what it called meanwhile."""

    __slots__ = ("called", "record")

    def __init__(self, record: Record) -> None:
        self.record = record
        self.called = 0

    def note(self, name: str, nanoseconds: int) -> None:
        """Add to what a layer took."""
        self.record[name] = self.record.get(name, 0) + nanoseconds


_frame: ContextVar[_Frame | None] = ContextVar("bench_frame", default=None)
"""The innermost layer at work; tasks that a layer starts work for it."""
_calls: Final[list[tuple[str, Record]]] = []
"""Of each call the protocol version and what each layer took."""


async def _timed(name: str, work: Callable[..., Awaitable[_T]], *arguments: Any) -> _T:
    """Do `work` on the account of a layer."""
    begun = perf_counter_ns()
    above = _frame.get()
    if above is None:
        return await work(*arguments)
    frame = _Frame(above.record)
    token = _frame.set(frame)
    try:
        return await work(*arguments)
    finally:
        _frame.reset(token)
        took = perf_counter_ns() - begun
        frame.note(name, took - frame.called)
        above.called += took


class _Way:
    """A way in or out that a layer hands down."""

    __slots__ = ("_name", "_way")

    def __init__(self, name: str, way: Callable[..., Awaitable[Any]]) -> None:
        self._name = name
        self._way = way

    def __call__(self, *message: Message) -> Awaitable[Any]:
        return _timed(self._name, self._way, *message)


def _handed(name: str, way: Callable[..., Awaitable[Any]]) -> _Way:
    """Return a way on the account of the layer that made it: one that is handed on unchanged has its account."""
    return way if isinstance(way, _Way) else _Way(name, way)


class Border:
    """What stands between a layer and the one below it."""

    def __init__(self, above: str, below: str, app: ASGIApp) -> None:
        self._above = above
        self._below = below
        self._inside = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        above = self._above
        return _timed(self._below, self._inside, scope, _handed(above, receive), _handed(above, send))


class _Empty:
    """A layer that does nothing but what every layer does: it shows what the clock takes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            await send(message)

        await self._app(scope, receive, sending)


def _clock_layers(way: Any) -> Any:
    """Put a border below each layer, and an empty layer above the SDK."""
    layer = way.boundary
    while hasattr(layer, "_app"):
        below = layer._app
        if not hasattr(below, "_app") and not isinstance(layer, _Empty):
            below = _Empty(below)
        layer._app = Border(_name(layer), _name(below), below)
        layer = below
    return way


def _name(layer: object) -> str:
    if isinstance(layer, _Empty):
        return EMPTY
    return type(layer).__name__ if hasattr(layer, "_app") else _OTHER


class _Whole:
    """The whole application: each request has its record here."""

    def __init__(self, inside: ASGIApp) -> None:
        self._inside = inside

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/mcp":
            await self._inside(scope, receive, send)
            return
        record: Record = {}
        whole = _Frame(record)
        _frame.set(whole)
        await Border(_OTHER, ROUTING, self._inside)(scope, receive, send)
        record[WHOLE] = whole.called
        request = requests.current()
        if request is not None and request.message is not None and request.message.tool is not None:
            _calls.append((dict(scope["headers"]).get(_VERSION, b"").decode("ascii"), record))


def _around(owner: Any, method: str, name: str) -> None:
    """Time an async method wherever it is called."""
    inside = getattr(owner, method)

    async def timed(*arguments: Any, **named: Any) -> Any:
        return await _timed(name, partial(inside, *arguments, **named))

    # Under the name of what it wraps: the chassis treats a method of the author's otherwise.
    setattr(owner, method, wraps(inside)(timed))


def _clock_messages() -> None:
    """Time the middleware among the SDK's; what it calls is the SDK's again."""
    inside = Messages.__call__

    async def timed(self: Messages, ctx: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
        async def next_one(context: Any) -> Any:
            return await _timed(_OTHER, call_next, context)

        return await _timed("Messages", inside, self, ctx, next_one)

    setattr(Messages, "__call__", timed)  # noqa: B010


def _clock_log() -> None:
    """Time each line of the log."""
    inside: Callable[..., None] = Log._write

    def timed(self: Log, *arguments: Any) -> None:
        begun = perf_counter_ns()
        inside(self, *arguments)
        above = _frame.get()
        if above is not None:
            took = perf_counter_ns() - begun
            above.called += took
            above.note("the log", took)

    setattr(Log, "_write", timed)  # noqa: B010


def clock() -> None:
    """Wrap everything; it must be done before the application is built."""
    layers, build = application._layers, application.build_app
    _clock_messages()
    _clock_log()
    _around(Server, "call_tool", "the call boundary")
    _around(MCPServer, "call_tool", _OTHER)

    def build_app(*arguments: Any, **named: Any) -> Any:
        built = build(*arguments, **named)
        built.mcp = Border(ROUTING, _name(built.mcp), built.mcp)
        inside = type(built).__call__

        class Clocked(type(built)):  # type: ignore[misc]
            async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
                await _Whole(lambda *ways: inside(self, *ways))(scope, receive, send)

        built.__class__ = Clocked
        return built

    vars(application)["_layers"] = lambda *given: _clock_layers(layers(*given))
    vars(sys.modules[serve.__module__])["build_app"] = build_app


if __name__ == "__main__":
    module, file = sys.argv[1:]
    clock()
    try:
        serve(import_module(module).server)
    finally:
        layers = [(version, {name: took for name, took in record.items() if name}) for version, record in _calls]
        Path(file).write_text(json.dumps(layers), encoding="utf-8")
