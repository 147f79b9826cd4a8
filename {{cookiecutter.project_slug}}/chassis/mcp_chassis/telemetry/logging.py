"""One JSON object per line, and no way for an argument to get into it (O1, O2).

Two doors lead to the output. Ours takes declared events with declared fields; a type checker sees each call.
The other takes what libraries, tools and crashes send through the standard library: it keeps logger, level, place and
exception type, and drops the text, because the text is where arguments travel.
"""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, TextIO, TypedDict, Unpack

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor

from mcp_chassis import request as requests

Event = Literal[
    "message_handled",
    "tool_called",
    "request_refused",
    "crashed",
    "server_started",
    "server_stopped",
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
    seconds: float
    environment: str
    auth: str
    store: str
    url: str
    tools: list[str]
    connect: str
    hint: str


_LONGEST_FIELD: Final = 512
_SHOWN_FRAMES: Final = 20


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
    if requests.PROBE_SCOPE in request.caller.scopes:
        event["probe"] = True
    return event


def _keep_declared(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Drop what no declaration names: a type checker can be bypassed, this cannot."""
    return {name: _bounded(event[name]) for name in _ALLOWED if name in event}


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


class Log:
    """The only logger of the chassis."""

    def __init__(self) -> None:
        self._logger: FilteringBoundLogger = structlog.get_logger()
        self.lost = 0
        """Lines that could not be written."""

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

    def _write(self, level: int, event: Event, fields: Fields) -> None:
        try:
            self._logger.log(level, event, **fields)
        except Exception:
            # A full disk or a dead collector must cost the line, never the call it tells of (E2).
            self.lost += 1

    def library(self, level: int, **fields: Unpack[Fields]) -> None:
        """Write one line for what a library had to say; `level` is a number of the standard library's scale."""
        known = min(max(level // 10 * 10, logging.DEBUG), logging.CRITICAL)
        self._write(known, "library_record", fields)

    def crash(self, error: BaseException) -> None:
        """Write an unexpected exception: its type and where it passed, not its text."""
        self.error("crashed", **_error_fields(error))


log: Final = Log()


def type_name(error: BaseException) -> str:
    """Return the exception's type as `module.Name`."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def stack(traceback: TracebackType | None) -> list[str]:
    """Return the frames as `file:line:function`, innermost last; no source line, no local."""
    frames = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        frames.append(f"{Path(code.co_filename).name}:{traceback.tb_lineno}:{code.co_name}")
        traceback = traceback.tb_next
    return frames[-_SHOWN_FRAMES:]


class Gate(logging.Handler):
    """Let standard-library records through without their text.

    Args:
        trusted: Loggers whose message template (never its arguments) may be kept; a name covers its children.
    """

    def __init__(self, trusted: Iterable[str] = ()) -> None:
        super().__init__()
        self._trusted = tuple(trusted)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one `library_record` line for `record`."""
        trusted = self._trusted_part(record.name)
        fields = Fields(
            logger=trusted or module_part(record.name),
            place=f"{record.filename}:{record.lineno}:{record.funcName}",
            **_error_fields(record.exc_info[1] if record.exc_info else None),
        )
        if trusted and isinstance(record.msg, str):
            fields["template"] = record.msg
        log.library(record.levelno, **fields)

    def _trusted_part(self, name: str) -> str | None:
        return next((known for known in self._trusted if name == known or name.startswith(f"{known}.")), None)


def module_part(name: str) -> str:
    """Return the part of a logger's name that is a module; what follows may be made of an argument."""
    while name and name not in sys.modules:
        name = name.rpartition(".")[0]
    return name or "unknown"


def _error_fields(error: BaseException | None) -> Fields:
    if error is None:
        return Fields()
    return Fields(exception_type=type_name(error), stack=stack(error.__traceback__))


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Write a warning without its text, but with the line it names."""
    del message, file, line
    place = f"{Path(filename).name}:{lineno}"
    log.library(logging.WARNING, logger="warnings", place=place, exception_type=category.__name__)


def _without_text(_logger: object, level: str, event: EventDict) -> EventDict:
    """Let an event that somebody sends through structlog pass without its text and fields."""
    given = event.get("exc_info")
    error = sys.exc_info()[1] if given is True else given
    fields = Fields(logger="structlog", **_error_fields(error if isinstance(error, BaseException) else None))
    log.library(logging.getLevelNamesMapping()[level.upper()], **fields)
    raise structlog.DropEvent


def configure(
    *,
    style: Literal["json", "console"] = "json",
    level: Level = "info",
    trusted: Iterable[str] = (),
    stream: TextIO | None = None,
) -> None:
    """Send every line of this process through the two doors.

    Args:
        style: `json` for machines, `console` for a person at a terminal.
        level: Lowest level written.
        trusted: Loggers whose message templates may be kept.
        stream: Where lines go; standard error by default.
    """
    output = stream if stream is not None else sys.stderr
    threshold = logging.getLevelNamesMapping()[level.upper()]
    renderers: list[Processor] = (
        [_stack_as_text, structlog.dev.ConsoleRenderer(colors=output.isatty())]
        if style == "console"
        else [structlog.processors.JSONRenderer(default=str)]
    )
    ours: list[Processor] = [
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
        structlog.processors.add_log_level,
        _add_request,
        _keep_declared,
        *renderers,
    ]
    filtering = structlog.make_filtering_bound_logger(threshold)
    log.write_to(structlog.wrap_logger(structlog.PrintLogger(output), processors=ours, wrapper_class=filtering))
    foreign = structlog.make_filtering_bound_logger(max(threshold, logging.WARNING))
    structlog.configure(processors=[_without_text], wrapper_class=foreign, cache_logger_on_first_use=False)
    root = logging.getLogger()
    root.handlers[:] = [Gate(trusted)]
    root.setLevel(max(threshold, logging.WARNING))
    warnings.showwarning = _show_warning
    # On an error inside a handler the standard library would print the record, arguments and all.
    logging.raiseExceptions = False


def log_crashes() -> None:
    """Send uncaught exceptions of any thread through `log.crash`; Python would print their text."""
    sys.excepthook = lambda _kind, error, _traceback: log.crash(error)
    sys.unraisablehook = lambda unraisable: log.crash(unraisable.exc_value or RuntimeError())
    threading.excepthook = lambda crash: log.crash(crash.exc_value or RuntimeError())


def install_gate() -> None:
    """Close the second door before anything else opens it.

    The SDK's server calls `logging.basicConfig`, which does nothing once the root logger has a handler.
    """
    if not any(isinstance(handler, Gate) for handler in logging.getLogger().handlers):
        configure(level="warning")
