"""`ops limits` and `ops suspensions`: what is in force, and whom it keeps out (L3, L6)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Final

import typer
from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from mcp_chassis.limits.limiter import CONDUCT
from mcp_chassis.ops.running import NO_STORE, Impossible, run, tell
from mcp_chassis.server import Server
from mcp_chassis.settings import Settings
from mcp_chassis.state.store import SECOND, Store

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program.")]
Lifted = Annotated[str, typer.Argument(help="The caller, as `ops suspensions list` shows it.")]
Tenant = Annotated[str | None, typer.Option(help="Only the caller of this tenant.")]
_FORM: Final = 5
"""Parts of a kept conduct: refusals, end of the window, level, end of the suspension, who."""


class _Suspension(BaseModel):
    caller: str
    tenant: str
    way: str
    ends: int = 0
    level: int = 0
    name: str = ""

    @property
    def line(self) -> str:
        ends = datetime.fromtimestamp(self.ends // SECOND, UTC).isoformat()
        return f"{self.caller}  tenant={self.tenant}  way={self.way}  ends={ends}  suspensions={self.level}"


def add_limits(app: typer.Typer, server: Server) -> None:
    """Add `ops limits`."""

    @app.command("limits")
    def limits(as_json: Json = False) -> None:
        """Show the limits in force, and the variable that changes each."""

        async def work(settings: Settings, _store: Store) -> None:
            server.prepare(settings)
            print(to_json(_as_data(server, settings)).decode() if as_json else _as_text(server, settings))

        run(server, work)


def suspension_commands(server: Server) -> typer.Typer:
    """Return `ops suspensions`."""
    app = typer.Typer(help="Callers that did not stop: list, lift.", no_args_is_help=True)

    @app.command("list")
    def list_suspensions(as_json: Json = False) -> None:
        """List who is suspended, until when, and how often that happened lately."""

        async def work(_settings: Settings, store: Store) -> None:
            found = await _suspended(store)
            if as_json:
                print(to_json([item.model_dump(exclude={"name"}) for item in found]).decode())
            elif found:
                print(*(item.line for item in found), sep="\n")
            else:
                tell("nobody is suspended")

        run(server, work)

    @app.command("lift")
    def lift(caller: Lifted, tenant: Tenant = None) -> None:
        """Let a caller in again at once, and forget its refusals."""

        async def work(_settings: Settings, store: Store) -> None:
            found = [item for item in await _suspended(store) if item.caller == caller]
            found = [item for item in found if tenant in (None, item.tenant)]
            if not found:
                raise Impossible(f"{caller} is not suspended; `ops suspensions list` shows who is")
            for item in found:
                await store.remove(item.name)
                tell(f"lifted: {item.line}")

        run(server, work)

    return app


async def _suspended(store: Store) -> list[_Suspension]:
    if not store.shared:
        raise Impossible(NO_STORE)
    names = await store.names(CONDUCT)
    texts = await store.read(names)
    now = time.time_ns() // 1000
    found = [_suspension(name, text) for name, text in zip(names, texts, strict=True) if text is not None]
    return [item for item in found if item is not None and item.ends > now]


def _suspension(name: str, text: str) -> _Suspension | None:
    parts = text.split(" ", _FORM - 1)
    try:
        found = _Suspension.model_validate_json(parts[-1])
        return found.model_copy(update={"name": name, "level": int(parts[2]), "ends": int(parts[3])})
    except (ValidationError, ValueError, IndexError):
        return None


def _as_data(server: Server, settings: Settings) -> dict[str, object]:
    tools = {
        name: {
            "rate": rules.limit.rate,
            "burst": rules.limit.burst,
            "budget": rules.budget,
            "cost": rules.cost,
            "concurrency": rules.concurrency,
        }
        for name, rules in sorted(server.limits(settings).items())
    }
    return {"tools": tools, "server": {variable: value for variable, _, value in _knobs(settings)}}


def _as_text(server: Server, settings: Settings) -> str:
    tools: list[tuple[str, ...]] = [("tool, of one caller", "rate/burst", "budget/day", "cost", "at one time")]
    for name, rules in sorted(server.limits(settings).items()):
        numbers = (rules.budget or "-", rules.cost, rules.concurrency or "-")
        tools.append((name, str(rules.limit), *map(str, numbers)))
    return f"{_table(tools)}\n\n{_table([('variable', 'limits', 'value'), *_knobs(settings)])}"


def _knobs(settings: Settings) -> list[tuple[str, str, str]]:
    """Return what limits the server as a whole: variable, what it limits, value."""
    down = ",".join(settings.limits_when_store_down)
    suspension = f"{settings.suspension_refusals} in {settings.suspension_window:g} s"
    return [
        ("MCP_TOOL_LIMIT", "calls of a tool that declares no limit, a second", str(settings.tool_limit)),
        ("MCP_TOOL_LIMITS", "calls of single tools, a second", ",".join(settings.tool_limits) or "-"),
        ("MCP_CALLER_LIMIT", "requests of one caller, a second", str(settings.caller_limit)),
        ("MCP_GLOBAL_LIMIT", "tool calls of all callers, a second", str(settings.global_limit or "-")),
        ("MCP_SESSION_LIMIT", "sessions opened from one address, a minute", str(settings.session_limit)),
        ("MCP_MAX_SESSIONS", "open sessions, in all", str(settings.max_sessions)),
        ("MCP_MAX_SESSIONS_PER_CALLER", "open sessions, of one caller", str(settings.max_sessions_per_caller)),
        ("MCP_MAX_STREAMS", "open streams, in all", str(settings.max_streams)),
        ("MCP_MAX_STREAMS_PER_CALLER", "open streams, of one caller", str(settings.max_streams_per_caller)),
        ("MCP_MAX_CALLS", "running calls, in all", str(settings.max_calls)),
        ("MCP_MAX_CALLS_PER_CALLER", "running calls, of one caller", str(settings.max_calls_per_caller)),
        ("MCP_SUSPENSION_REFUSALS", "refusals that suspend a caller", suspension),
        ("MCP_LIMITS_WHEN_STORE_DOWN", "while Redis is down", down),
    ]


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
