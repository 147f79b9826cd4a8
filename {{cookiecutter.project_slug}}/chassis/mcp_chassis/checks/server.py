"""What must hold of a server that runs, seen from outside: the list from which every gate and the probe choose.

It speaks to any MCP server. What only a server of this chassis has, such as the ping tool, is skipped elsewhere.
"""

from __future__ import annotations

import socket
import ssl
import time
from typing import Final
from urllib.parse import urlsplit

import anyio
import jwt
from anyio.streams.tls import TLSAttribute

from mcp_chassis.auth import EXPIRES_HEADER
from mcp_chassis.checks import Finding, Nothing, judged
from mcp_chassis.checks.target import CHECKS, Target
from mcp_chassis.checks.wire import ERAS, HANDSHAKE, STATELESS, Era, Json, Reply
from mcp_chassis.registration import PING
from mcp_chassis.schema import digest_of, text_of

_STEPS: Final = 5
_INTERVAL: Final = 0.3
_SPREAD: Final = 0.8
"""Of the time between the first and the last event at the server, how much must be left at the client (T4)."""
_REFUSED: Final = (401, 403)


@CHECKS.check("G5", "mend the name in DNS, or the URL")
async def dns(target: Target) -> list[Finding]:
    """The host has an address."""
    target.direct()
    try:
        with anyio.fail_after(target.timeout):
            found = await anyio.getaddrinfo(target.host, None, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError, TimeoutError) as error:
        target.lose(f"{target.host} has no address")
        return [Finding("fail", f"{target.host}: {getattr(error, 'strerror', None) or type(error).__name__}")]
    return [Finding("pass", ", ".join(sorted({str(address[4][0]) for address in found})))]


