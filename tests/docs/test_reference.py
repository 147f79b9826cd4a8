"""Pages that list what the code has are compared with the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from mcp_chassis.settings import Settings
from mcp_chassis.telemetry.logging import Event, Fields

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
CHASSIS = ROOT / "{{cookiecutter.project_slug}}" / "chassis" / "mcp_chassis"
FROM_ANSWERS = {"MCP_PUBLIC_URL": "the answer `public_url`", "MCP_TOOL_TIMEOUT": "the answer `tool_timeout`"}


@pytest.fixture(autouse=True)
def answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the two answers that only a rendered project has."""
    monkeypatch.setattr(
        "mcp_chassis.settings.answer", lambda name: {"tool_timeout": "120"}.get(name, "https://n.example")
    )


def settings_table() -> str:
    """Return the table of docs/settings.md as the code has it."""
    rows = ["| variable | meaning | type | default |", "|---|---|---|---|"]
    for variable in Settings.variables():
        default = FROM_ANSWERS.get(variable.name, f"`{variable.default}`" if variable.default else "")
        kind = variable.type + (", secret" if variable.secret else "")
        rows.append(f"| `{variable.name}` | {variable.meaning} | {kind} | {default} |")
    return "\n".join(rows) + "\n"


def test_S2_settings_page_lists_every_variable() -> None:
    page = (DOCS / "settings.md").read_text(encoding="utf-8")

    assert page.endswith(settings_table()), f"docs/settings.md must end with:\n{settings_table()}"


def test_O1_logs_page_lists_every_event_and_field() -> None:
    page = (DOCS / "logs.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+)`", page))

    assert set(get_args(Event)) <= named
    assert set(Fields.__annotations__) <= named


def test_O1_every_declared_event_is_written_somewhere() -> None:
    written = literal_arguments(lambda function: function in {"info", "warning", "error", "critical", "_write"})

    assert set(get_args(Event)) <= written


def test_E1_errors_page_lists_every_code() -> None:
    page = (DOCS / "errors.md").read_text(encoding="utf-8")

    for code in ("-32700", "-32600", "-32601", "-32602", "-32603", "-32010"):
        assert code in page
    for outcome in ("tool_failure", "invalid_arguments", "timeout", "internal_error"):
        assert f"`{outcome}`" in page


def literal_arguments(admitted: Callable[[str], bool]) -> set[str]:
    """Return the first arguments of the chassis's calls to methods that `admitted` names."""
    found = set()
    for path in CHASSIS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(attr=name), args=[ast.Constant(value=str(text)), *_]) if admitted(
                    name
                ):
                    found.add(text)
                case ast.Call(func=ast.Attribute(attr=name), args=[_, ast.Constant(value=str(text)), *_]) if admitted(
                    name
                ):
                    found.add(text)
                case _:
                    pass
    return found
