"""The official conformance suite, and what it found."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.live.node import installed, node

PACKAGE = "@modelcontextprotocol/conformance"
_RESULT = re.compile(r"server-(?P<scenario>.+)-\d{4}-\d{2}-\d{2}T[\d-]+Z")


@dataclass(frozen=True)
class Check:
    """One check of a scenario."""

    id: str
    status: str
    error: str

    @classmethod
    def of(cls, document: dict[str, Any]) -> Check:
        """Read what the suite wrote."""
        return cls(document["id"], document["status"], document.get("errorMessage") or "")


@dataclass(frozen=True)
class Report:
    """What each scenario found."""

    scenarios: dict[str, list[Check]]

    def failed(self, scored: Iterable[str]) -> list[str]:
        """Return the scenarios that did not run, did not check anything, or found a fault."""
        return [name for name in scored if not self._passed(name)]

    def _passed(self, name: str) -> bool:
        statuses = {check.status for check in self.scenarios.get(name, [])}
        return "SUCCESS" in statuses and not statuses & {"FAILURE", "WARNING"}

    def table(self, scored: Iterable[str]) -> str:
        """Return a line for each scenario, and one for each check that is not a success."""
        lines = []
        for name in scored:
            checks = self.scenarios.get(name, [])
            good = sum(check.status == "SUCCESS" for check in checks)
            lines.append(f"{'ok    ' if self._passed(name) else 'FAILED'} {name}: {good} of {len(checks)} checks")
            lines += [f"         {check.status} {check.id}: {check.error}" for check in checks if check.error]
        return "\n" + "\n".join(lines)


def run_suite(version: str, url: str, target: Path, *choice: str) -> Report:
    """Run the scenarios of `choice` against a server; their results are kept in `target`."""
    package = installed(PACKAGE, version)
    done = node(package / "dist" / "index.js", "server", "--url", url, "--output-dir", str(target), *choice, cwd=target)
    found = {}
    for result in sorted(target.glob("server-*/checks.json")):
        name = _RESULT.fullmatch(result.parent.name)
        if name is None:
            raise ValueError(f"{result.parent.name} is not named like a result of conformance {version}")
        found[name["scenario"]] = [Check.of(check) for check in json.loads(result.read_text(encoding="utf-8"))]
    if not found:
        raise RuntimeError(f"conformance {version} wrote no result\n{done.stdout}\n{done.stderr}")
    return Report(found)


def required(version: str, revision: str) -> list[str]:
    """Return what the suite scores for a revision, and what it runs beside that, extensions excepted."""
    path = installed(PACKAGE, version) / "requirements" / f"{revision}.yaml"
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    beside = [
        entry["scenario"]
        for entry in document["not_scored"]
        if entry["leg"] == "server" and entry["reason"] != "extension"
    ]
    return [*document["server"], *beside]
