"""The second door to the log: what libraries, tools, prints and crashes send (O2).

It keeps logger, level, place and exception type, and drops the text, because the text is where arguments travel.
"""

from __future__ import annotations

import fcntl
import io
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterable
from typing import Final, Literal, TextIO

import structlog
from structlog.typing import EventDict

from mcp_chassis.errors import declared_type
from mcp_chassis.telemetry.logging import Fields, Level, error_fields, log, open_log, place

_LONGEST_PIECE: Final = 65_536
_PIPE: Final = 1_048_576
"""What Linux lets anybody have."""


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
            place=place(record.pathname, record.lineno, record.funcName or ""),
            **error_fields(record.exc_info[1] if record.exc_info else None),
        )
        if trusted and isinstance(record.msg, str):
            fields["template"] = record.msg
        if log.payloads:
            fields["text"] = _message(record)
        log.library(record.levelno, **fields)

    def _trusted_part(self, name: str) -> str | None:
        return next((known for known in self._trusted if name == known or name.startswith(f"{known}.")), None)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # a template that its arguments do not fit
        return str(record.msg)


def module_part(name: str) -> str:
    """Return the part of a logger's name that is a module; what follows may be made of an argument."""
    while name and name not in sys.modules:
        name = name.rpartition(".")[0]
    return name or "unknown"


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object, **__: object
) -> None:
    """Write a warning without its text, but with the line it names."""
    del message
    kind = declared_type(category).__name__
    log.library(logging.WARNING, logger="warnings", place=place(filename, lineno), exception_type=kind)


def _without_text(_logger: object, level: str, event: EventDict) -> EventDict:
    """Let an event that somebody sends through structlog pass without its text and fields."""
    given = event.get("exc_info")
    error = sys.exc_info()[1] if given is True else given
    fields = Fields(logger="structlog", **error_fields(error if isinstance(error, BaseException) else None))
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
    open_log(style=style, threshold=threshold, output=output)
    foreign = structlog.make_filtering_bound_logger(max(threshold, logging.WARNING))
    structlog.configure(processors=[_without_text], wrapper_class=foreign, cache_logger_on_first_use=False)
    root = logging.getLogger()
    root.handlers[:] = [Gate(trusted)]
    root.setLevel(max(threshold, logging.WARNING))
    warnings.showwarning = _show_warning
    # On an error inside a handler the standard library would print the record, arguments and all.
    logging.raiseExceptions = False


class _Printed(io.TextIOBase):
    """What takes the place of standard output: a `print` in a tool is a line without its text (O2)."""

    encoding, errors = "utf-8", "replace"

    def __init__(self, name: str, descriptor: int) -> None:
        self._name = name
        self._descriptor = descriptor
        self.buffer = os.fdopen(descriptor, "wb", buffering=0, closefd=False)

    def fileno(self) -> int:
        return self._descriptor

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if text.strip():
            frame = sys._getframe(1)
            code = frame.f_code
            fields = Fields(logger=self._name, place=place(code.co_filename, frame.f_lineno, code.co_name))
            if log.payloads:
                fields["text"] = text
            log.library(logging.WARNING, **fields)
        return len(text)


def own_stream(stream: TextIO) -> TextIO:
    """Return a stream to the same place that `catch_prints` does not divert."""
    try:
        descriptor = os.dup(stream.fileno())
    except (OSError, ValueError):  # in memory, or closed
        return stream
    return os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace")


def catch_prints() -> None:
    """Send what anybody prints from now on through the log, child processes and C code included."""
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        reading, writing = os.pipe()
        # Native code that writes more while it holds the interpreter would wait for a reader that cannot run.
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE)
        os.dup2(writing, descriptor)
        os.close(writing)
        threading.Thread(target=_drain, args=(reading, name), name=f"printed-{name}", daemon=True).start()
    sys.stdout, sys.stderr = _Printed("stdout", 1), _Printed("stderr", 2)


def _drain(reading: int, name: str) -> None:
    """Write a line without its text for each piece that a descriptor was sent."""
    while piece := os.read(reading, _LONGEST_PIECE):
        fields = Fields(logger=name)
        if log.payloads:
            fields["text"] = piece.decode("utf-8", "replace")
        log.library(logging.WARNING, **fields)


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
