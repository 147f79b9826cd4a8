"""What the protocol asks of a server and a few clients rely on: the further checks of gate 1 (G1)."""

from __future__ import annotations

import ipaddress
import socket
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
from pydantic_core import from_json

from mcp_chassis.checks import Finding, Nothing, Profile, judged
from mcp_chassis.checks import server as _server  # noqa: F401  # it fills the list
from mcp_chassis.checks.target import CHECKS, Target, chosen
from mcp_chassis.checks.wire import BOTH, ERAS, EVENTS, HANDSHAKE, JSON, STATELESS, Era, Reply
from mcp_chassis.registration import PING

RECORD: Final = Path("server.json")
_ACCEPT: Final[Sequence[tuple[str | None, tuple[str, ...]]]] = (
    (JSON, (JSON,)),
    (EVENTS, (EVENTS,)),
    (BOTH, (JSON, EVENTS)),
    ("*/*", (JSON, EVENTS)),
    ("application/*", (JSON,)),
    (None, (JSON, EVENTS)),
)
_PING: Final = {"name": PING, "arguments": {}}


@dataclass(frozen=True, slots=True)
class Entry:
    """A registry entry that is about to be written.

    Args:
        record: What `server.json` says.
        version: The release; the project's own version if the caller named none.
        private: Whether the registry is one that only the organisation reads.
    """

    record: dict[str, Any]
    version: str
    private: bool

    @property
    def release(self) -> str:
        """The version without the v of a tag."""
        return self.version.removeprefix("v")

    @property
    def urls(self) -> list[str]:
        """The production addresses that it records."""
        remotes = self.record.get("remotes")
        return [str(remote.get("url")) for remote in remotes if isinstance(remote, dict)] if remotes else []


def entry_of(version: str | None, *, private: bool) -> Entry:
    """Read `server.json` in the current folder.

    Raises:
        ValueError: If it is not there or no JSON object.
    """
    try:
        record = from_json(RECORD.read_bytes())
    except OSError:
        raise ValueError(f"{RECORD} is not there: run this in the root of your project") from None
    if not isinstance(record, dict):
        raise ValueError(f"{RECORD} must hold one JSON object")
    if version is None:
        version = str(tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])
    return Entry(record, version, private)


publish: Final[Profile[Entry]] = Profile()


@publish.check("G4", "record one remote of type streamable-http in server.json: the production URL")
def recorded(entry: Entry) -> list[Finding]:
    """server.json records exactly one remote, over https."""
    good = len(entry.urls) == 1 and entry.urls[0].startswith("https://")
    return [judged(good, str(RECORD), ", ".join(entry.urls) or "no remotes")]


@publish.check("G6", "set the version in server.json and in pyproject.toml to that of the release")
def version(entry: Entry) -> list[Finding]:
    """The version that is published is the release's."""
    found = str(entry.record.get("version"))
    return [judged(found == entry.release, str(RECORD), f"{found}, the release is {entry.version}")]


