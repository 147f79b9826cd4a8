"""A server under examination, seen from outside, and the list of checks that profiles choose from."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2
from pydantic_core import from_json

from mcp_chassis.auth import keys
from mcp_chassis.auth.keys import FileKeyring
from mcp_chassis.checks import Check, Finding, Nothing, Profile, Unseen
from mcp_chassis.checks.wire import ERAS, HANDSHAKE, STATELESS, Conversation, Era
from mcp_chassis.registration import is_ours
from mcp_chassis.request import EVERY_SCOPE
from mcp_chassis.schema import Contract, contract_of

_READY_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 10.0
_PAUSE: Final = 0.05
_WIDE: Final = "100000/100000"
_OWN: Final = {
    "MCP_ENVIRONMENT": "development",
    "MCP_HOST": "127.0.0.1",
    "MCP_PORT": "0",
    "MCP_AUTH": "keys",
    "MCP_STATE_URL": "memory://",
    "MCP_LOG_FORMAT": "json",
    "MCP_LOG_LEVEL": "info",
    "MCP_CALLER_LIMIT": _WIDE,
    "MCP_TOOL_LIMIT": _WIDE,
    "MCP_SESSION_LIMIT": _WIDE,
    "MCP_SESSION_LIMIT_PER_CALLER": _WIDE,
}
_NOT_OURS: Final = ("MCP_PEER_", "MCP_STATE_URL_FILE", "MCP_SESSIONS", "MCP_TOOL_LIMITS")
NO_ANSWER: Final = "no answer: "
_LISTS: Final = {
    "tools": "tools/list",
    "prompts": "prompts/list",
    "resources": "resources/list",
    "resourceTemplates": "resources/templates/list",
}
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
_DAY: Final = 86_400.0


class NotStarted(Exception):
    """The server did not come up; the text is what it said."""


def end_on_signals() -> None:
    """Let SIGTERM end what runs as Ctrl-C does, with `KeyboardInterrupt`: what was started is stopped."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts us in the background ignores it
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


@contextmanager
def started(package: str) -> Iterator[Target]:
    """Run `python -m package serve` on a free port for as long as the context lasts, with a key that may do everything.

    Raises:
        NotStarted: If it does not serve in time.
    """
    with tempfile.TemporaryDirectory(prefix="mcp-checks-") as name:
        folder = Path(name)
        with FileKeyring(folder / "keys.json").editing() as kept:
            token, record = keys.create("checks", scopes=(EVERY_SCOPE,))
            kept[record.id] = record
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", package, "serve"], env=_environment(folder), stdout=log, stderr=log
            )
        try:
            yield Target(_url(process, folder / "log"), token)
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _environment(folder: Path) -> Mapping[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_OURS)}
    database = {"MCP_DATABASE_URL": f"sqlite+aiosqlite:///{folder / 'data.db'}"}
    given = {} if "MCP_DATABASE_URL_FILE" in inherited else database
    return {**given, **inherited, **_OWN, "MCP_API_KEYS_FILE": str(folder / "keys.json")}


