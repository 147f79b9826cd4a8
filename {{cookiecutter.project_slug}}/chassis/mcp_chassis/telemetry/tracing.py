"""OpenTelemetry, on where `OTEL_EXPORTER_OTLP_ENDPOINT` is set and the `tracing` extra is installed (O7).

Only names and attributes of ours are recorded: no argument, no header, no text of an exception.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final

from opentelemetry import trace
from opentelemetry.propagate import extract, inject
from opentelemetry.trace import Status, StatusCode

from mcp_chassis import request as requests
from mcp_chassis.environment import ConfigurationError, Problem
from mcp_chassis.telemetry.logging import declared_type

_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
_LAST_FLUSH: Final = 2.0
_tracer: Final = trace.get_tracer("mcp_chassis")


_on = False


def span(
    name: str, parent: str | None = None, **attributes: str | int | float
) -> AbstractContextManager[trace.Span | None]:
    """Record one piece of work, if spans go anywhere.

    Args:
        name: A word of ours.
        parent: W3C `traceparent` that came with the message.
        attributes: Values of ours.
    """
    return _recorded(name, parent, attributes) if _on else nullcontext()


@contextmanager
def _recorded(name: str, parent: str | None, attributes: Mapping[str, str | int | float]) -> Iterator[trace.Span]:
    context = extract({"traceparent": parent}) if parent else None
    with _tracer.start_as_current_span(
        name, context, attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as found:
        try:
            yield found
        except BaseException as error:
            found.set_status(Status(StatusCode.ERROR, declared_type(error).__name__))
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
