"""What must hold of a server that runs, seen from outside: the list from which every gate and the probe choose.

It speaks to any MCP server. What only a server of this chassis has, such as the ping tool, is skipped elsewhere.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

import anyio
import httpx2
import jwt
from anyio.streams.tls import TLSAttribute

from mcp_chassis.checks.report import Check, Finding, Nothing, judged
from mcp_chassis.checks.wire import ERAS, HANDSHAKE, STATELESS, Conversation, Era, Json, Reply
from mcp_chassis.http.identity import EXPIRES_HEADER
from mcp_chassis.ping import NAME as PING
from mcp_chassis.schema import Contract, contract_of, digest_of, text_of

_STEPS: Final = 5
_INTERVAL: Final = 0.3
_SPREAD: Final = 0.8
"""Of the time between the first and the last event at the server, how much must be left at the client (T4)."""
_DAYS_LEFT: Final = 7
_LISTS: Final = {
    "tools": "tools/list",
    "prompts": "prompts/list",
    "resources": "resources/list",
    "resourceTemplates": "resources/templates/list",
}


@dataclass(slots=True)
class Target:
    """A server and what is known of it.

    Args:
        url: The endpoint, path included.
        token: The bearer credential, if it needs one.
        digest: SHA-256 of the contract it should have.
        timeout: Seconds one step may take.
        facts: Numbers that a check learned, for metrics: days left, seconds.
    """

    url: str
    token: str | None = None
    digest: str | None = None
    timeout: float = 20
    facts: dict[str, float] = field(default_factory=dict)
    _contracts: dict[str, Contract] = field(default_factory=dict)

    @property
    def headers(self) -> Mapping[str, str]:
        """The credential as a header."""
        return {} if self.token is None else {"Authorization": f"Bearer {self.token}"}

    @asynccontextmanager
    async def talk(self, era: Era, *, anonymous: bool = False) -> AsyncIterator[Conversation]:
        """Hold a conversation in `era`."""
        async with httpx2.AsyncClient(timeout=self.timeout, follow_redirects=False) as client:
            conversation = Conversation(client, self.url, era, {} if anonymous else self.headers)
            yield conversation
            with suppress(httpx2.TransportError):
                await conversation.close()

    @asynccontextmanager
    async def opened(self, era: Era) -> AsyncIterator[Conversation]:
        """Hold a conversation with a server that speaks `era`. Raises `Nothing` if it does not."""
        async with self.talk(era) as conversation:
            reply = await conversation.open()
            if not reply.result:
                raise Nothing(f"the {era.name} era is not served ({reply.told})")
            yield conversation

    async def contract(self, era: Era) -> Contract:
        """Return what it offers in `era`, asked once."""
        if era.name not in self._contracts:
            async with self.opened(era) as conversation:
                lists = {part: await conversation.pages(method, part) for part, method in _LISTS.items()}
            self._contracts[era.name] = contract_of(lists)
            self.facts["tools"] = len(self._contracts[era.name]["tools"])
        return self._contracts[era.name]


Run = Callable[[Target], Awaitable[list[Finding]]]
CHECKS: Final[dict[str, Check[Target]]] = {}


def add_check(row: str, fix: str) -> Callable[[Run], Run]:
    """Add the decorated function to the list, under its own name and with its docstring as what must hold."""

    def add(run: Run) -> Run:
        CHECKS[run.__name__] = Check(row, run.__name__, (run.__doc__ or "").strip(), fix, run)
        return run

    return add


@add_check("G5", "mend the name in DNS, or the URL")
async def dns(target: Target) -> list[Finding]:
    """The host has an address."""
    host = urlsplit(target.url).hostname or ""
    try:
        found = await anyio.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        return [Finding("fail", f"{host}: {error.strerror}")]
    return [Finding("pass", ", ".join(sorted({str(address[4][0]) for address in found})))]


@add_check("G5", f"renew the certificate; a certificate is renewed in time when it has {_DAYS_LEFT} days left")
async def tls(target: Target) -> list[Finding]:
    """The certificate is valid for the host, and for some days more."""
    parts = urlsplit(target.url)
    if parts.scheme != "https":
        raise Nothing("the URL is http://")
    try:
        with anyio.fail_after(target.timeout):
            stream = await anyio.connect_tcp(
                parts.hostname or "", parts.port or 443, tls=True, ssl_context=ssl.create_default_context()
            )
            async with stream:
                certificate = stream.extra_attributes[TLSAttribute.peer_certificate]() or {}
    except ssl.SSLCertVerificationError as error:
        return [Finding("fail", error.verify_message)]
    except (OSError, TimeoutError) as error:
        return [Finding("fail", f"no TLS connection: {error}", fix="look at the edge, its listener and the way to it")]
    ends = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
    days = (ends - time.time()) / 86_400
    target.facts["tls_days_left"] = days
    return [judged(days >= _DAYS_LEFT, "", f"{days:.0f} days left, until {datetime.fromtimestamp(ends, UTC):%Y-%m-%d}")]


@add_check("T3", "look at the server's log under the request id, and at what stands before it")
async def handshake(target: Target) -> list[Finding]:
    """initialize is answered with protocolVersion, serverInfo and capabilities."""
    async with target.talk(HANDSHAKE) as conversation:
        return [_introduced(await conversation.open(), "protocolVersion", "serverInfo", "capabilities")]


@add_check("T3", "a server without the stateless era is not wrong: newer clients fall back, and older ones never ask")
async def stateless(target: Target) -> list[Finding]:
    """server/discover is answered with supportedVersions and capabilities."""
    async with target.talk(STATELESS) as conversation:
        reply = await conversation.open()
        if reply.status in (400, 404, 405, 406):
            raise Nothing(f"the stateless era is not served ({reply.told})")
        return [_introduced(reply, "supportedVersions", "capabilities")]


def _introduced(reply: Reply, *needed: str) -> Finding:
    missing = [name for name in needed if not reply.result.get(name) and reply.result.get(name) != {}]
    if not reply.result or missing:
        return Finding("fail", f"{reply.told}, without {', '.join(missing)}")
    info = reply.result.get("serverInfo") or reply.result.get("_meta", {}).get("io.modelcontextprotocol/serverInfo", {})
    shown = reply.result.get("protocolVersion") or ", ".join(map(str, reply.result.get("supportedVersions", ())))
    return Finding("pass", f"{info.get('name', 'unnamed')} {info.get('version', '')}, {shown}")


@add_check("G5", "a release that lost its tools is rolled back; else look for scopes that the credential does not hold")
async def tools(target: Target) -> list[Finding]:
    """The list of tools is not empty."""
    era = await _spoken(target)
    found = sorted((await target.contract(era))["tools"])
    return [judged(bool(found), "", ", ".join(found) if found else "no tools beside ping")]


@add_check("T3", "both eras are one server: one of them is behind a cache, or another release answers it")
async def agreement(target: Target) -> list[Finding]:
    """Both eras list the same."""
    one, other = [await target.contract(era) for era in ERAS]
    return [judged(one == other, "", "the same lists" if one == other else "the lists differ")]


@add_check("G2", "deploy what was reviewed, or accept the change: uv run <slug> schema write")
async def drift(target: Target) -> list[Finding]:
    """The contract is the one that was reviewed."""
    if target.digest is None:
        raise Nothing("no digest to compare with; give --expect-schema schema/tools.sha256")
    found = digest_of(text_of(await target.contract(await _spoken(target))))
    return [judged(found == target.digest, "", f"sha256 {found[:16]}…, expected {target.digest[:16]}…")]


@add_check("G4", "look at the server's log under the request id")
async def ping(target: Target) -> list[Finding]:
    """A harmless call is answered."""
    era = await _spoken(target)
    async with target.opened(era) as conversation:
        if not await _has_ping(conversation):
            reply = await conversation.request("ping") if era is HANDSHAKE else await conversation.request("tools/list")
            return [
                judged(bool(reply.answer) and "error" not in reply.answer, "", f"{reply.told}; it has no ping tool")
            ]
        begun = time.monotonic()
        reply = await conversation.request("tools/call", {"name": PING, "arguments": {}})
        target.facts["ping_seconds"] = time.monotonic() - begun
        content = reply.result.get("content")
        good = not reply.result.get("isError") and isinstance(content, list) and content[:1] != []
        return [judged(good, "", f"{reply.told}, {target.facts['ping_seconds'] * 1000:.0f} ms")]


@add_check("T4", "something between here and the server holds events back: switch buffering off for /mcp there")
async def streaming(target: Target) -> list[Finding]:
    """Progress arrives while the call runs, event by event."""
    findings = []
    for era in ERAS:
        try:
            findings.append(await _spread(target, era))
        except Nothing as error:
            findings.append(Finding("skip", str(error)))
    return findings


async def _spread(target: Target, era: Era) -> Finding:
    async with target.opened(era) as conversation:
        if not await _has_ping(conversation):
            raise Nothing("it has no ping tool that could send progress")
        arguments = {"steps": _STEPS, "interval": _INTERVAL}
        params = {"name": PING, "arguments": arguments, "_meta": {"progressToken": "probe"}}
        reply = await conversation.request("tools/call", params)
    came = [moment for message, moment in zip(reply.messages, reply.arrivals, strict=True) if message.get("method")]
    emitted = (_STEPS - 1) * _INTERVAL
    if len(came) < _STEPS:
        return Finding("fail", f"{era.name}: {len(came)} of {_STEPS} progress events, {reply.told}")
    spread = came[-1] - came[0]
    target.facts[f"stream_spread_{era.name}"] = spread / emitted
    return judged(
        spread >= _SPREAD * emitted, "", f"{era.name}: {_STEPS} events over {spread:.2f} s of {emitted:.2f} s"
    )


@add_check("A1", "set MCP_AUTH; if the server is meant for everybody, probe it without a credential")
async def refusal(target: Target) -> list[Finding]:
    """Who shows no credential is told 401 and where to get one, in both eras."""
    if target.token is None:
        raise Nothing("no credential was given, so this may be a server for everybody")
    findings = []
    for era in ERAS:
        async with target.talk(era, anonymous=True) as conversation:
            reply = await conversation.open()
        good = reply.status == 401 and "www-authenticate" in reply.headers
        findings.append(judged(good, "", f"{era.name}: {reply.told}"))
    return findings


@add_check("G5", "issue a new credential for the probe before this one ends: uv run <slug> ops keys rotate")
async def credential(target: Target) -> list[Finding]:
    """The credential lasts for some days more."""
    ends = _end_of_token(target.token) if target.token else None
    if ends is None and target.token:
        async with target.talk(await _spoken(target)) as conversation:
            told = (await conversation.open()).headers.get(EXPIRES_HEADER, "")
        ends = float(told) if told.isdigit() else None
    if ends is None:
        raise Nothing("it does not say when it ends" if target.token else "no credential was given")
    days = (ends - time.time()) / 86_400
    target.facts["credential_days_left"] = days
    return [judged(days >= _DAYS_LEFT, "", f"{days:.1f} days left")]


def _end_of_token(token: str) -> float | None:
    """Return when a JSON Web Token ends; nobody here can verify it, and nobody has to."""
    try:
        claims: Json = jwt.decode(token, options={"verify_signature": False})
    except jwt.InvalidTokenError:
        return None
    return claims.get("exp")


async def _spoken(target: Target) -> Era:
    """Return an era that the server speaks: the newer one, if it does. Raises `Nothing` if it speaks none."""
    for era in (STATELESS, HANDSHAKE):
        try:
            await target.contract(era)
        except Nothing:
            continue
        return era
    raise ValueError("the server answers in neither era")


async def _has_ping(conversation: Conversation) -> bool:
    return any(tool.get("name") == PING for tool in await conversation.pages("tools/list", "tools"))


def chosen(*names: str) -> list[Check[Target]]:
    """Return a profile: these checks in this order."""
    return [CHECKS[name] for name in names]
