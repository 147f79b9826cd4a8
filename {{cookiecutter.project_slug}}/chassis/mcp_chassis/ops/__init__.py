"""How a command of an operator runs, and the commands that show what is in force and whom it keeps out (L3, L6).

What can go wrong becomes a sentence and an exit code.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, ClassVar, Final

import anyio
import typer
from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from mcp_chassis.auth.keys import UnreadableKeyring
from mcp_chassis.environment import ConfigurationError, load
from mcp_chassis.limiter import CONDUCT
from mcp_chassis.policy import Rate
from mcp_chassis.server import Server
from mcp_chassis.settings import Settings
from mcp_chassis.state import open_store
from mcp_chassis.state.store import SECOND, Store, StoreDown

NO_STORE: Final = "MCP_STATE_URL is memory://, which lives in the server's process: set it to the server's Redis"
_PATIENCE: Final = 3.0
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program.")]
Lifted = Annotated[str, typer.Argument(help="The caller, as `ops suspensions list` shows it.")]
Tenant = Annotated[str | None, typer.Option(help="Only the caller of this tenant.")]
_KNOB: Final = re.compile(r"MCP_(MAX_(SESSIONS|STREAMS|CALLS)|.*LIMITS?$|LIMITS_|SUSPENSION_)")
_FORM: Final = 5
"""Parts of a kept conduct: refusals, end of the window, level, end of the suspension, who."""


class Impossible(Exception):
    """The command cannot be carried out; the text says why and what would help."""

    exit_code: ClassVar[int] = 1


class Misused(Impossible):
    """The command line does not say what to do."""

    exit_code: ClassVar[int] = 2


@contextmanager
def explained() -> Iterator[None]:
    """Make a sentence and an exit code of what goes wrong inside."""
    code = Impossible.exit_code
    try:
        yield
    except (ConfigurationError, Impossible) as error:
        text, code = str(error), error.exit_code
    except UnreadableKeyring as error:
        text = str(error)
    except StoreDown:
        text = "the store of MCP_STATE_URL does not answer, so it may not know of this; run the command again"
    except OSError as error:
        text = f"{error.filename}: {error.strerror}"
    else:
        return
    tell(text)
    raise typer.Exit(code)


def run(server: Server, work: Callable[[Settings, Store], Awaitable[None]]) -> None:
    """Carry out a command with the settings and the store of `server`."""

    async def connected() -> None:
        settings, _ = load(Settings)
        store = open_store(settings.state_url.get_secret_value(), server=server.name, longest=_PATIENCE)
        try:
            await work(settings, store)
        finally:
            await store.close()

    with explained():
        anyio.run(connected)


def tell(text: str) -> None:
    """Say something to the person; what a program reads goes to standard output."""
    print(text, file=sys.stderr)


def time_span(text: str) -> timedelta:
    """Read `90d`. Raises `Misused`."""
    found = re.fullmatch(r"([1-9]\d{0,5})([smhd])", text)
    if found is None:
        raise Misused(f"{text} is no span of time; write 90d, 12h, 30m or 45s")
    return timedelta(seconds=int(found.group(1)) * _UNITS[found.group(2)])


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
    tools = {name: asdict(rules) for name, rules in sorted(server.limits(settings).items())}
    return {"tools": tools, "server": {variable: value for variable, value, _ in _knobs(settings)}}


def _as_text(server: Server, settings: Settings) -> str:
    tools: list[tuple[str, ...]] = [("tool, for one caller", "rate/burst", "budget/day", "cost", "at one time")]
    for name, rules in sorted(server.limits(settings).items()):
        numbers = (rules.budget or "-", rules.cost, rules.concurrency or "-")
        tools.append((name, _shown(rules.limit), *map(str, numbers)))
    return f"{_table(tools)}\n\n{_table([('variable', 'value', 'meaning'), *_knobs(settings)])}"


def _shown(limit: Rate) -> str:
    """Return a tool's rate with its span, where that is not a second."""
    return str(limit) if limit.per == 1 else f"{limit} per {limit.per:g} s"


def _knobs(settings: Settings) -> list[tuple[str, str, str]]:
    """Return what limits the server as a whole: variable, value, meaning."""
    given = [
        (variable, getattr(settings, variable.name.removeprefix("MCP_").lower())) for variable in Settings.variables()
    ]
    return [
        (variable.name, ",".join(value) if isinstance(value, tuple) else str(value), variable.meaning)
        for variable, value in given
        if _KNOB.match(variable.name) and value not in (None, ())
    ]


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
