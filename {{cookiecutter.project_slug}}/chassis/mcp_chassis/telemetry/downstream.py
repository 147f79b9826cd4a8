"""What a request did elsewhere: one record a call, in its log line, in the metrics and as a span (O1, O3, O5)."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from mcp_chassis import request as requests
from mcp_chassis.request import DownstreamCall
from mcp_chassis.telemetry.logging import declared_type
from mcp_chassis.telemetry.metrics import DOWNSTREAM_DURATION, DOWNSTREAM_ERRORS
from mcp_chassis.telemetry.tracing import span

_VALUE: Final = re.compile(r"'(?:[^']|'')*'|(?<=/)[^/ ]*[\d@%][^/ ]*|\b\d[\w.]*")
"""A quoted text, a path's segment with a digit, `@` or an escape, a number."""
_LONGEST_LIST: Final = 50
"""Records in one log line; a tool in a loop must not write a page."""


@dataclass(slots=True)
class Outcome:
    """How a call ended, for whoever makes it to say.

    Args:
        status: A word or number of ours, never a text of the other side.
        failed: Whether it counts as an error of the service.
    """

    status: str = "ok"
    failed: bool = False


@contextmanager
def recorded(service: str, operation: str) -> Iterator[Outcome]:
    """Record one call; an exception is its failure.

    Args:
        service: Declared name of the dependency: a label.
        operation: What is done there, hashed before it is written anywhere.
    """
    outcome, started = Outcome(), time.perf_counter()
    try:
        with span("downstream", service=service, operation_hash=_hashed(operation)):
            yield outcome
    except BaseException as error:
        outcome.status, outcome.failed = declared_type(error).__name__, isinstance(error, Exception)
        raise
    finally:
        record(service, operation, time.perf_counter() - started, outcome.status, failed=outcome.failed)


def record(service: str, operation: str, seconds: float, status: str, *, failed: bool) -> str:
    """Write down a call that is over and return its hash; the parameters are those of `recorded` and `Outcome`."""
    DOWNSTREAM_DURATION.labels(service).observe(seconds)
    # By 0 where it succeeded: without a series nobody can see that there are no errors.
    DOWNSTREAM_ERRORS.labels(service).inc(int(failed))
    request, operation_hash = requests.current(), _hashed(operation)
    if request is not None and len(request.downstream_calls) < _LONGEST_LIST:
        request.downstream_calls.append(
            DownstreamCall(
                service=service,
                operation_hash=operation_hash,
                duration_ms=round(seconds * 1000, 3),
                status=status,
            )
        )
    return operation_hash


@lru_cache(maxsize=4096)
def _hashed(operation: str) -> str:
    # Without what may be a value, or the hash would let anybody confirm a guess.
    return hashlib.sha256(_VALUE.sub("?", operation).encode("utf-8", "replace")).hexdigest()[:12]
