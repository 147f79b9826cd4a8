"""The command of a server: its help teaches, its exit codes mean something."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Final

import anyio
import typer

from mcp_chassis.checks.commands import add_probe, check_commands, schema_commands
from mcp_chassis.checks.ownership import add_owned, add_ownership
from mcp_chassis.environment import ConfigurationError, EnvironmentSettings, Variable
from mcp_chassis.ops import Impossible, add_limits, explained, suspension_commands
from mcp_chassis.ops.keys import key_commands, token_commands
from mcp_chassis.ops.resources import resource_commands
from mcp_chassis.serve import serve, serve_reloading
from mcp_chassis.server import Server
from mcp_chassis.settings import Settings
from mcp_chassis.start import pinned, serve_stdio, start

EXAMPLE: Final = Path(".env.example")
_LOCK: Final = Path("uv.lock")
_FOUND: Final = 1
_HELP: Final = """\
{summary}

Settings are environment variables; .env.example lists them all. In development .env is read too.

Exit codes: 0 good, 1 a check found something, 2 wrong usage, 78 bad configuration.
"""


class NotAProject(Impossible):
    """The current folder is not the one that `refresh` works in."""


def refresh(server: Server) -> list[str]:
    """Rewrite what is derived in the current folder; return the names of the files that changed.

    Raises:
        NotAProject: If this is not the root of a project, or uv is missing or fails.
    """
    names = stale(server)
    if str(EXAMPLE) in names:
        EXAMPLE.write_text(environment_example(server), encoding="utf-8", newline="\n")
    if str(_LOCK) in names and (done := _uv("lock")).returncode != 0:
        raise NotAProject(f"uv lock failed:\n{done.stderr.strip()}")
    return names


def stale(server: Server) -> list[str]:
    """Return the derived files that `refresh` would change, writing none.

    Raises:
        NotAProject: As `refresh`.
    """
    _check_root()
    found = []
    if not EXAMPLE.is_file() or EXAMPLE.read_text(encoding="utf-8") != environment_example(server):
        found.append(str(EXAMPLE))
    if _uv("lock", "--check").returncode != 0:
        found.append(str(_LOCK))
    return found


def environment_example(server: Server) -> str:
    """Return `.env.example`: each variable with its type, default and meaning, and whether it is a secret."""
    classes: tuple[type[EnvironmentSettings], ...] = (Settings, *server.own_settings)
    head = (
        "# Derived: `refresh` rewrites it from the settings classes. Copy it to .env for development;\n"
        "# production never reads .env and takes its variables from the process.\n"
    )
    return head + "".join(_entry(variable) for settings_class in classes for variable in settings_class.variables())


def _entry(variable: Variable) -> str:
    facts = [variable.type, f"default {variable.default}" if variable.default else None]
    facts += ["required" if variable.required else None]
    facts += [f"secret, or its file in {variable.name}_FILE" if variable.secret else None]
    assignment = f"{variable.name}={variable.default or ''}"
    lines = [variable.meaning, f"({'; '.join(fact for fact in facts if fact)})"]
    return (
        "\n" + "".join(f"# {line}\n" for line in lines if line) + f"{'' if variable.required else '# '}{assignment}\n"
    )


def _check_root() -> None:
    try:
        project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError):
        project = {}
    if "mcp-chassis" not in project.get("tool", {}).get("uv", {}).get("sources", {}):
        raise NotAProject("run this in the root of your project, where pyproject.toml and chassis/ are")


def _uv(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("uv")
    if program is None:
        raise NotAProject("uv is not on PATH; install it (docs.astral.sh/uv) and run this again")
    command: Sequence[str] = [program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


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
    add_ownership(checks)
    app.add_typer(checks, name="check")
    app.add_typer(schema_commands(server), name="schema")
    add_probe(app)
    app.add_typer(_operations(server), name="ops")

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
    with explained():
        names = stale(server) if check else refresh(server)
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


def _operations(server: Server) -> typer.Typer:
    """Return the `ops` group of `server`'s command line."""
    app = typer.Typer(
        help="Operate the server: keys, tokens, limits, suspensions, resources, owned files.", no_args_is_help=True
    )
    app.add_typer(key_commands(server), name="keys")
    app.add_typer(token_commands(server), name="tokens")
    app.add_typer(resource_commands(), name="resources")
    add_limits(app, server)
    add_owned(app)
    # The module is there where the answer is postgres.
    if find_spec("mcp_chassis.ops.database") is not None:
        from mcp_chassis.ops.database import database_commands

        app.add_typer(database_commands(), name="db")
    app.add_typer(suspension_commands(server), name="suspensions")
    return app