@CHECKS.check("G5", "look at the certificate that this host presents: whose it is, who signed it, until when")
async def tls(target: Target) -> list[Finding]:
    """The certificate is valid, and for this host."""
    parts = urlsplit(target.url)
    if parts.scheme != "https":
        raise Nothing("the URL is http://")
    target.reachable()
    target.direct()
    try:
        with anyio.fail_after(target.timeout):
            stream = await anyio.connect_tcp(
                target.host, parts.port or 443, ssl_context=target.context, tls_standard_compatible=False
            )
            async with stream:
                certificate = stream.extra_attributes[TLSAttribute.peer_certificate]() or {}
    except ssl.SSLCertVerificationError as error:
        target.lose("its certificate is not valid")
        return [Finding("fail", str(error.verify_message))]
    except (OSError, TimeoutError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
        told = f"{type(error).__name__}: {error}".rstrip(": ")
        target.lose("there is no TLS connection")
        return [Finding("fail", f"no TLS connection: {told}", fix="look at the edge, its listener and the way to it")]
    ends, begins = (ssl.cert_time_to_seconds(str(certificate[key])) for key in ("notAfter", "notBefore"))
    target.facts |= {"certificate_begins": begins, "certificate_ends_timestamp_seconds": ends}
    return [Finding("pass", f"valid for {target.host}")]


@CHECKS.check("G5", "renew the certificate, and see why that did not happen by itself")
async def certificate(target: Target) -> list[Finding]:
    """The certificate lasts for some days more."""
    begins = target.facts.pop("certificate_begins", None)
    if begins is None:
        raise Nothing("no certificate was seen")
    return [target.ending("certificate", target.facts["certificate_ends_timestamp_seconds"], begins)]


@CHECKS.check("T3", "look at the server's log under the request id, and at what stands before it")
async def handshake(target: Target) -> list[Finding]:
    """initialize is answered with protocolVersion, serverInfo and capabilities."""
    return [await _introduced(target, HANDSHAKE, STATELESS, "protocolVersion", "serverInfo", "capabilities")]


@CHECKS.check("T3", "look at what stands before the server: every MCP- header and every status must pass unchanged")
async def stateless(target: Target) -> list[Finding]:
    """server/discover is answered with supportedVersions and capabilities."""
    return [await _introduced(target, STATELESS, HANDSHAKE, "supportedVersions", "capabilities")]


async def _introduced(target: Target, era: Era, other: Era, *needed: str) -> Finding:
    async with target.talk(era) as conversation:
        reply = await conversation.open()
    if reply.status in _REFUSED:
        raise Nothing(f"not admitted ({reply.told})")
    if not reply.result and await target.serves(other) and not await target.is_ours():
        raise Nothing(f"the {era.name} era is not served ({reply.told}); the other one is")
    if missing := [name for name in needed if reply.result.get(name) is None]:
        return Finding("fail", f"{reply.told}, without {', '.join(missing)}")
    info = reply.result.get("serverInfo") or reply.result.get("_meta", {}).get("io.modelcontextprotocol/serverInfo", {})
    target.introduction = f"{info.get('name', 'unnamed')} {info.get('version', '')}".rstrip()
    shown = reply.result.get("protocolVersion") or ", ".join(map(str, reply.result.get("supportedVersions", ())))
    return Finding("pass", f"{target.introduction}, {shown}")


@CHECKS.check("G4", "wait for the rollout of the release, or publish what runs")
async def release(target: Target) -> list[Finding]:
    """What runs is the release that is expected."""
    if target.version is None or not target.introduction:
        raise Nothing("no versions to compare")
    found = target.introduction.rpartition(" ")[2]
    return [judged(found == target.version, "", f"{target.introduction}, expected {target.version}")]


@CHECKS.check(
    "G5", "give the credential with --token-file, or issue another: uv run <slug> ops keys create --scope=probe"
)
async def admitted(target: Target) -> list[Finding]:
    """The server lets this caller in, in each era."""
    findings = []
    for era in ERAS:
        async with target.talk(era) as conversation:
            reply = await conversation.open()
        given = "with the credential" if target.token else "without a credential"
        findings.append(judged(reply.status not in _REFUSED, "", f"{era.name}, {given}: {reply.told}"))
    return findings


@CHECKS.check(
    "G5", "a release that lost its tools is rolled back; else look for scopes that the credential does not hold"
)
async def tools(target: Target) -> list[Finding]:
    """The list of tools is not empty."""
    found = sorted((await target.contract(await target.spoken()))["tools"])
    return [judged(bool(found), "", ", ".join(found) if found else "no tools beside ping")]


@CHECKS.check("T3", "both eras are one server: one of them is behind a cache, or another release answers it")
async def agreement(target: Target) -> list[Finding]:
    """Both eras list the same."""
    one, other = [await target.contract(era) for era in ERAS]
    return [judged(one == other, "", "the same lists" if one == other else "the lists differ")]


@CHECKS.check("G2", "deploy what was reviewed, or accept the change: uv run <slug> schema write")
async def drift(target: Target) -> list[Finding]:
    """The contract is the one that was reviewed."""
    if target.digest is None:
        raise Nothing("no digest to compare with; give --expect-schema schema/tools.sha256")
    if not (await target.seen(await target.spoken())).ours:
        return [Finding("fail", "the ping tool, which every server of the chassis has, is not listed")]
    found = digest_of(text_of(await target.contract(await target.spoken())))
    return [judged(found == target.digest, "", f"sha256 {found[:16]}…, expected {target.digest[:16]}…")]


@CHECKS.check("G4", "look at the server's log under the request id")
async def ping(target: Target) -> list[Finding]:
    """A harmless call is answered."""
    era = await target.spoken()
    async with target.opened(era) as conversation:
        begun = time.monotonic()
        if (await target.seen(era)).ours:
            reply = await conversation.request("tools/call", {"name": PING, "arguments": {}})
            good, note = _ponged(reply), ""
        else:
            reply = await conversation.request("ping" if era is HANDSHAKE else "tools/list")
            good, note = bool(reply.answer) and "error" not in reply.answer, "; it has no ping tool of this chassis"
    target.facts["ping_seconds"] = time.monotonic() - begun
    return [judged(good, "", f"{reply.told}, {target.facts['ping_seconds'] * 1000:.0f} ms{note}")]


def _ponged(reply: Reply) -> bool:
    content = reply.result.get("content")
    return not reply.result.get("isError") and isinstance(content, list) and content[:1] != []


@CHECKS.check("T4", "something between here and the server holds events back: switch buffering off for /mcp there")
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
    if not (await target.seen(era)).ours:
        raise Nothing("it has no ping tool that could send progress")
    async with target.opened(era) as conversation:
        arguments = {"steps": _STEPS, "interval": _INTERVAL}
        params = {"name": PING, "arguments": arguments, "_meta": {"progressToken": "probe"}}
        reply = await conversation.request("tools/call", params)
    came = [moment for message, moment in zip(reply.messages, reply.arrivals, strict=True) if message.get("method")]
    emitted = (_STEPS - 1) * _INTERVAL
    if len(came) < _STEPS:
        return Finding("fail", f"{era.name}: {len(came)} of {_STEPS} progress events, {reply.told}")
    spread = came[-1] - came[0]
    target.facts[f"stream_spread_ratio:{era.name}"] = spread / emitted
    told = f"{era.name}: {_STEPS} events over {spread:.2f} s of {emitted:.2f} s"
    return judged(spread >= _SPREAD * emitted, "", told)


@CHECKS.check("A1", "set MCP_AUTH; if the server is meant for everybody, probe it without a credential")
async def refusal(target: Target) -> list[Finding]:
    """Who shows no credential is told 401 and where to get one, in both eras."""
    if target.token is None:
        raise Nothing("no credential was given, so this may be a server for everybody")
    findings = []
    for era in ERAS:
        async with target.talk(era, anonymous=True) as conversation:
            reply = await conversation.open()
        if reply.status != 401 and not await target.serves(era):
            continue
        good = reply.status == 401 and "www-authenticate" in reply.headers
        findings.append(judged(good, "", f"{era.name}: {reply.told}"))
    return findings


@CHECKS.check("G5", "issue a new credential for the probe before this one ends: uv run <slug> ops keys rotate")
async def credential(target: Target) -> list[Finding]:
    """The credential lasts for some days more."""
    if target.token is None:
        raise Nothing("no credential was given")
    begins, ends = _life_of_token(target.token)
    if ends is None:
        async with target.opened(await target.spoken()) as conversation:
            told = (await conversation.request("tools/list")).headers.get(EXPIRES_HEADER, "")
        ends = float(told) if told.isdigit() else None
    if ends is None:
        raise Nothing("it does not say when it ends")
    return [target.ending("credential", ends, begins)]


def _life_of_token(token: str) -> tuple[float | None, float | None]:
    """Return when a JSON Web Token begins and ends; nobody here can verify it, and nobody has to."""
    try:
        claims: Json = jwt.decode(token, options={"verify_signature": False})
    except jwt.InvalidTokenError:
        return None, None
    begins, ends = (float(claims[key]) if isinstance(claims.get(key), int | float) else None for key in ("iat", "exp"))
    return begins, ends
