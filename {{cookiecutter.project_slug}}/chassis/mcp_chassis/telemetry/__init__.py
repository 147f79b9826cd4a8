"""What a server tells about itself: numbers and spans here, lines in `logging`; `gate` keeps the words of others out.

No label holds a caller's text (O5). Spans are recorded where `OTEL_EXPORTER_OTLP_ENDPOINT` is set and the `tracing`
extra is installed (O7), with names and attributes of ours: no argument, no header, no text of an exception.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from typing import Final

from opentelemetry import trace
from opentelemetry.propagate import extract, inject
from opentelemetry.trace import Status as SpanStatus
from opentelemetry.trace import StatusCode
from prometheus_client import Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from mcp_chassis import request as requests
from mcp_chassis.environment import ConfigurationError, Problem
from mcp_chassis.errors import declared_type
from mcp_chassis.request import Request, Status

_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
_LAST_FLUSH: Final = 2.0
_tracer: Final = trace.get_tracer("mcp_chassis")
_on = False
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

TOOL_CALLS: Final = Counter("mcp_tool_calls_total", "Tool calls by how they ended.", ["tool", "status"])
TOOL_DURATION: Final = Histogram("mcp_tool_duration_seconds", "How long tool calls took.", ["tool"], buckets=_SECONDS)
PROGRESS_CALLS: Final = Counter(
    "mcp_progress_calls_total", "Calls whose client asked for progress, by whether it got any.", ["tool", "notified"]
)
PROBE_CALLS: Final = Counter("mcp_probe_calls_total", "Tool calls of a monitor's credential; in no other number.")
CRASHES: Final = Counter("mcp_crashes_total", "Exceptions that nobody expected; each is a line in the log.")
LOST_LINES: Final = Counter("mcp_log_lines_lost_total", "Lines of the log that could not be written.")
ACTIVE_SESSIONS: Final = Gauge("mcp_active_sessions", "Open sessions of the handshake era.")
REQUESTS_IN_FLIGHT: Final = Gauge("mcp_requests_in_flight", "HTTP requests to /mcp that are not answered yet.")
LONGEST_CALL: Final = Gauge("mcp_longest_call_seconds", "What a tool call may take: MCP_TOOL_TIMEOUT.")
OLDEST_CALL: Final = Gauge("mcp_oldest_call_seconds", "Age of the oldest answer to a call that is still open.")
DOWNSTREAM_ERRORS: Final = Counter("mcp_downstream_errors_total", "Failed calls of dependencies.", ["service"])
DOWNSTREAM_DURATION: Final = Histogram(
    "mcp_downstream_duration_seconds", "How long dependencies took.", ["service"], buckets=_SECONDS
)
BREAKER_STATE: Final = Gauge("mcp_breaker_state", "0 closed, 1 half open, 2 open.", ["service"])
POOL_IN_USE: Final = Gauge("mcp_database_connections_in_use", "Database connections that calls hold.")
POOL_PENDING: Final = Gauge("mcp_database_connections_pending", "Calls that wait for a database connection.")
POOL_ACQUIRE: Final = Histogram(
    "mcp_database_acquire_seconds", "How long calls waited for a database connection.", buckets=_SECONDS
)
POOL_EXHAUSTED: Final = Counter("mcp_database_exhausted_total", "Calls that got no database connection in time.")
STORE_UP: Final = Gauge("mcp_store_up", "1 while the state store answers, 0 while it is silent.")
REFUSALS: Final = Counter("mcp_refusals_total", "Requests and calls refused by a limit.", ["limit"])
SUSPENSIONS: Final = Counter("mcp_suspensions_total", "Suspensions of callers that went on after refusals.")
CHECK_STATUS: Final = Gauge("mcp_check_status", "What the server needs: 0 healthy, 1 degraded, 2 unhealthy.", ["check"])
FORWARDED: Final = Counter(
    "mcp_forwarded_requests_total", "Requests of sessions that another replica holds.", ["outcome"]
)
for _outcome in ("answered", "owner_gone", "owner_lost", "client_gone", "undecidable"):
    FORWARDED.labels(_outcome)  # from the start: Prometheus cannot see the first rise of a series that is born with it
DRAINING: Final = Gauge("mcp_draining", "1 once the server was asked to stop.")
RESOURCE_CURRENT: Final = Gauge(
    "mcp_resource_current", "1 if the last verification got what was pinned, 0 if it got something else.", ["resource"]
)
RESOURCE_FAILURES: Final = Gauge(
    "mcp_resource_failures", "Verifications in a row that could not be made; 0 once one could.", ["resource"]
)
BUILD: Final = Gauge("mcp_build_info", "1, with the version of the server.", ["version"])

_open_calls: dict[object, float] = {}
"""When the answers that are open now began."""


@contextmanager
def open_call(*, counted: bool) -> Iterator[None]:
    """Watch how long the answer to a call is open."""
    if not counted:
        yield
        return
    key = object()
    _open_calls[key] = time.monotonic()
    try:
        yield
    finally:
        del _open_calls[key]


OLDEST_CALL.set_function(lambda: time.monotonic() - min(_open_calls.values()) if _open_calls else 0.0)


def count_call(tool: str, request: Request, seconds: float, *, progress_asked: bool) -> None:
    """Count one finished call of a tool of ours."""
    if request.probing:
        PROBE_CALLS.inc()
        return
    _calls(tool, request.status).inc()
    _duration(tool).observe(seconds)
    if progress_asked:
        _progress(tool, "yes" if request.notifications_sent else "no").inc()


# Looking a label up costs more than counting; tools and statuses are few.
@lru_cache(maxsize=4096)
def _calls(tool: str, status: Status) -> Counter:
    return TOOL_CALLS.labels(tool, status)


@lru_cache(maxsize=4096)
def _duration(tool: str) -> Histogram:
    return TOOL_DURATION.labels(tool)


@lru_cache(maxsize=4096)
def _progress(tool: str, notified: str) -> Counter:
    # Both from the start: Prometheus cannot see the first rise of a series that is born with it.
    return {answer: PROGRESS_CALLS.labels(tool, answer) for answer in ("yes", "no")}[notified]


def metrics_route() -> Route:
    """Return `/metrics`; the edges serve it on their internal listener alone."""

    async def metrics(_request: HttpRequest) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return Route("/metrics", endpoint=metrics)


def span(name: str, parent: str | None = None, **attributes: str | int | float) -> AbstractContextManager[None]:
    """Record one piece of work, if spans go anywhere.

    Args:
        name: A word of ours.
        parent: W3C `traceparent` that came with the message.
        attributes: Values of ours.
    """
    return _recorded(name, parent, attributes) if _on else nullcontext()


@contextmanager
def _recorded(name: str, parent: str | None, attributes: Mapping[str, str | int | float]) -> Iterator[None]:
    context = extract({"traceparent": parent}) if parent else None
    with _tracer.start_as_current_span(
        name, context, attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as found:
        try:
            yield
        except BaseException as error:
            found.set_status(SpanStatus(StatusCode.ERROR, declared_type(error).__name__))
            raise


def past_span(name: str, seconds: float, **attributes: str | int | float) -> None:
    """Record a piece of work that is over now and took `seconds`; the rest as for `span`."""
    if _on:
        end = time.time_ns()
        _tracer.start_span(name, start_time=end - round(seconds * 1e9), attributes=attributes).end(end)


def trace_headers() -> dict[str, str]:
    """Return the headers that carry the trace to a dependency, also where nothing is recorded here."""
    headers: dict[str, str] = {}
    inject(headers)
    request = requests.current()
    if not headers and request is not None and request.trace_parent is not None:
        headers["traceparent"] = request.trace_parent
    return headers


def start_tracing(server: str, version: str) -> Callable[[], None]:
    """Send spans to the collector of `OTEL_EXPORTER_OTLP_ENDPOINT`; return what flushes and ends that.

    Raises:
        ConfigurationError: If an endpoint is set and the extra is not installed.
    """
    global _on
    endpoint = os.environ.get(_ENDPOINT)
    if not endpoint:
        return lambda: None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        rule = "needs the tracing extra: uv add 'mcp-chassis[tracing]'"
        raise ConfigurationError([Problem(_ENDPOINT, endpoint, rule)]) from None
    provider = TracerProvider(resource=Resource.create({"service.name": server, "service.version": version}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    _on = True

    def stop() -> None:
        # A collector that hangs must not hold the end of the process.
        flushing = threading.Thread(target=provider.shutdown, daemon=True)
        flushing.start()
        flushing.join(_LAST_FLUSH)

    return stop
