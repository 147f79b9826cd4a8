"""`schema`: the contract of this project's tools as a file, and what a change of it means (G2)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Final, NoReturn

import anyio
import typer
from pydantic_core import from_json

from mcp_chassis.checks.report import Nothing, Unseen
from mcp_chassis.checks.running import NotStarted, end_on_signals, started
from mcp_chassis.checks.wire import ERAS
from mcp_chassis.schema import FORMAT, PARTS, Change, Contract, compare, digest_of, step_of, text_of

_FOUND: Final = 1
_FOLDER: Final = Path("schema")
_CONTRACT: Final = _FOLDER / "tools.json"
_DIGEST: Final = _FOLDER / "tools.sha256"
_COLOURS: Final = {"breaking": 31, "compatible": 32, "text-only": 33}


def schema_commands(package: Callable[[], str], command: str) -> typer.Typer:
    """Return `schema`.

    Args:
        package: Returns what `python -m` starts.
        command: What the project's command is called.
    """
    app = typer.Typer(
        help="The contract of your tools: keep it, and see what a change means to those who call.",
        no_args_is_help=True,
    )
    write_it = f"uv run {command} schema write"

    @app.command("write")
    def write_command() -> None:
        """Accept the contract as it is: start the server, ask it in both eras, write schema/tools.json and its digest.

        Commit both files; `sha256sum -c tools.sha256` in schema/ verifies them.
        """
        text = text_of(_asked(package()))
        _FOLDER.mkdir(exist_ok=True)
        _CONTRACT.write_text(text, encoding="utf-8", newline="\n")
        _DIGEST.write_text(f"{digest_of(text)}  {_CONTRACT.name}\n", encoding="utf-8", newline="\n")
        print(f"{_CONTRACT} and {_DIGEST} written")

    @app.command("check")
    def check_command() -> None:
        """Exit 1 if the contract is not the one that was accepted, and say what that means to callers."""
        kept, said = _kept(_CONTRACT, write_it), _CONTRACT.read_text(encoding="utf-8")
        if said != text_of(kept) or _digest_kept() != digest_of(said):
            _leave(f"{_CONTRACT} and {_DIGEST} do not belong together: a hand or a merge changed one; run: {write_it}")
        found = _asked(package())
        _tell(compare(kept, found))
        if text_of(found) != said:
            _leave(f"accept it, after a review, with: {write_it}")

    @app.command("diff")
    def diff_command(
        older: Annotated[Path, typer.Argument(help="An older tools.json, from another release.")] = _CONTRACT,
    ) -> None:
        """Show what changed since an older contract, and the step of a version that it asks for."""
        _tell(compare(_kept(older, write_it), _asked(package())))

    return app


def _asked(package: str) -> Contract:
    """Return the contract of the server of this project, the same in both eras."""
    end_on_signals()
    try:
        with started(package) as target:
            one, other = (anyio.run(target.contract, era) for era in ERAS)
    except (NotStarted, Nothing, Unseen) as error:
        _leave(str(error))
    except KeyboardInterrupt:
        _leave("stopped")
    if one != other:
        _tell(compare(one, other))
        _leave("the two eras do not offer the same, the first with initialize, the second without: see above")
    return one


def _kept(path: Path, write_it: str) -> Contract:
    try:
        found = from_json(path.read_bytes())
    except OSError:
        _leave(f"{path} is not there; the first one is written by: {write_it}")
    except ValueError:
        _leave(f"{path} is no JSON: a merge may have left its marks; run: {write_it}")
    parts = found if isinstance(found, dict) else {}
    if parts.get("format") != FORMAT or not all(isinstance(parts.get(part), dict) for part in PARTS):
        _leave(f"{path} is not of format {FORMAT}; run: {write_it}")
    contract: Contract = found
    return contract


def _digest_kept() -> str:
    return (_DIGEST.read_text(encoding="utf-8").split() or [""])[0] if _DIGEST.is_file() else ""


def _tell(changes: Sequence[Change]) -> None:
    colour = sys.stdout.isatty()
    for change in changes:
        word = f"{change.kind:10}"
        shown = f"\x1b[{_COLOURS[change.kind]}m{word}\x1b[0m" if colour else word
        print(f"{shown}  {change.where}: {change.what}")
    count = f"{len(changes)} change{'s' if len(changes) > 1 else ''}"
    print(f"\n{count}; the next version is a {step_of(changes)} one" if changes else "no change", flush=True)


def _leave(text: str) -> NoReturn:
    print(text, file=sys.stderr)
    raise typer.Exit(_FOUND)
