"""The page about metrics lists what the code exposes and what the dashboard shows."""

from __future__ import annotations

import json
import re
from pathlib import Path

from prometheus_client.metrics import MetricWrapperBase

from mcp_chassis import telemetry as metrics
from mcp_chassis.checks import METRICS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
DASHBOARD = ROOT / "{{cookiecutter.project_slug}}" / "deploy" / "monitoring" / "dashboard.json"
OURS = re.compile(r'job="[^"]*"(,instance=~"[^"]*")?,?')
"""What keeps a query to this project's servers; the page leaves it out."""


def metrics_table() -> str:
    """Return the table of metrics as the code has it."""
    rows = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    for metric in (value for value in vars(metrics).values() if isinstance(value, MetricWrapperBase)):
        name = metric._name + ("_total" if metric._type == "counter" else "")
        labels = ", ".join(f"`{label}`" for label in metric._labelnames)
        rows.append(f"| `{name}` | {metric._type} | {labels} | {metric._documentation} |")
    return "\n".join(rows) + "\n"


def probe_table() -> str:
    """Return the table of the probe's metrics as the code has it."""
    rows = ["| metric | labels | meaning |", "|---|---|---|"]
    for name, (labels, meaning) in METRICS.items():
        shown = ", ".join(f"`{label}`" for label in ("target", *labels))
        rows.append(f"| `mcp_probe_{name}` | {shown} | {meaning} |")
    return "\n".join(rows) + "\n"


def panels_table() -> str:
    """Return the table of panels as the dashboard has it."""
    rows = ["| question | panel | query |", "|---|---|---|"]
    question = ""
    # The template is JSON before it is rendered, too.
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        if panel["type"] == "row":
            question = panel["title"]
            continue
        asked = [OURS.sub("", target["expr"]).replace("{}", "") for target in panel["targets"]]
        rows.append(f"| {question} | {panel['title']} | {'<br>'.join(f'`{query}`' for query in asked)} |")
    return "\n".join(rows) + "\n"


def test_O5_metrics_page_lists_every_metric() -> None:
    assert metrics_table() in PAGE, f"docs/metrics.md must contain:\n{metrics_table()}"


def test_G5_metrics_page_lists_every_metric_of_the_probe() -> None:
    assert probe_table() in PAGE, f"docs/metrics.md must contain:\n{probe_table()}"


def test_O7_metrics_page_lists_every_panel() -> None:
    assert panels_table() in PAGE, f"docs/metrics.md must contain:\n{panels_table()}"
