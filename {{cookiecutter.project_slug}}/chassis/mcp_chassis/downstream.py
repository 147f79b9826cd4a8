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
from collections import deque
from functools import lru_cache
from typing import Any, Final, Literal

import httpx2
import stamina
from stamina.instrumentation import set_on_retry_hooks

from mcp_chassis import request as requests
from mcp_chassis.errors import NotNow, declared_type
from mcp_chassis.request import DownstreamCall
from mcp_chassis.telemetry import BREAKER_STATE, DOWNSTREAM_DURATION, DOWNSTREAM_ERRORS, span, trace_headers
from mcp_chassis.telemetry.logging import log

State = Literal["closed", "half_open", "open"]
_NUMBERS: Final[dict[State, int]] = {"closed": 0, "half_open": 1, "open": 2}
_MOST_OUTCOMES: Final = 1000
states: Final[dict[str, State]] = {}
"""Of every breaker of this process, by service."""
_VALUE: Final = re.compile(r"'(?:[^']|'')*'|(?<=/)[^/ ]*[\d@%][^/ ]*|\b\d[\w.]*")
"""A quoted text, a path's segment with a digit, `@` or an escape, a number."""
_LONGEST_LIST: Final = 50
"""Records in one log line; a tool in a loop must not write a page."""
_IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
"""RFC 9110, 9.2.2: these may be sent again."""
_WORTH_ANOTHER_TRY: Final = frozenset({429, 502, 503, 504})
_ATTEMPTS: Final = 3
_CONNECT_SECONDS: Final = 3.0


class Breaker:
    """Closed until too large a share of the recent calls failed, then open; then one call may try.

    Args:
        service: Whose breaker it is.
        ratio: Share of failures that opens it.
        minimum: Calls in the window before the share means anything.
        window: Seconds.
        pause: Seconds it stays open.
    """

    def __init__(
        self, service: str, *, ratio: float = 0.5, minimum: int = 10, window: float = 30, pause: float = 10
    ) -> None:
        self._service = service
        self._ratio, self._minimum, self._window, self._pause = ratio, minimum, window, pause
        self._outcomes: deque[tuple[float, bool]] = deque(maxlen=_MOST_OUTCOMES)
        self._opened_at = 0.0
        self._period = 0
        self.state: State = "closed"
        self._show()

    def enter(self) -> int:
        """Let a call begin, and return what it gives back when it ends.

        Raises:
            NotNow: If it is open, or half open and another call is trying.
        """
        if self.state == "closed":
            return self._period
        left = self._opened_at + self._pause - time.monotonic()
        if left > 0:
            raise NotNow(f"{self._service} is failing and is left alone for now", max(left, 1.0), "breaker_open")
        # A trial that never ends must not keep it half open for ever: the next may try after another pause.
        self._opened_at = time.monotonic()
        self._become("half_open")
        return self._period

    def leave(self, period: int, *, failed: bool) -> None:
        """Note how the call ended that began in `period`; of a service's past it tells nothing any more."""
        if period != self._period:
            return
        now = time.monotonic()
        if self.state == "half_open":
            self._outcomes.clear()
            self._opened_at = now
            self._become("open" if failed else "closed")
            return
        self._outcomes.append((now, failed))
        while self._outcomes[0][0] < now - self._window:
            self._outcomes.popleft()
        failures = sum(bad for _, bad in self._outcomes)
        enough = len(self._outcomes) >= self._minimum
        if enough and failures >= self._ratio * len(self._outcomes):
            self._opened_at = now
            self._become("open")

    def abandon(self, period: int) -> None:
        """Note that the call was cancelled: that says nothing about the service."""
        if period == self._period and self.state == "half_open":
            self._become("open")

    def _become(self, state: State) -> None:
        self.state = state
        self._period += 1
        self._show()
        log.warning("breaker_changed", service=self._service, state=state)

    def _show(self) -> None:
        states[self._service] = self.state
        BREAKER_STATE.labels(self._service).set(_NUMBERS[self.state])


def record(service: str, operation: str, seconds: float, status: str, *, failed: bool) -> str:
    """Write down a call that is over, and return the hash of its operation.

    Args:
        service: Declared name of the dependency: a label.
        operation: What was done there, hashed before it is written anywhere.
        seconds: How long it took.
        status: A word or number of ours, never a text of the other side.
        failed: Whether it counts as an error of the service.
    """
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
        attempts = _ATTEMPTS if again and stamina.is_active() and not stamina.is_testing() else 1
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
        operation = f"{request.method} {request.url.path}"
        period, started = self._breaker.enter(), time.perf_counter()
        try:
            with span("downstream", service=self._service, operation_hash=_hashed(operation)):
                request.headers.update(trace_headers())
                response = await self._inner.handle_async_request(request)
        except BaseException as error:
            failed, status = isinstance(error, Exception), declared_type(error).__name__
            if failed:
                self._breaker.leave(period, failed=True)
            else:
                self._breaker.abandon(period)
            record(self._service, operation, time.perf_counter() - started, status, failed=failed)
            raise
        failed, status = response.status_code >= httpx2.codes.INTERNAL_SERVER_ERROR, str(response.status_code)
        self._breaker.leave(period, failed=failed)
        record(self._service, operation, time.perf_counter() - started, status, failed=failed)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()
