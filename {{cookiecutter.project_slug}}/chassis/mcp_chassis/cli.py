"""The command of a server: its help teaches, its exit codes mean something."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Final

import anyio
import typer

from mcp_chassis import derived
from mcp_chassis.checks import check_commands
from mcp_chassis.checks.contract import schema_commands
from mcp_chassis.checks.watch import add_probe, add_publish
from mcp_chassis.environment import ConfigurationError
from mcp_chassis.ops import ops_commands
from mcp_chassis.serve import serve, serve_reloading
from mcp_chassis.server import Server
from mcp_chassis.start import pinned, start
from mcp_chassis.stdio import serve_stdio

_FOUND: Final = 1

_HELP: Final = """\
{summary}

Settings are environment variables; .env.example lists them all. In development .env is read too.

Exit codes: 0 good, 1 a check found something, 2 wrong usage, 78 bad configuration.
"""


def main(server: Server) -> None:
    """Run the command line of `server`."""
    application(server)()


def application(server: Server) -> typer.Typer:
    """Return the command line of `server`."""
    app = typer.Typer(
        help=_HELP.format(summary=server.description or f"{server.name}, an MCP server."),
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
        rich_markup_mode=None,
    )

    @app.command("serve")
    def serve_command(
        reload: Annotated[bool, typer.Option("--reload", help="Start again when a source file changes.")] = False,
    ) -> None:
        """Serve MCP over HTTP.

        The address is http://127.0.0.1:8080/mcp; MCP_PORT changes the port. A signal ends it.
        """
        _configured(lambda: serve_reloading(server) if reload else serve(server))

    @app.command("stdio")
    def stdio_command() -> None:
        """Serve MCP over stdin and stdout.

        For a client that starts this process itself. Logs go to standard error.
        """
        _configured(lambda: _serve_stdio(server))

    checks = check_commands(server)
    add_publish(checks)
    app.add_typer(checks, name="check")
    app.add_typer(schema_commands(lambda: str(server.package), server.name), name="schema")
    add_probe(app)
    app.add_typer(ops_commands(server), name="ops")

    @app.command("refresh")
    def refresh_command(
        check: Annotated[bool, typer.Option("--check", help="Write nothing; exit 1 if something is stale.")] = False,
    ) -> None:
        """Rewrite what is derived.

        That is .env.example from the settings classes and uv.lock from the dependencies. Run it after a change of
        either, and after every `copier update`.
        """
        _refresh(server, check=check)

    return app


def _serve_stdio(server: Server) -> None:
    settings = start(server, stream=sys.stderr)
    anyio.run(serve_stdio, server, settings, pinned(server, settings).verifying())


def _refresh(server: Server, *, check: bool) -> None:
    try:
        names = derived.stale(server) if check else derived.refresh(server)
    except derived.NotAProject as error:
        print(error, file=sys.stderr)
        raise typer.Exit(_FOUND) from None
    for name in names:
        print(f"{name} is stale; run `refresh`" if check else f"{name} rewritten")
    if not names:
        print("everything derived is up to date")
    elif check:
        raise typer.Exit(_FOUND)


def _configured(run: Callable[[], None]) -> None:
    """Run, or say what is wrong with the configuration and leave with 78."""
    try:
        run()
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(error.exit_code) from None
