"""A real Prometheus that watches servers with the rules of their project, its windows shortened."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2
import yaml

from tests.live.project import DEADLINE
from tests.support.ports import free_port

INTERVAL: Final = "400ms"
"""Between two scrapes, and between two looks at the rules."""
SHORTER: Final = 150
"""By this every window of the rules is divided: 5 minutes are 2 seconds."""
_LEAST: Final = 1600
"""Milliseconds: no window may be so short that a busy machine scrapes less than twice in it."""
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_WINDOW: Final = re.compile(r"\[(\d+)([smhd])\]")
_DURATION: Final = re.compile(r"(\d+)([smhd])")


def shortened(rules: str) -> str:
    """Return a file of rules with every window and every `for` divided."""

    def divided(found: re.Match[str]) -> int:
        return int(found[1]) * _UNITS[found[2]] * 1000 // SHORTER

    data = yaml.safe_load(rules)
    for rule in (rule for group in data["groups"] for rule in group["rules"]):
        rule["expr"] = _WINDOW.sub(lambda found: f"[{max(divided(found), _LEAST)}ms]", rule["expr"])
        if "for" in rule:
            rule["for"] = _DURATION.sub(lambda found: f"{divided(found)}ms", rule["for"])
    return yaml.safe_dump(data)


@dataclass(frozen=True)
class Alert:
    """An alert that fires."""

    name: str
    labels: dict[str, str]
    annotations: dict[str, str]

    def is_about(self, labels: dict[str, str]) -> bool:
        """Tell whether it has these labels, among others."""
        return labels.items() <= self.labels.items()


class Prometheus:
    """What a running Prometheus knows.

    Args:
        url: Where it listens.
    """

    def __init__(self, url: str) -> None:
        self._client = httpx2.Client(base_url=f"{url}/api/v1", timeout=10, trust_env=False)

    def _asked(self, path: str, **parameters: str) -> Any:
        answer = self._client.get(path, params=parameters)
        data = answer.json()
        assert data["status"] == "success", (parameters, data)
        return data["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series that an expression gives now."""
        return list(self._asked("/query", query=expression)["result"])

    def firing(self) -> list[Alert]:
        """Return the alerts that fire now."""
        alerts = (alert for alert in self._asked("/alerts")["alerts"] if alert["state"] == "firing")
        return [Alert(alert["labels"]["alertname"], alert["labels"], alert["annotations"]) for alert in alerts]

    def ready(self) -> bool:
        """Tell whether it answers questions."""
        try:
            return self._client.get("/query", params={"query": "1"}).status_code == 200
        except httpx2.TransportError:
            return False


def until(true: Callable[[], object], what: str, *, give_up: bool = True) -> None:
    """Wait until `true()` is.

    Raises:
        TimeoutError: If it does not become true in time, unless that is not to be given up for.
    """
    end = time.monotonic() + DEADLINE
    while not true():
        if time.monotonic() > end:
            if give_up:
                raise TimeoutError(what)
            return
        time.sleep(0.1)


@contextmanager
def watching(folder: Path, rules: Path, job: str, targets: Sequence[str]) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes `targets` and follows the shortened `rules`."""
    port = free_port()
    (folder / "rules.yaml").write_text(shortened(rules.read_text(encoding="utf-8")), encoding="utf-8")
    configuration = {
        "global": {"scrape_interval": INTERVAL, "scrape_timeout": INTERVAL, "evaluation_interval": INTERVAL},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [{"job_name": job, "static_configs": [{"targets": list(targets)}]}],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration), encoding="utf-8")
    options = ["--config.file=prometheus.yaml", "--storage.tsdb.path=data", f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["prometheus", *options], cwd=folder, stdout=log, stderr=log)
    prometheus = Prometheus(f"http://127.0.0.1:{port}")
    try:
        until(prometheus.ready, (folder / "log").read_text(encoding="utf-8"))
        yield prometheus
    finally:
        process.terminate()
        process.wait(DEADLINE)
