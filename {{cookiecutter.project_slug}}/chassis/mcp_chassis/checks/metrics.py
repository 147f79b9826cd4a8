"""What Prometheus learns from the probe, as a page or as a text file (G5)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, start_http_server, write_to_textfile
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector

from mcp_chassis.checks.probe import Look, Misused
from mcp_chassis.checks.report import failed

METRICS: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    "success": ((), "1 if every check was good."),
    "timestamp_seconds": ((), "When it was looked at, in seconds since 1970."),
    "check": (("check",), "1 where a check was good or spoke of nothing there, 0 where it was not."),
    "check_seconds": (("check",), "How long a check took."),
    "certificate_ends_timestamp_seconds": ((), "When the certificate ends, in seconds since 1970."),
    "credential_ends_timestamp_seconds": ((), "When the probe's own credential ends, in seconds since 1970."),
    "ping_seconds": ((), "How long the harmless call took."),
    "stream_spread_ratio": (("era",), "Time between the first and the last event: 1 as sent, 0 all at once."),
    "tools": ((), "Tools that it lists."),
}
"""Each with its labels beside `target`, and its meaning; all are gauges that begin with `mcp_probe_`."""


class Looks(Collector):
    """The last look at each server."""

    def __init__(self) -> None:
        self._last: dict[str, Look] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def take(self, found: Look) -> None:
        """Keep what one look saw, in place of the one before."""
        self._last[found.item.name] = found

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield what is known."""
        families = {
            name: GaugeMetricFamily(f"mcp_probe_{name}", meaning, labels=("target", *labels))
            for name, (labels, meaning) in METRICS.items()
        }
        for target, found in list(self._last.items()):
            for (name, *labels), value in _samples(found):
                if name in families:
                    families[name].add_metric([target, *labels], value)
        yield from families.values()

    def write(self, path: Path) -> None:
        """Write the text file that a node exporter reads, in one step."""
        write_to_textfile(str(path), self._registry)

    def serve(self, address: str) -> None:
        """Serve the page at `host:port`. Raises `Misused` if that is none."""
        host, _, port = address.rpartition(":")
        if not port.isdigit() or int(port) > 65_535:
            raise Misused(f"{address} is no address to listen on; write 127.0.0.1:9115")
        start_http_server(int(port), host.strip("[]") or "127.0.0.1", registry=self._registry)


def _samples(found: Look) -> Iterator[tuple[tuple[str, ...], float]]:
    yield ("success",), not found.code
    yield ("timestamp_seconds",), found.moment
    for name in dict.fromkeys(item.name for item in found.results):
        own = [item for item in found.results if item.name == name]
        yield ("check", name), not failed(own)
        yield ("check_seconds", name), own[0].seconds
    for fact, value in found.facts.items():
        yield tuple(fact.split(":")), value