@publish.check("G4", "record the address that clients use; publish hosts of your own network to a private registry")
async def reachable(entry: Entry) -> list[Finding]:
    """The recorded host is one that the registry's readers reach: never this machine, a private one in a private
    registry alone.
    """
    found = []
    for url in entry.urls:
        host = urlsplit(url).hostname or ""
        try:
            addresses = {str(item[4][0]) for item in await anyio.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
        except socket.gaierror as error:
            found.append(Finding("fail", f"{host}: {error.strerror}", fix="mend the name in DNS, or the URL"))
            continue
        bad = sorted(address for address in addresses if not _admitted(address, private=entry.private))
        found.append(judged(not bad, str(RECORD), f"{host}: {', '.join(bad or sorted(addresses))}"))
    return found


def _admitted(text: str, *, private: bool) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if address.is_loopback or address.is_unspecified or address.is_link_local or address.is_multicast:
        return False
    return address.is_global or private


@CHECKS.check("T2", "a layer in front of the SDK must fit each answer to the Accept of its request")
async def accept(target: Target) -> list[Finding]:
    """Each Accept header gets an answer of a type that it names, in both eras."""
    findings = []
    for era in ERAS:
        async with target.opened(era) as conversation:
            for given, kinds in _ACCEPT:
                reply = await conversation.request("tools/call", _PING, accept=given)
                good = reply.status == 200 and reply.kind in kinds and bool(reply.result)
                findings.append(judged(good, "", f"{era.name}, Accept: {given or 'none'}: {reply.told}"))
    return findings


@CHECKS.check("E1", "protocol mistakes are JSON-RPC errors with the specification's codes")
async def unknown_method(target: Target) -> list[Finding]:
    """A method that nobody knows is -32601: with HTTP 200 in the handshake era, 404 in the stateless one."""
    expected = {HANDSHAKE.name: 200, STATELESS.name: 404}
    return [
        judged(_error(reply) == -32601 and reply.status == expected[era.name], "", f"{era.name}: {reply.told}")
        for era, reply in await _asked(target, "nobody/knows", {})
    ]


@CHECKS.check("E4", "an unknown tool is the caller's protocol mistake, not a result")
async def unknown_tool(target: Target) -> list[Finding]:
    """A tool that nobody knows is -32602."""
    replies = await _asked(target, "tools/call", {"name": "nobody_knows_this_tool", "arguments": {}})
    return [judged(_error(reply) == -32602, "", f"{era.name}: {reply.told}") for era, reply in replies]


@CHECKS.check("E4", "arguments are checked before the tool runs, and a refusal never repeats what was sent")
async def bad_arguments(target: Target) -> list[Finding]:
    """A wrong argument is answered isError, names the field, and does not echo the value."""
    canary = "canary-9f8e7d"
    findings = []
    for era, reply in await _asked(target, "tools/call", {"name": PING, "arguments": {"steps": canary}}):
        text = str(reply.result.get("content"))
        good = reply.result.get("isError") is True and "steps" in text and canary not in reply.body.decode()
        findings.append(judged(good, "", f"{era.name}: {reply.told}, isError {reply.result.get('isError')}"))
    return findings


@CHECKS.check("E1", "a body that is no message is refused before anything runs")
async def malformed(target: Target) -> list[Finding]:
    """A batch, and an object that is no message, are HTTP 400 with -32600."""
    findings = []
    for era in ERAS:
        async with target.opened(era) as conversation:
            for name, body in (("a batch", [{"jsonrpc": "2.0", "id": 1, "method": "ping"}]), ("no message", {"id": 1})):
                reply = await conversation.send(body, {**conversation.headers, "Content-Type": JSON}, BOTH)
                good = (reply.status, _error(reply)) == (400, -32600)
                findings.append(judged(good, "", f"{era.name}, {name}: {reply.told}"))
    return findings


@CHECKS.check("T3", "version negotiation is the SDK's; something in front of it answers instead")
async def versions(target: Target) -> list[Finding]:
    """A version that nobody knows is met with one that the server speaks, or refused with -32022."""
    findings = []
    async with target.talk(Era("handshake", "1999-01-01")) as conversation:
        reply = await conversation.open()
        version = str(reply.result.get("protocolVersion"))
        findings.append(judged(version.startswith("20"), "", f"handshake, 1999-01-01: {version}"))
    async with target.talk(STATELESS) as conversation:
        own = {"Content-Type": JSON, "MCP-Protocol-Version": "2999-01-01", "Mcp-Method": "ping"}
        body = {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {}}
        reply = await conversation.send(body, {**conversation.headers, **own}, BOTH)
        findings.append(judged(400 <= reply.status < 500 and bool(_error(reply)), "", f"2999-01-01: {reply.told}"))
    return findings


@CHECKS.check("A8", "sessions are looked up before anything else is done with a message")
async def sessions(target: Target) -> list[Finding]:
    """A message without its session is 400, one of a session that ended is 404."""
    async with target.opened(HANDSHAKE) as conversation:
        if not conversation.session:
            raise Nothing("the server opens no sessions")
        findings = [judged((await conversation.request("ping")).status == 200, "", "in a session: 200")]
        await conversation.close()
        reply = await conversation.request("ping")
        findings.append(judged(reply.status == 404, "", f"after DELETE: {reply.told}"))
    async with target.talk(HANDSHAKE) as conversation:
        reply = await conversation.request("ping")
        findings.append(judged(reply.status == 400, "", f"without: {reply.told}"))
    return findings


@CHECKS.check("A2", "the credential is checked before anything else, on every request: a session is no credential")
async def every_request(target: Target) -> list[Finding]:
    """A message without the credential is 401, in an open session too."""
    if target.token is None:
        raise Nothing("no credential was given, so this may be a server for everybody")
    findings = []
    for era in ERAS:
        async with target.opened(era) as conversation:
            bare = {name: value for name, value in conversation.headers.items() if name != "Authorization"}
            body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
            reply = await conversation.send(body, {**bare, "Content-Type": JSON}, BOTH)
        findings.append(judged(reply.status == 401, "", f"{era.name}: {reply.told}"))
    return findings


@CHECKS.check("T7", "Host and Origin are checked before anything else: a page could reach this server by DNS rebinding")
async def strangers(target: Target) -> list[Finding]:
    """A foreign Host is 421, a foreign Origin 403."""
    findings = []
    for name, status in (("Host", 421), ("Origin", 403)):
        given = {"Host": "evil.example"} if name == "Host" else {"Origin": "https://evil.example"}
        async with target.talk(STATELESS, further=given) as conversation:
            reply = await conversation.open()
        findings.append(judged(reply.status == status, "", f"{name}: evil.example: {reply.told}"))
    return findings


async def _asked(target: Target, method: str, params: dict[str, Any]) -> list[tuple[Era, Reply]]:
    replies = []
    for era in ERAS:
        async with target.opened(era) as conversation:
            replies.append((era, await conversation.request(method, params)))
    return replies


def _error(reply: Reply) -> int | None:
    errors = (message["error"] for message in reply.messages if isinstance(message.get("error"), dict))
    return next((error.get("code") for error in errors), None)


GATE: Final = {
    check.name: check
    for check in chosen(
        *("handshake", "stateless", "agreement", "ping", "streaming", "refusal", "every_request", "accept", "versions"),
        *("sessions", "unknown_method", "unknown_tool", "bad_arguments", "malformed", "strangers"),
    )
}
"""Gate 1. What is skipped fails it: a server of this chassis has all of it."""
