"""The commands on the engine of checks: `check`, `schema` and `probe`."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import anyio
import typer
from pydantic_core import from_json

from mcp_chassis.checks import Looks, Nothing, Result, Unseen, coloured, examine, failed, probe, write
from mcp_chassis.checks.protocol import entry_of, publish
from mcp_chassis.checks.target import NotStarted, chosen, end_on_signals, started
from mcp_chassis.checks.wire import ERAS
from mcp_chassis.environment import given_variables
from mcp_chassis.schema import FORMAT, PARTS, Change, Contract, compare, digest_of, step_of, text_of

if TYPE_CHECKING:
    from mcp_chassis.server import Server

_FOUND: Final = 1
_CONTRACT: Final = Path("schema", "tools.json")
_FOLDER: Final = _CONTRACT.parent
_DIGEST: Final = _FOLDER / "tools.sha256"
_COLOURS: Final = {"breaking": 31, "compatible": 32, "text-only": 33}
_USAGE: Final = 2
_PUBLISHED: Final = ("dns", "tls", "handshake", "stateless", "release", "admitted", "tools", "ping", "refusal")
TokenFile = Annotated[Path | None, typer.Option(help="File that holds the credential; never an argument.")]
Days = Annotated[float, typer.Option(min=0, help="Days that certificate and credential must have left.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program.")]
Files = Annotated[
    list[str], typer.Option("--file", "-f", help="A file or folder of manifests, - for standard input; repeatable.")
]
Wait = Annotated[float, typer.Option(min=0, help="Seconds to look again and again until all is good.")]
Every = Annotated[float, typer.Option(min=0, help="Seconds between two looks, until a signal ends it.")]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds that one step may take.")]


def check_commands(server: Server) -> typer.Typer:
    """Return `check`."""
    app = typer.Typer(
        help="Prove what no schema knows: time limits, manifests, what is to be published.", no_args_is_help=True
    )

    @app.command("timeouts")
    def timeouts_command(as_json: Json = False) -> None:
        """Prove every time limit in this project's files against its neighbours (T8).

        Reads deploy/ and compose.yaml as they are, with your drop-ins and overlays, and what your tools declare.
        """
        _need_libraries()
        need_root()
        from mcp_chassis.checks.timeouts import Project, timeouts

        subject = Project(Path(), given_variables(), server.declared_timeouts)
        finish(anyio.run(examine, timeouts, subject), as_json=as_json)

    @app.command("policy")
    def policy_command(as_json: Json = False) -> None:
        """Prove what policy.yaml demands beyond the template; without that file, nothing is (M5)."""
        _need_libraries()
        need_root()
        from mcp_chassis.checks.policy import Policed, policy
        from mcp_chassis.checks.timeouts import Project

        subject = Policed(Project(Path(), given_variables(), server.declared_timeouts))
        finish(anyio.run(examine, policy if subject.there else policy[:1], subject), as_json=as_json)

    @app.command("manifests")
    def manifests_command(files: Files, as_json: Json = False) -> None:
        """Prove the invariants of Kubernetes manifests, anyone's: pipe `helm template` or `kustomize build` into -f -.

        Give the whole stream at once: what one object says of another is what is proven.
        """
        _need_libraries()
        from mcp_chassis.checks.manifests import given, manifests

        try:
            cluster = given(files, sys.stdin)
        except (OSError, ValueError) as error:
            leave(f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error), _USAGE)
        finish(anyio.run(examine, manifests, cluster), as_json=as_json)

    add_publish(app)
    return app


def _need_libraries() -> None:
    if not (find_spec("yaml") and find_spec("crossplane")):
        leave("check needs libraries that a server does not: uv add --dev 'mcp-chassis[checks]'", _USAGE)


def need_root() -> None:
    """Leave with 2 unless this is the root of a project."""
    if not Path("chassis", "mcp_chassis").is_dir():
        leave("run this in the root of your project, where pyproject.toml and chassis/ are", _USAGE)


def finish(results: Sequence[Result], *, as_json: bool) -> None:
    """Write the report, and leave with 1 if the run is not good."""
    write(results, sys.stdout, as_json=as_json)
    if failed(results):
        raise typer.Exit(_FOUND)


def schema_commands(server: Server) -> typer.Typer:
    """Return `schema`."""
    meaning = "The contract of your tools: keep it, and see what a change means to those who call."
    app = typer.Typer(help=meaning, no_args_is_help=True)
    write_it = f"uv run {server.name} schema write"

    @app.command("write")
    def write_command() -> None:
        """Accept the contract as it is: start the server, ask it in both eras, write schema/tools.json and its digest.

        Commit both files; `sha256sum -c tools.sha256` in schema/ verifies them.
        """
        text = text_of(_asked(server))
        _FOLDER.mkdir(exist_ok=True)
        _CONTRACT.write_text(text, encoding="utf-8", newline="\n")
        _DIGEST.write_text(f"{digest_of(text)}  {_CONTRACT.name}\n", encoding="utf-8", newline="\n")
        print(f"{_CONTRACT} and {_DIGEST} written")

    @app.command("check")
    def check_command() -> None:
        """Exit 1 if the contract is not the one that was accepted, and say what that means to callers."""
        kept, said = _kept(_CONTRACT, write_it), _CONTRACT.read_text(encoding="utf-8")
        if said != text_of(kept) or _digest_kept() != digest_of(said):
            leave(f"{_CONTRACT} and {_DIGEST} do not belong together: a hand or a merge changed one; run: {write_it}")
        found = _asked(server)
        _tell(compare(kept, found))
        if text_of(found) != said:
            leave(f"accept it, after a review, with: {write_it}")

    @app.command("diff")
    def diff_command(
        older: Annotated[Path, typer.Argument(help="An older tools.json, from another release.")] = _CONTRACT,
    ) -> None:
        """Show what changed since an older contract, and the step of a version that it asks for."""
        _tell(compare(_kept(older, write_it), _asked(server)))

    return app


def _asked(server: Server) -> Contract:
    """Return the contract of the server of this project, the same in both eras."""
    end_on_signals()
    try:
        with started(str(server.package)) as target:
            one, other = (anyio.run(target.contract, era) for era in ERAS)
    except (NotStarted, Nothing, Unseen) as error:
        leave(str(error))
    except KeyboardInterrupt:
        leave("stopped")
    if one != other:
        _tell(compare(one, other))
        leave("the two eras do not offer the same, the first with initialize, the second without: see above")
    return one


def _kept(path: Path, write_it: str) -> Contract:
    try:
        found = from_json(path.read_bytes())
    except OSError:
        leave(f"{path} is not there; the first one is written by: {write_it}")
    except ValueError:
        leave(f"{path} is no JSON: a merge may have left its marks; run: {write_it}")
    parts = found if isinstance(found, dict) else {}
    if parts.get("format") != FORMAT or not all(isinstance(parts.get(part), dict) for part in PARTS):
        leave(f"{path} is not of format {FORMAT}; run: {write_it}")
    contract: Contract = found
    return contract


def _digest_kept() -> str:
    return (_DIGEST.read_text(encoding="utf-8").split() or [""])[0] if _DIGEST.is_file() else ""


def _tell(changes: Sequence[Change]) -> None:
    for change in changes:
        word = coloured(f"{change.kind:10}", _COLOURS[change.kind], sys.stdout)
        print(f"{word}  {change.where}: {change.what}")
    count = f"{len(changes)} change{'s' if len(changes) > 1 else ''}"
    print(f"\n{count}; the next version is a {step_of(changes)} one" if changes else "no change", flush=True)


def add_probe(app: typer.Typer) -> None:
    """Add `probe` to a command line."""

    @app.command("probe", epilog=probe.CODES)
    def probe_command(
        url: Annotated[str | None, typer.Argument(help="The endpoint, like https://notes.example.com/mcp.")] = None,
        token_file: TokenFile = None,
        expect_schema: Annotated[Path | None, typer.Option(help="schema/tools.sha256 of the release.")] = None,
        expect_version: Annotated[str | None, typer.Option(help="The release that must answer, like 1.4.0.")] = None,
        stream: Annotated[bool, typer.Option("--stream", help="See whether events arrive one by one.")] = False,
        wait: Wait = 0,
        every: Every = 0,
        targets: Annotated[Path | None, typer.Option(help="File with a server a line, in place of a URL.")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each look.")] = False,
        textfile: Annotated[Path | None, typer.Option(help="Write metrics for the node exporter here.")] = None,
        listen: Annotated[str | None, typer.Option(help="Serve metrics here, like 127.0.0.1:9115.")] = None,
        timeout: Timeout = 20,
        days: Days = 7,
    ) -> None:
        """Look at any MCP server from outside, in both eras: name, certificate, handshake, tools, call, refusal.

        A line of a targets file is: URL [name=…] [token-file=…] [expect-schema=…], files beside it.

        After a deployment: probe URL --token-file F --stream --wait 120.
        For a fleet: probe --targets fleet.txt --stream --every 60 --listen 127.0.0.1:9115.
        """
        try:
            items = _items(url, targets, token_file, expect_schema, expect_version)
            looks = Looks()
            if listen is not None:
                looks.serve(listen)
            checks = probe.checks_of(stream=stream, release=expect_version is not None)
            patience = probe.Patience(wait, timeout, days)

            def done(found: probe.Look) -> None:
                looks.take(found)
                probe.report(found, sys.stdout, as_json=as_json)

            async def once() -> int:
                code = await _while_read(probe.look_at_all(items, checks, patience, done))
                if textfile is not None:
                    looks.write(textfile)
                return code

            raise typer.Exit(anyio.run(probe.again, once, every) if every else anyio.run(once))
        except (ValueError, OSError) as error:
            leave(str(error), _USAGE)


def _items(
    url: str | None, targets: Path | None, token_file: Path | None, schema: Path | None, version: str | None
) -> list[probe.Wanted]:
    if targets is None and url is not None:
        return [probe.wanted(url, token_file, schema, version=version)]
    if targets is None or url is not None:
        raise probe.Misused("give a URL, or --targets with a file of them")
    if token_file or schema or version:
        raise probe.Misused("with --targets, token-file= and expect-schema= stand in the file; no release is")
    return probe.targets_of(targets)


async def _while_read(looking: Awaitable[int]) -> int:
    """Return what it returns, or end quietly if whoever read the report has left."""
    try:
        return await looking
    except* BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise typer.Exit


def add_publish(app: typer.Typer) -> None:
    """Add `publish` to the group `check`."""

    @app.command("publish")
    def publish_command(
        token_file: TokenFile = None,
        version: Annotated[str | None, typer.Option(help="The release; by default the project's version.")] = None,
        private_registry: Annotated[
            bool, typer.Option("--private-registry", help="Only your organisation reads the registry.")
        ] = False,
        wait: Wait = 0,
        as_json: Json = False,
    ) -> None:
        """Prove that what server.json records may be published: handshake, list and call, there and nowhere else.

        Nothing is written; run it right before the registry's own command.
        """
        try:
            entry = entry_of(version, private=private_registry)
            results = anyio.run(examine, publish, entry)
            if not failed(results):
                item = probe.wanted(entry.urls[0], token_file, version=entry.release)
                found = anyio.run(probe.look, item, chosen(*_PUBLISHED), probe.Patience(wait, days=0))
                results += found.results
        except ValueError as error:
            leave(str(error), _USAGE)
        finish(results, as_json=as_json)


def leave(text: str, code: int = _FOUND) -> NoReturn:
    """Say why on standard error, and leave."""
    print(text, file=sys.stderr)
    raise typer.Exit(code)
