"""The probe run as a person runs it, and what it said."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from typer.testing import CliRunner

from mcp_chassis.checks.commands import add_probe

STEP = ("--timeout", "5")


@dataclass(frozen=True)
class Said:
    """What a probe said.

    Args:
        code: Its exit code.
        results: Each check's result, found and fix, by name.
        text: All of it, and what went to standard error.
    """

    code: int
    results: dict[str, dict[str, Any]]
    text: str

    @property
    def bad(self) -> set[str]:
        """The checks that were not good."""
        return {name for name, item in self.results.items() if item["result"] in ("fail", "unseen")}


def invoke(*arguments: str | Path) -> tuple[int, str]:
    """Run the probe in this process."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.callback()(lambda: None)
    add_probe(app)
    done = CliRunner().invoke(app, ["probe", *map(str, arguments)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    return done.exit_code, done.output


def probe(url: str, *arguments: str | Path) -> Said:
    """Look once, and return what was said as JSON."""
    code, text = invoke(url, "--json", *arguments)
    line = next((line for line in text.splitlines() if line.startswith("{")), '{"results": []}')
    return Said(code, {item["name"]: item for item in json.loads(line)["results"]}, text)
