"""Calls of other services: bounded, retried, broken off in time, recorded, under the id they serve (L7, O1, O3).

weather = downstream.client("weather", base_url="https://weather.example")

@server.tool()
async def forecast(city: str) -> Forecast:
    answer = await weather.get("/forecast", params={"city": city})
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import httpx2
import stamina
from stamina.instrumentation import set_on_retry_hooks

from mcp_chassis import request as requests
from mcp_chassis.limits.breaker import Breaker
from mcp_chassis.request import DownstreamCall
from mcp_chassis.telemetry.logging import declared_type
from mcp_chassis.telemetry.metrics import DOWNSTREAM_DURATION, DOWNSTREAM_ERRORS
from mcp_chassis.telemetry.tracing import span, trace_headers

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


_IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
"""RFC 9110, 9.2.2: these may be sent again."""
_WORTH_ANOTHER_TRY: Final = frozenset({429, 502, 503, 504})
_ATTEMPTS: Final = 3
_CONNECT_SECONDS: Final = 3.0

# Its hooks would log the arguments of what is retried.
set_on_retry_hooks([])


def client(service: str, *, timeout: float = 10, breaker: Breaker | None = None, **options: Any) -> httpx2.AsyncClient:
    """Return an HTTP client for one dependency; make it once, at import.

    Args:
        service: What logs and metrics call it.
        timeout: Seconds one attempt may take.
        breaker: Its own breaker, where the default is not right.
        options: What `httpx2.AsyncClient` takes; `transport` is what this one wraps.
    """
    inner = options.pop("transport", None) or httpx2.AsyncHTTPTransport()
    transport = _Transport(inner, service, breaker or Breaker(service))
    bounds = httpx2.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS))
    return httpx2.AsyncClient(transport=transport, timeout=bounds, **options)


class _Again(Exception):
    """An answer that is worth another try."""

    def __init__(self, response: httpx2.Response) -> None:
        super().__init__("again")
        self.response = response


class _Transport(httpx2.AsyncBaseTransport):
    def __init__(self, inner: httpx2.AsyncBaseTransport, service: str, breaker: Breaker) -> None:
        self._inner = inner
        self._service = service
        self._breaker = breaker

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        current = requests.current()
        if current is not None:
            request.headers.setdefault("X-Request-ID", current.id)
        # A body that is made while it is sent can be sent once.
        again = request.method in _IDEMPOTENT and isinstance(request.stream, httpx2.ByteStream)
        attempts = _ATTEMPTS if again else 1
        try:
            async for attempt in stamina.retry_context(
                on=(_Again, httpx2.TransportError), attempts=attempts, timeout=None, wait_initial=0.05, wait_max=1.0
            ):
                with attempt:
                    response = await self._once(request)
                    if response.status_code in _WORTH_ANOTHER_TRY and attempt.num < attempts:
                        await response.aclose()
                        raise _Again(response)
        except _Again as last:
            response = last.response
        return response

    async def _once(self, request: httpx2.Request) -> httpx2.Response:
        period = self._breaker.enter()
        with recorded(self._service, f"{request.method} {request.url.path}") as outcome:
            try:
                request.headers.update(trace_headers())
                response = await self._inner.handle_async_request(request)
            except Exception:
                self._breaker.leave(period, failed=True)
                raise
            except BaseException:
                self._breaker.abandon(period)
                raise
            outcome.status = str(response.status_code)
            outcome.failed = response.status_code >= httpx2.codes.INTERNAL_SERVER_ERROR
            self._breaker.leave(period, failed=outcome.failed)
            return response

    async def aclose(self) -> None:
        await self._inner.aclose()
