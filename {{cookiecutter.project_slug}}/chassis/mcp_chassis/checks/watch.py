"""The commands that look at a server that runs elsewhere: `probe` and `check publish`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final, NoReturn

import anyio
import typer

from mcp_chassis.checks import probe
from mcp_chassis.checks.metrics import Looks
from mcp_chassis.checks.publish import entry_of, publish
from mcp_chassis.checks.report import examine, failed, write
from mcp_chassis.checks.running import end_on_signals
from mcp_chassis.checks.target import chosen

_FOUND: Final = 1
_USAGE: Final = 2
_PUBLISHED: Final = ("dns", "tls", "handshake", "stateless", "release", "admitted", "tools", "ping", "refusal")

TokenFile = Annotated[Path | None, typer.Option(help="File that holds the credential; never an argument.")]
Days = Annotated[float, typer.Option(min=0, help="Days that certificate and credential must have left.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program.")]
Wait = Annotated[float, typer.Option(min=0, help="Seconds to look again and again until all is good.")]
Every = Annotated[float, typer.Option(min=0, help="Seconds between two looks, until a signal ends it.")]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds that one step may take.")]


def add_probe(app: typer.Typer) -> None:
    """Add `probe` to a command line."""

    @app.command("probe", epilog=probe.CODES)
    def probe_command(
        url: Annotated[str | None, typer.Argument(help="The endpoint, like https://notes.example.com/mcp.")] = None,
        token_file: TokenFile = None,
        expect_schema: Annotated[Path | None, typer.Option(help="schema/tools.sha256 of the release.")] = None,
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
            if (url is None) == (targets is None):
                raise probe.Misused("give a URL, or --targets with a file of them")
            if targets is not None and (token_file or expect_schema):
                raise probe.Misused("with --targets, token-file= and expect-schema= stand in the file")
            items = probe.targets_of(targets) if targets else [probe.wanted(url or "", token_file, expect_schema)]
            looks = Looks()
            if listen is not None:
                looks.serve(listen)
            checks, patience = probe.checks_of(stream=stream), probe.Patience(wait, timeout, days)

            def done(found: probe.Look) -> None:
                looks.take(found)
                probe.report(found, sys.stdout, as_json=as_json)

            def once() -> int:
                code = anyio.run(probe.look_at_all, items, checks, patience, done)
                if textfile is not None:
                    looks.write(textfile)
                return code

            raise typer.Exit(_again(once, every) if every else once())
        except (probe.Misused, OSError) as error:
            _leave(str(error), _USAGE)


def _again(once: Callable[[], int], every: float) -> int:
    """Look every so many seconds until a signal comes, which is the way to end this and no failure."""
    end_on_signals()
    try:
        while True:
            begun = time.monotonic()
            once()
            time.sleep(max(0.0, every - (time.monotonic() - begun)))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 0
    except BrokenPipeError:  # whoever read the report has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


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
                item = replace(probe.wanted(entry.urls[0], token_file), version=entry.release)
                found = anyio.run(probe.look, item, chosen(*_PUBLISHED), probe.Patience(wait, days=0))
                results += found.results
        except ValueError as error:
            _leave(str(error), _USAGE)
        write(results, sys.stdout, as_json=as_json)
        if failed(results):
            raise typer.Exit(_FOUND)


def _leave(text: str, code: int) -> NoReturn:
    print(text, file=sys.stderr)
    raise typer.Exit(code)
