"""Rules, their tests, scrape config and dashboard of a render, checked by Prometheus's own tool (O5, O6, O7)."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2 import Environment, StrictUndefined
from prometheus_client.metrics import MetricWrapperBase

from mcp_chassis import telemetry as metrics
from mcp_chassis.checks import METRICS
from tests.render.support import AWKWARD, ROOT, Answers, by_copier, run, succeed

OF_PROMETHEUS = {"up"}
"""What exists without any server."""
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
RENDERS: list[Answers] = [(), AWKWARD, (("tool_timeout", "1"),)]
NAME = re.compile(r"\b(?:mcp_\w+|\w+:mcp_\w+:\w+|up(?=\{))")
WIDTH = 24
"""Columns of a dashboard."""

monitoring = pytest.mark.parametrize("answers", RENDERS, ids=["plain", "awkward", "shortest"])


def folder(answers: Answers = ()) -> Path:
    """Return the rendered folder; nobody may change it."""
    return by_copier(answers) / "deploy" / "monitoring"


def rules(kind: str) -> list[dict[str, Any]]:
    """Return the rules that are a `record` or an `alert`."""
    groups = yaml.safe_load((folder() / "rules.yaml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


def panels() -> list[dict[str, Any]]:
    """Return the panels of the dashboard, rows among them."""
    found: list[dict[str, Any]] = json.loads((folder() / "dashboard.json").read_text(encoding="utf-8"))["panels"]
    return found


def expressions() -> list[str]:
    """Return what the panels ask."""
    return [target["expr"] for panel in panels() for target in panel.get("targets", ())]


def series() -> set[str]:
    """Return the name of every series that a server or the probe exposes."""
    declared = (value for value in vars(metrics).values() if isinstance(value, MetricWrapperBase))
    probed = {f"mcp_probe_{name}" for name in METRICS}
    return probed | {metric._name + suffix for metric in declared for suffix in SUFFIXES[str(metric._type)]}


def unknown(expression: str) -> set[str]:
    """Return the names in an expression that nobody provides."""
    return set(NAME.findall(expression)) - series() - OF_PROMETHEUS - {rule["record"] for rule in rules("record")}


def unit_tests(answers: Answers = ()) -> str:
    """Return the unit tests of a render's alerts."""
    given = yaml.safe_load((by_copier(answers) / ".copier-answers.yml").read_text(encoding="utf-8"))
    text = (ROOT / "tests" / "render" / "rules.test.yaml.jinja").read_text(encoding="utf-8")
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(text).render(cookiecutter=given)


@monitoring
def test_O6_each_alert_fires_and_clears_in_unit_tests(answers: Answers, tmp_path: Path) -> None:
    shutil.copy(folder(answers) / "rules.yaml", tmp_path)
    (tmp_path / "rules.test.yaml").write_text(unit_tests(answers), encoding="utf-8")

    report = succeed("promtool", "test", "rules", "rules.test.yaml", cwd=tmp_path)

    assert "SUCCESS" in report


@monitoring
def test_O5_prometheus_takes_the_scrape_config_with_the_rules(answers: Answers) -> None:
    report = succeed("promtool", "check", "config", "prometheus.yaml", cwd=folder(answers))

    assert f"{len(rules('record') + rules('alert'))} rules found" in report


def cases(alert: str) -> str:
    """Return the unit tests that are named after an alert."""
    data = yaml.safe_load(unit_tests())
    data["tests"] = [case for case in data["tests"] if case["name"].startswith(f"{alert} ")]
    return yaml.safe_dump(data)


