"""`ops`: what an operator does to a server from outside."""

from __future__ import annotations

from importlib.util import find_spec

import typer

from mcp_chassis.ops.keys import key_commands, token_commands
from mcp_chassis.ops.limits import add_limits, suspension_commands
from mcp_chassis.ops.resources import resource_commands
from mcp_chassis.server import Server


def ops_commands(server: Server) -> typer.Typer:
    """Return the `ops` group of `server`'s command line."""
    app = typer.Typer(help="Operate the server: keys, tokens, limits, suspensions, resources.", no_args_is_help=True)
    app.add_typer(key_commands(server), name="keys")
    app.add_typer(token_commands(server), name="tokens")
    app.add_typer(resource_commands(), name="resources")
    add_limits(app, server)
    # The module is there where the answer is postgres.
    if find_spec("mcp_chassis.ops.database") is not None:
        from mcp_chassis.ops.database import database_commands

        app.add_typer(database_commands(server), name="db")
    app.add_typer(suspension_commands(server), name="suspensions")
    return app
