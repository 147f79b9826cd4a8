"""How a command of an operator runs: what can go wrong becomes a sentence and an exit code."""

from __future__ import annotations

import re
import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import ClassVar, Final

import anyio
import typer

from mcp_chassis.auth.keys import UnreadableKeyring
from mcp_chassis.environment import ConfigurationError, load
from mcp_chassis.server import Server
from mcp_chassis.settings import Settings
from mcp_chassis.state import open_store
from mcp_chassis.state.store import Store, StoreDown

NO_STORE: Final = "MCP_STATE_URL is memory://, which lives in the server's process: set it to the server's Redis"
_PATIENCE: Final = 3.0
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Impossible(Exception):
    """The command cannot be carried out; the text says why and what would help."""

    exit_code: ClassVar[int] = 1


class Misused(Impossible):
    """The command line does not say what to do."""

    exit_code: ClassVar[int] = 2


def run(server: Server, work: Callable[[Settings, Store], Awaitable[None]]) -> None:
    """Carry out a command with the settings and the store of `server`."""

    async def connected() -> None:
        settings, _ = load(Settings)
        store = open_store(settings.state_url.get_secret_value(), server=server.name, longest=_PATIENCE)
        try:
            await work(settings, store)
        finally:
            await store.close()

    try:
        anyio.run(connected)
    except (ConfigurationError, Impossible) as error:
        tell(str(error))
        raise typer.Exit(error.exit_code) from None
    except UnreadableKeyring as error:
        tell(str(error))
    except StoreDown:
        tell("the store of MCP_STATE_URL does not answer, so it may not know of this; run the command again")
    except OSError as error:
        tell(f"{error.filename}: {error.strerror}")
    else:
        return
    raise typer.Exit(Impossible.exit_code)


def tell(text: str) -> None:
    """Say something to the person; what a program reads goes to standard output."""
    print(text, file=sys.stderr)


def time_span(text: str) -> timedelta:
    """Read `90d`. Raises `Misused`."""
    found = re.fullmatch(r"([1-9]\d{0,5})([smhd])", text)
    if found is None:
        raise Misused(f"{text} is no span of time; write 90d, 12h, 30m or 45s")
    return timedelta(seconds=int(found.group(1)) * _UNITS[found.group(2)])
