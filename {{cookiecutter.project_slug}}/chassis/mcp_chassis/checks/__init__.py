"""`check`: one engine for every check, and the profiles on it, `timeouts` and `manifests` (DESIGN 11)."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import anyio
import typer

from mcp_chassis.checks.report import Check, Subject, examine, failed, write
from mcp_chassis.environment import given_variables

if TYPE_CHECKING:
    from mcp_chassis.server import Server

_FOUND: Final = 1
_USAGE: Final = 2
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program.")]
Files = Annotated[
    list[str], typer.Option("--file", "-f", help="A file or folder of manifests, - for standard input; repeatable.")
]


def check_commands(server: Server) -> typer.Typer:
    """Return `check`."""
    app = typer.Typer(help="Prove what no schema knows: time limits, manifests.", no_args_is_help=True)

    @app.command("timeouts")
    def timeouts_command(as_json: Json = False) -> None:
        """Prove every time limit in this project's files against its neighbours (T8).

        Reads deploy/ and compose.yaml as they are, with your drop-ins and overlays, and what your tools declare.
        """
        _complete()
        from mcp_chassis.checks.timeouts import Project, timeouts

        if not Path("chassis", "mcp_chassis").is_dir():
            _leave("run this in the root of your project, where pyproject.toml and chassis/ are")
        _finish(timeouts, Project(Path(), given_variables(), server.declared_timeouts), as_json)

    @app.command("manifests")
    def manifests_command(files: Files, as_json: Json = False) -> None:
        """Prove the invariants of Kubernetes manifests, anyone's: pipe `helm template` or `kustomize build` into -f -.

        Give the whole stream at once: what one object says of another is what is proven.
        """
        _complete()
        from mcp_chassis.checks.manifests import given, manifests

        try:
            cluster = given(files, sys.stdin)
        except OSError as error:
            _leave(f"{error.filename}: {error.strerror}")
        except ValueError as error:
            _leave(str(error))
        _finish(manifests, cluster, as_json)

    return app


def _complete() -> None:
    if not (find_spec("yaml") and find_spec("crossplane")):
        _leave("check needs libraries that a server does not: uv add --dev 'mcp-chassis[checks]'")


def _leave(text: str) -> NoReturn:
    print(text, file=sys.stderr)
    raise typer.Exit(_USAGE)


def _finish(checks: Iterable[Check[Subject]], subject: Subject, as_json: bool) -> None:
    results = anyio.run(examine, checks, subject)
    write(results, sys.stdout, as_json=as_json)
    if failed(results):
        raise typer.Exit(_FOUND)
