"""Everything that `make bench` measures, in the order of the report: a new measurement is a module and a line here."""

from __future__ import annotations

from typing import Final

from bench import forwarded, limit_check, neighbour, templating, throughput
from bench.figures import Measurement

MEASUREMENTS: Final[tuple[Measurement, ...]] = (
    throughput.MEASUREMENT,
    limit_check.MEASUREMENT,
    neighbour.MEASUREMENT,
    forwarded.MEASUREMENT,
    templating.MEASUREMENT,
)
