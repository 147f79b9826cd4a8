"""One JSON object per line, and no way for an argument to get into it (O1, O2).

Two doors lead to the output. This one takes declared events with declared fields; a type checker sees each call.
`gate` is the other.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, TextIO, TypedDict, Unpack

import orjson
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor

from mcp_chassis import request as requests
from mcp_chassis.errors import declared_type
from mcp_chassis.request import DownstreamCall
from mcp_chassis.telemetry import CRASHES, LOST_LINES

Event = Literal[
    "message_handled",
    "tool_called",
    "request_refused",
    "crashed",
    "server_started",
    "server_stopped",
    "drain_started",
    "drained",
    "stop_forced",
    "request_forwarded",
    "resource_mismatch",
    "resource_unreachable",
    "resource_not_kept",
    "owner_unreached",
    "session_opened",
    "session_closed",
    "unknown_variable",
    "library_record",
    "authentication_off",
    "store_silent",
    "store_answers",
    "keys_unreadable",
    "issuer_silent",
    "issuer_answers",
    "container_without_edge",
    "caller_suspended",
    "breaker_changed",
    "payloads_logged",
]
"""Every line a server can write names one of these."""

Level = Literal["debug", "info", "warning", "error", "critical"]


class Fields(TypedDict, total=False):
    """The fields a line may carry beside those of its request."""

    method: str
    tool_name: str
    duration_ms: float
    status: str
    error_code: str
    http_status: int
    input_token_count: int
    notifications_sent: int
    downstream_calls: list[DownstreamCall]
    client_name: str
    client_version: str
    protocol_version: str
    exception_type: str
    stack: list[str]
    logger: str
    place: str
    template: str
    variable: str
    nearest: str
    reason: str
    sessions: int
    streams: int
    calls: int
    interrupted: int
    expected: str
    actual: str
    expected_bytes: int
    actual_bytes: int
    cut: int
    seconds: float
    environment: str
    auth: str
    store: str
    url: str
    tools: list[str]
    connect: str
    hint: str
    service: str
    state: str
    payload: str
    text: str


_PAYLOADS: Final = ("payload", "text")
"""What may hold an argument: written with `MCP_LOG_PAYLOADS` alone, and then in development alone (O2)."""
_LONGEST_FIELD: Final = 512
_SHOWN_FRAMES: Final = 20
_files: Final[set[str]] = set()
"""Of the modules that were loaded when it was last asked."""


def _add_request(_logger: object, _method: str, event: EventDict) -> EventDict:
    request = requests.current()
    if request is None:
        return event
    event["request_id"] = request.id
    event["mcp_request_id"] = None if request.message is None else request.message.id
    event["session_id"] = request.session_id
    event["caller_id"] = request.caller.id
    event["tenant_id"] = request.caller.tenant
    event["trace_id"] = request.trace_id
    if request.probing:
        event["probe"] = True
    return event


def _keep_declared(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Drop what no declaration names: a type checker can be bypassed, this cannot."""
    return {
        name: _bounded(event[name]) for name in _ALLOWED if name in event and (log.payloads or name not in _PAYLOADS)
    }


