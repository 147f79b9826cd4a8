"""`ops resources`: pin what the server loads at run time, and see whether it is still the same (C1, C2)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Final, NoReturn, TypeVar

import anyio
import typer

from mcp_chassis.environment import ConfigurationError, load
from mcp_chassis.fetching import LARGEST, Fetcher, FetchFailed
from mcp_chassis.resources import LOCK, Pin, Unpinnable, check_reference, digest, read_lock, write_lock
from mcp_chassis.settings import Settings

_FOUND: Final = 1
_Result = TypeVar("_Result")
Urls = Annotated[list[str], typer.Argument(metavar="URL...", help="https URLs that name a version or a commit.")]


def resource_commands() -> typer.Typer:
    """Return `ops resources`."""
    app = typer.Typer(help=f"Pin what the server loads at run time by digest, in {LOCK}.", no_args_is_help=True)

    @app.command("add")
    def add_command(urls: Urls) -> None:
        """Fetch and pin. Look at what came before you commit the lock: from then on it is what the server trusts."""
        pins = _pins()
        for url in urls:
            _guarded(partial(check_reference, url))
            pins[url] = Pin.of(_fetched(url))
            print(f"{url}\n  sha256 {pins[url].sha256}, {pins[url].size} bytes, {pins[url].media_type}")
        write_lock(pins)

    @app.command("lock")
    def lock_command() -> None:
        """Fetch everything anew and accept what changed; the difference is printed for your review."""
        pins = _pins()
        for url, pin in pins.items():
            pins[url] = Pin.of(_fetched(url))
            changed = (
                "same" if pins[url].sha256 == pin.sha256 else f"{pin.sha256[:16]}… became {pins[url].sha256[:16]}…"
            )
            print(f"{changed}  {url}")
        write_lock(pins)

    @app.command("verify")
    def verify_command() -> None:
        """Exit 1 if something is not what was pinned, or cannot be had; note the time of what is."""
        pins = _pins()
        bad = 0
        for url, pin in pins.items():
            try:
                found = _run(partial(_fetcher().fetch, url, largest=pin.size, media_type=pin.media_type))
            except FetchFailed as error:
                bad += 1
                print(f"FAILED  {error}")
                continue
            if pin.fits(found.body):
                now = datetime.now(UTC).replace(microsecond=0)
                pins[url] = pin.model_copy(update={"last_verified": now})
                print(f"ok      {url}")
            else:
                bad += 1
                print(f"FAILED  {url}: sha256 {digest(found.body)}, pinned {pin.sha256}")
        if pins:
            write_lock(pins)
        print(f"\n{len(pins) - bad} of {len(pins)} verified")
        if bad:
            raise typer.Exit(_FOUND)

    return app


def _fetcher() -> Fetcher:
    settings, _ = load(Settings)
    return Fetcher(internal_hosts=settings.resource_hosts)


def _fetched(url: str) -> Any:
    try:
        found = _run(partial(_fetcher().fetch, url))
    except FetchFailed as error:
        _leave(str(error))
    if len(found.body) > LARGEST:
        _leave(f"{url} is larger than {LARGEST} bytes")
    return found


def _run(work: Callable[[], Coroutine[Any, Any, _Result]]) -> _Result:
    return anyio.run(work)


def _pins() -> dict[str, Pin]:
    return _guarded(read_lock)


def _guarded(work: Callable[[], _Result]) -> _Result:
    try:
        return work()
    except (Unpinnable, ConfigurationError) as error:
        _leave(str(error))


def _leave(text: str) -> NoReturn:
    print(text, file=sys.stderr)
    raise typer.Exit(_FOUND)
