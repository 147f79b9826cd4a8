"""The commands that look at a server that runs: `probe`, and `schema`, which starts one to look at."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Final, NoReturn

import anyio
import typer
from pydantic_core import from_json

from mcp_chassis.checks import probe
from mcp_chassis.checks.publish import entry_of, publish
from mcp_chassis.checks.report import examine, failed, write
from mcp_chassis.checks.running import NotStarted, started
from mcp_chassis.checks.server import chosen
from mcp_chassis.checks.wire import ERAS
from mcp_chassis.schema import FORMAT, Change, Contract, compare, digest_of, step_of, text_of

_FOUND: Final = 1
_USAGE: Final = 2
FOLDER: Final = Path("schema")
_CONTRACT: Final = FOLDER / "tools.json"
_DIGEST: Final = FOLDER / "tools.sha256"
_PUBLISHED: Final = ("dns", "tls", "handshake", "stateless", "tools", "ping", "refusal")
_COLOURS: Final = {"breaking": 31, "compatible": 32, "text-only": 33}


def add_probe(app: typer.Typer) -> None:
    """Add `probe` to a command line."""

    @app.command("probe", epilog=probe.CODES)
    def probe_command(
        url: Annotated[str | None, typer.Argument(help="The endpoint, like https://notes.example.com/mcp.")] = None,
        token_file: Annotated[Path | None, typer.Option(help="File that holds the credential.")] = None,
        expect_schema: Annotated[Path | None, typer.Option(help="schema/tools.sha256 of the release.")] = None,
        stream: Annotated[bool, typer.Option("--stream", help="See whether events arrive one by one.")] = False,
        wait: Annotated[float, typer.Option(help="Seconds to try again until all is good.")] = 0,
        every: Annotated[float, typer.Option(help="Seconds between two looks, for ever.")] = 0,
        targets: Annotated[Path | None, typer.Option(help="File with a server a line, in place of a URL.")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a program.")] = False,
        textfile: Annotated[Path | None, typer.Option(help="Write metrics for the node exporter here.")] = None,
        listen: Annotated[str | None, typer.Option(help="Serve metrics here, like 127.0.0.1:9115.")] = None,
        timeout: Annotated[float, typer.Option(help="Seconds that one step may take.")] = 20,
    ) -> None:
        """Look at any MCP server from outside, in both eras: name, certificate, handshake, tools, call, refusal.

        A line of a targets file is: URL [name=…] [token-file=…] [expect-schema=…]
        """
        try:
            if (url is None) == (targets is None):
                raise probe.Misused("give a URL, or --targets with a file of them")
            items = [probe.wanted(url, token_file, expect_schema)] if url else probe.targets_of(targets or Path())
            if listen is not None:
                probe.metrics.serve(listen)
            checks = probe.checks_of(stream=stream)
            while True:
                code = 0
                begun = time.monotonic()
                for item in items:
                    results = anyio.run(partial(probe.look, item, checks, wait=wait, patience=timeout))
                    probe.report(results, item, sys.stdout, as_json=as_json, many=len(items) > 1)
                    code = code or probe.code_of(results)
                if textfile is not None:
                    probe.metrics.write(textfile)
                if not every:
                    raise typer.Exit(code)
                time.sleep(max(0.0, every - (time.monotonic() - begun)))
        except (probe.Misused, OSError) as error:
            _leave(str(error), _USAGE)


def add_publish(app: typer.Typer) -> None:
    """Add `publish` to the group `check`."""

    @app.command("publish")
    def publish_command(
        token_file: Annotated[Path | None, typer.Option(help="File that holds the credential.")] = None,
        version: Annotated[str | None, typer.Option(help="The release; by default the project's version.")] = None,
        private_registry: Annotated[
            bool, typer.Option("--private-registry", help="Only your organisation reads the registry.")
        ] = False,
        wait: Annotated[float, typer.Option(help="Seconds to try the server again until all is good.")] = 0,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a program.")] = False,
    ) -> None:
        """Prove that what server.json records may be published: handshake, list and call, there and nowhere else.

        Nothing is written; run it right before the registry's own command.
        """
        try:
            entry = entry_of(version, private=private_registry)
            results = anyio.run(examine, publish, entry)
            if not failed(results):
                item = probe.wanted(entry.urls[0], token_file)
                results += anyio.run(partial(probe.look, item, chosen(*_PUBLISHED), wait=wait))
        except ValueError as error:
            _leave(str(error), _USAGE)
        write(results, sys.stdout, as_json=as_json)
        if failed(results):
            raise typer.Exit(_FOUND)


def schema_commands(package: Callable[[], str]) -> typer.Typer:
    """Return `schema`.

    Args:
        package: Returns what `python -m` starts.
    """
    app = typer.Typer(help="The contract of your tools: keep it, and see what a change means.", no_args_is_help=True)

    @app.command("write")
    def write_command() -> None:
        """Accept the contract as it is: write schema/tools.json and schema/tools.sha256."""
        text = text_of(_asked(package()))
        FOLDER.mkdir(exist_ok=True)
        _CONTRACT.write_text(text, encoding="utf-8", newline="\n")
        _DIGEST.write_text(f"{digest_of(text)}  {_CONTRACT.name}\n", encoding="utf-8", newline="\n")
        print(f"{_CONTRACT} and {_DIGEST} written")

    @app.command("check")
    def check_command() -> None:
        """Exit 1 if the contract is not the one that was accepted, and say what that means to callers."""
        kept, found = _kept(), _asked(package())
        if _digest_kept() != digest_of(text_of(kept)):
            _leave(f"{_DIGEST} is not that of {_CONTRACT}: run `schema write`, and review both", _FOUND)
        changes = compare(kept, found)
        _tell(changes)
        if changes or text_of(kept) != text_of(found):
            _leave(f"accept it, after a review, with: python -m {package()} schema write", _FOUND)

    @app.command("diff")
    def diff_command(
        older: Annotated[Path, typer.Argument(help="An older tools.json, from another release.")] = _CONTRACT,
    ) -> None:
        """Show what changed since an older contract, and the step of a version that it asks for."""
        _tell(compare(_kept(older), _asked(package())))

    return app


def _asked(package: str) -> Contract:
    """Return the contract of the server of this project, the same in both eras."""
    try:
        with started(package) as target:
            one, other = (anyio.run(target.contract, era) for era in ERAS)
    except NotStarted as error:
        _leave(str(error), _FOUND)
    if one != other:
        _tell(compare(one, other))
        _leave("the two eras do not offer the same: see above", _FOUND)
    return one


def _kept(path: Path = _CONTRACT) -> Contract:
    try:
        contract: Contract = from_json(path.read_bytes())
    except OSError:
        _leave(f"{path} is not there: `schema write` writes the first one", _FOUND)
    except ValueError:
        _leave(f"{path} is no JSON: `schema write` writes it anew", _FOUND)
    if contract.get("format") != FORMAT:
        _leave(f"{path} is not of format {FORMAT}: `schema write` writes it anew", _FOUND)
    return contract


def _digest_kept() -> str:
    return (_DIGEST.read_text(encoding="utf-8").split() or [""])[0] if _DIGEST.is_file() else ""


def _tell(changes: Sequence[Change]) -> None:
    colour = sys.stdout.isatty()
    for change in changes:
        word = f"{change.kind:10}"
        shown = f"\x1b[{_COLOURS[change.kind]}m{word}\x1b[0m" if colour else word
        print(f"{shown}  {change.where}: {change.what}")
    step = step_of(changes)
    print(f"\n{len(changes)} changes; the next version is a {step} one" if changes else "no change")


def _leave(text: str, code: int) -> NoReturn:
    print(text, file=sys.stderr)
    raise typer.Exit(code)