def _stack_as_text(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Write the frames of a crash one below the other, as the console's renderer wants them."""
    if "stack" in event:
        event["stack"] = "\n".join(event["stack"])
    return event


def _bounded(value: object) -> object:
    return value[:_LONGEST_FIELD] if isinstance(value, str) else value


_REQUEST_FIELDS: Final = ("request_id", "mcp_request_id", "session_id", "caller_id", "tenant_id", "trace_id", "probe")
_ALLOWED: Final = ("timestamp", "level", "event", *Fields.__annotations__, *_REQUEST_FIELDS)
"""In the order in which a line shows them."""


class _Output:
    """Where lines go, one write each.

    Not structlog's loggers: one looks `sys.stdout` up anew and finds the gate, and both hold a lock that a thread
    cannot take twice, so that a finalizer that fails while a line is written would stop the server for ever.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.RLock()

    def msg(self, line: str) -> None:
        """Write one line."""
        with self._lock:
            self._stream.write(line + "\n")
            self._stream.flush()

    debug = info = warning = error = critical = msg


class Log:
    """The only logger of the chassis."""

    def __init__(self) -> None:
        self._logger: FilteringBoundLogger = structlog.get_logger()
        self.payloads = False
        """Whether arguments and texts may be written; never in production."""

    def write_to(self, logger: FilteringBoundLogger) -> None:
        """Send all lines to `logger` from now on."""
        self._logger = logger

    def info(self, event: Event, **fields: Unpack[Fields]) -> None:
        """Write one line for something that is as it should be."""
        self._write(logging.INFO, event, fields)

    def warning(self, event: Event, **fields: Unpack[Fields]) -> None:
        """Write one line for something an operator may want to change."""
        self._write(logging.WARNING, event, fields)

    def error(self, event: Event, **fields: Unpack[Fields]) -> None:
        """Write one line for something that broke."""
        self._write(logging.ERROR, event, fields)

    def critical(self, event: Event, **fields: Unpack[Fields]) -> None:
        """Write one line for something that somebody must look at now."""
        self._write(logging.CRITICAL, event, fields)

    def _write(self, level: int, event: Event, fields: Fields) -> None:
        try:
            self._logger.log(level, event, **fields)
        except Exception:
            # A full disk or a dead collector must cost the line, never the call it tells of (E2).
            LOST_LINES.inc()

    def library(self, level: int, **fields: Unpack[Fields]) -> None:
        """Write one line for what a library had to say; `level` is a number of the standard library's scale."""
        known = min(max(level // 10 * 10, logging.DEBUG), logging.CRITICAL)
        self._write(known, "library_record", fields)

    def crash(self, error: BaseException) -> None:
        """Write an unexpected exception: its type and where it passed, not its text."""
        CRASHES.inc()
        self.error("crashed", **error_fields(error))


log: Final = Log()


def place(path: str, line: int, function: str = "") -> str:
    """Return `file:line:function` of code that a module holds; what else is called a file may be an argument."""
    if path not in _files:
        _files.update({str(getattr(module, "__file__", None)) for module in tuple(sys.modules.values())})
    if path not in _files:
        return f"unknown:{line}"
    return f"{Path(path).name}:{line}" + (f":{function}" if function else "")


def type_name(error: BaseException) -> str:
    """Return the exception's type as `module.Name`."""
    kind = declared_type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def stack(traceback: TracebackType | None) -> list[str]:
    """Return the frames as `file:line:function`, innermost last; no source line, no local."""
    frames = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        frames.append(place(code.co_filename, traceback.tb_lineno, code.co_name))
        traceback = traceback.tb_next
    return frames[-_SHOWN_FRAMES:]


def error_fields(error: BaseException | None) -> Fields:
    """Return what a line tells of an exception: type and stack."""
    if error is None:
        return Fields()
    shown = Fields(text=str(error)) if log.payloads else Fields()
    return Fields(exception_type=type_name(error), stack=stack(error.__traceback__), **shown)


def open_log(*, style: Literal["json", "console"], threshold: int, output: TextIO) -> None:
    """Write every line of `log` to `output` from now on.

    Args:
        style: `json` for machines, `console` for a person at a terminal.
        threshold: Lowest level written, a number of the standard library's scale.
        output: Where lines go.
    """
    renderers: list[Processor] = (
        [_stack_as_text, structlog.dev.ConsoleRenderer(colors=output.isatty())]
        if style == "console"
        else [structlog.processors.JSONRenderer(_as_json)]
    )
    ours: list[Processor] = [
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
        structlog.processors.add_log_level,
        _add_request,
        _keep_declared,
        *renderers,
    ]
    filtering = structlog.make_filtering_bound_logger(threshold)
    log.write_to(structlog.wrap_logger(_Output(output), processors=ours, wrapper_class=filtering))


def _as_json(event: EventDict, **_options: object) -> str:
    try:
        return orjson.dumps(event, default=str).decode()
    except TypeError:
        return json.dumps(event, default=str)  # a lone surrogate or a huge number, which orjson refuses