@pytest.mark.parametrize("broken", [{"expr": "vector(1) > 2"}, {"for": "0s"}], ids=["never", "hasty"])
def test_O6_unit_tests_notice_each_broken_alert(broken: dict[str, str], tmp_path: Path) -> None:
    text, unnoticed = (folder() / "rules.yaml").read_text(encoding="utf-8"), []
    for name in [rule["alert"] for rule in rules("alert") if broken.keys() <= rule.keys()]:
        data = yaml.safe_load(text)
        for rule in (rule for group in data["groups"] for rule in group["rules"] if rule.get("alert") == name):
            rule |= broken
        (tmp_path / "rules.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
        (tmp_path / "rules.test.yaml").write_text(cases(name), encoding="utf-8")
        # promtool evaluates groups in any order: a rule may see a recorded one late, and be good by chance.
        if all(run("promtool", "test", "rules", "rules.test.yaml", cwd=tmp_path).returncode == 0 for _ in range(4)):
            unnoticed.append(name)

    assert unnoticed == []


def test_O5_rules_use_only_metrics_that_exist() -> None:
    found = {rule["expr"]: unknown(rule["expr"]) for rule in rules("record") + rules("alert")}

    assert {expression: names for expression, names in found.items() if names} == {}


def test_O5_durations_of_tools_are_recorded_as_p50_p95_p99() -> None:
    recorded = {rule["record"] for rule in rules("record")}

    assert recorded >= {f"job_tool:mcp_tool_duration_seconds:{quantile}" for quantile in ("p50", "p95", "p99")}


def test_O6_each_alert_says_what_to_do_and_where_to_read_on() -> None:
    page = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", page, flags=re.DOTALL | re.MULTILINE))
    alerts = {rule["alert"]: rule for rule in rules("alert")}

    assert [name for name in sections if name.startswith("Mcp")] == list(alerts)
    for name, alert in alerts.items():
        assert alert["labels"]["severity"] in {"critical", "warning"}
        assert alert["annotations"]["summary"].endswith(".")
        assert ":" in alert["annotations"]["description"]
        assert alert["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"
        for part in ("**Meaning.**", "**Look.**", "**Do.**", "**Clears**"):
            assert part in sections[name], (name, part)


def test_O7_dashboard_uses_only_metrics_that_exist() -> None:
    found = {expression: unknown(expression) for expression in expressions()}

    assert {expression: names for expression, names in found.items() if names} == {}


def test_O7_dashboard_shows_every_metric() -> None:
    used = {
        name
        for expression in expressions() + [rule["expr"] for rule in rules("record")]
        for name in NAME.findall(expression)
    }
    declared = [value for value in vars(metrics).values() if isinstance(value, MetricWrapperBase)]

    hidden = [m._name for m in declared if not used & {m._name + suffix for suffix in SUFFIXES[str(m._type)]}]

    assert hidden == []


def test_O7_each_panel_asks_what_prometheus_can_parse(tmp_path: Path) -> None:
    asked = [expression.replace("$__rate_interval", "5m").replace("$instance", ".*") for expression in expressions()]
    as_rules = [{"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(asked)]
    text = yaml.safe_dump({"groups": [{"name": "panels", "rules": as_rules}]})
    (tmp_path / "panels.yaml").write_text(text, encoding="utf-8")

    report = succeed("promtool", "check", "rules", "panels.yaml", cwd=tmp_path)

    assert f"{len(asked)} rules found" in report
    assert "$" not in text


@monitoring
def test_O7_dashboard_asks_for_its_own_servers_through_a_chosen_source(answers: Answers) -> None:
    dashboard = json.loads((folder(answers) / "dashboard.json").read_text(encoding="utf-8"))
    slug = dict(answers).get("project_slug", "acme-notes")

    assert dashboard["title"] == dict(answers).get("project_name", "Acme Notes")
    assert dashboard["templating"]["list"][0]["type"] == "datasource"
    for panel in (panel for panel in dashboard["panels"] if panel["type"] != "row"):
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            assert f'job="{slug}"' in target["expr"]


def test_O7_no_two_panels_share_an_id_or_a_place() -> None:
    ids = [panel["id"] for panel in panels()]
    cells: list[tuple[int, int]] = []
    for place in (panel["gridPos"] for panel in panels()):
        assert place["x"] + place["w"] <= WIDTH
        cells += [(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])]

    assert len(set(ids)) == len(ids)
    assert len(set(cells)) == len(cells)