def _url(process: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + _READY_SECONDS
    while process.poll() is None and time.monotonic() < end:
        for line in log.read_bytes().splitlines():
            if b'"server_started"' in line:
                return str(from_json(line)["url"])
        time.sleep(_PAUSE)
    said = log.read_text(encoding="utf-8", errors="replace").strip()
    raise NotStarted(f"the server did not start:\n{said}")


@dataclass(slots=True)
class Seen:
    """What one era offers.

    Args:
        contract: The lists in their canonical form.
        ours: Whether it has the ping tool that every server of this chassis has.
    """

    contract: Contract
    ours: bool


@dataclass
class Target:
    """A server and what is known of it.

    Args:
        url: The endpoint, path included.
        token: The bearer credential, if it needs one.
        digest: SHA-256 of the contract it should have.
        version: The version that it should say it is.
        timeout: Seconds one step may take.
        days: Days that certificate and credential must have left.
        facts: Numbers that a check learned, for metrics.
        introduction: What it says it is.
    """

    url: str
    token: str | None = None
    digest: str | None = None
    version: str | None = None
    timeout: float = 20
    days: float = 7
    facts: dict[str, float] = field(default_factory=dict)
    introduction: str = ""
    _lost: str = ""
    _unserved: dict[str, str] = field(default_factory=dict)
    _seen: dict[str, Seen] = field(default_factory=dict)

    @property
    def host(self) -> str:
        """The host in its URL."""
        return urlsplit(self.url).hostname or ""

    @cached_property
    def context(self) -> ssl.SSLContext:
        """How certificates are verified: as the system does, or by SSL_CERT_FILE."""
        return httpx2.create_ssl_context()

    def direct(self) -> None:
        """Raise `Nothing` if a proxy stands in between, which sees what we cannot."""
        if self.host not in _LOOPBACK and urlsplit(self.url).scheme in getproxies() and not proxy_bypass(self.host):
            raise Nothing("a proxy of this machine's environment stands in between")

    def lose(self, why: str) -> None:
        """Ask nothing more: it cannot be reached."""
        self._lost = why

    def reachable(self) -> None:
        """Raise `Nothing` if it was lost."""
        if self._lost:
            raise Nothing(f"not asked: {self._lost}")

    @asynccontextmanager
    async def talk(
        self, era: Era, *, anonymous: bool = False, further: Mapping[str, str] | None = None
    ) -> AsyncIterator[Conversation]:
        """Hold a conversation in `era`. Raises `Unseen` when no answer comes, and `Nothing` from then on."""
        self.reachable()
        credential = {"Authorization": f"Bearer {self.token}"} if self.token and not anonymous else {}
        async with httpx2.AsyncClient(
            timeout=self.timeout, verify=self.context, trust_env=self.host not in _LOOPBACK
        ) as client:
            conversation = Conversation(client, self.url, era, credential | dict(further or {}), patience=self.timeout)
            try:
                yield conversation
            except (httpx2.RequestError, TimeoutError) as error:
                self.lose(f"{type(error).__name__}: {error}".rstrip(": "))
                raise Unseen(
                    NO_ANSWER + self._lost, "see that the server runs, and that every hop between lets this through"
                ) from None
            finally:
                if not self._lost:
                    with suppress(httpx2.RequestError, TimeoutError):
                        await conversation.close()

    @asynccontextmanager
    async def opened(self, era: Era) -> AsyncIterator[Conversation]:
        """Hold a conversation with a server that speaks `era`. Raises `Nothing` if it does not."""
        if era.name in self._unserved:
            raise Nothing(f"the {era.name} era is not served ({self._unserved[era.name]})")
        async with self.talk(era) as conversation:
            reply = await conversation.open()
            if not reply.result:
                self._unserved[era.name] = reply.told
                raise Nothing(f"the {era.name} era is not served ({reply.told})")
            yield conversation

    async def seen(self, era: Era) -> Seen:
        """Return what it offers in `era`, asked once. Raises `Nothing` if it does not speak it."""
        if era.name not in self._seen:
            async with self.opened(era) as conversation:
                lists = {part: await conversation.pages(method, part) for part, method in _LISTS.items()}
            try:
                contract = contract_of(lists)
            except KeyError as error:
                raise Unseen(f"a list holds an entry without {error}", "look at the server's log") from None
            self._seen[era.name] = Seen(contract, any(map(is_ours, lists["tools"])))
            self.facts["tools"] = len(contract["tools"])
        return self._seen[era.name]

    async def contract(self, era: Era) -> Contract:
        """Return the canonical form of what it offers in `era`."""
        return (await self.seen(era)).contract

    async def serves(self, era: Era) -> bool:
        """Tell whether it speaks `era`."""
        try:
            await self.seen(era)
        except Nothing:
            return False
        return True

    async def spoken(self) -> Era:
        """Return an era that it speaks: the newer one, if it does. Raises `Nothing` if it speaks none."""
        for era in (STATELESS, HANDSHAKE):
            if await self.serves(era):
                return era
        raise Nothing("nothing to ask: it answers in neither era")

    async def is_ours(self) -> bool:
        """Tell whether it is a server of this chassis."""
        return any([(await self.seen(era)).ours for era in ERAS if await self.serves(era)])

    def ending(self, what: str, ends: float, begins: float | None) -> Finding:
        """Judge when something ends, in seconds since 1970; what lives shorter than six weeks may end later."""
        self.facts[f"{what}_ends_timestamp_seconds"] = ends
        needed = self.days if begins is None else min(self.days, (ends - begins) / _DAY / 6)
        days = (ends - time.time()) / _DAY
        date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(ends))
        told = f"{days:.1f} days left, until {date}; {needed:.1f} are needed"
        return Finding("pass" if days >= needed else "fail", told)


CHECKS: Final[Profile[Target]] = Profile()
"""All that can be asked of a server; `chosen` takes from it."""


def chosen(*names: str) -> list[Check[Target]]:
    """Return a profile: these checks in this order."""
    known = {check.name: check for check in CHECKS}
    return [known[name] for name in names]
