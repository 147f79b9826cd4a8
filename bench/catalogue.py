"""Everything that `make bench` measures, in the order of the report: a new measurement is a module and a line here."""

from __future__ import annotations

from typing import Final

from bench import (
    forwarded,
    layers,
    lifecycle,
    limit_check,
    neighbour,
    profiled,
    replicas,
    sessions,
    streams,
    templating,
    throughput,
    tools,
)
from bench.figures import Measurement

MEASUREMENTS: Final[tuple[Measurement, ...]] = (
    throughput.MEASUREMENT,
    layers.MEASUREMENT,
    profiled.MEASUREMENT,
    sessions.MEASUREMENT,
    tools.MEASUREMENT,
    streams.MEASUREMENT,
    replicas.MEASUREMENT,
    lifecycle.MEASUREMENT,
    limit_check.MEASUREMENT,
    neighbour.MEASUREMENT,
    forwarded.MEASUREMENT,
    templating.MEASUREMENT,
)
