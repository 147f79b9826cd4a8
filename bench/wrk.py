"""A client that is not the bottleneck: wrk, which is told what to send and which checks every answer."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from bench.figures import Invalid
from bench.load import Connections
from bench.machine import processor_seconds_of_ended
from bench.running import cores, pinned
from tests.live.curl import BOTH, EVENTS, HANDSHAKE, JSON, Answer, Conversation

TOOL: Final = "echo"
TOLD_TOOL: Final = "echo_told"
"""The same with the SDK's context, in the generated server alone."""
_TEXT: Final = "milk and honey"
_ARGUMENTS: Final = {"query": _TEXT, "limit": 10}
_SCRIPT: Final = Path(__file__).with_name("wrk.lua")
_ID: Final = 1_000_000_000
"""Ids have as many digits as this one, so that no body is longer than another."""
_PHASES: Final = count(1)
_IDS_OF_A_PHASE: Final = 10_000_000
_PATIENCE: Final = 30.0
"""Seconds beyond its phase after which wrk is given up."""
_CLIENT: Final = {"name": "bench", "version": "1"}


@dataclass(frozen=True)
class Found:
    """What wrk saw in one phase.

    Args:
        rate: Answered calls a second.
        median: Of the time of a call in milliseconds.
        p99: The same.
        share: Of one core that wrk itself used.
        calls: Answered.
    """

    rate: float
    median: float
    p99: float
    share: float
    calls: int


@dataclass(frozen=True)
class Wire:
    """How calls are sent, and the form of their answers.

    Args:
        conversations: In turn, in sessions if the era and the server have them.
        tool: What is called.
        json: Whether answers are JSON; otherwise event streams.
    """

    conversations: Sequence[Conversation]
    tool: str
    json: bool

    @property
    def form(self) -> str:
        """The form in a word."""
        return "JSON" if self.json else "SSE"


def _served(answer: Answer, what: str) -> Answer:
    if answer.status not in (200, 202) or (answer.status == 200 and "result" not in answer.message):
        raise Invalid(f"{what} is answered {answer.status}: {answer.body}")
    return answer


async def opened(conversations: Sequence[Conversation]) -> Wire:
    """Begin the conversations as their era does, and try one call."""
    if conversations[0].era is HANDSHAKE:
        connections = Connections(conversations[0].url)
        conversations = [await _begun(connections, conversation) for conversation in conversations]
    return await tried(conversations)


async def tried(conversations: Sequence[Conversation], tool: str = TOOL) -> Wire:
    """Try one call in conversations that have begun: it tells the form of the answers."""
    call = {"name": tool, "arguments": _ARGUMENTS}
    connections = Connections(conversations[0].url)
    answer, _ = await connections.post(*conversations[0].message("tools/call", call, accept=BOTH))
    result = _served(answer, "a call").message["result"]
    if result.get("structuredContent") != _ARGUMENTS or _TEXT not in str(result.get("content")):
        raise Invalid(f"a call is answered {answer.type}: {answer.body}")
    if answer.type not in (JSON, EVENTS):
        raise Invalid(f"a call is answered as {answer.type}")
    return Wire(conversations, tool, answer.type == JSON)


async def _begun(connections: Connections, conversation: Conversation) -> Conversation:
    params = {"protocolVersion": HANDSHAKE.version, "capabilities": {}, "clientInfo": _CLIENT}
    answer, _ = await connections.post(*conversation.message("initialize", params))
    _served(answer, "initialize")
    session = {**conversation.session, "MCP-Protocol-Version": HANDSHAKE.version}
    if "mcp-session-id" in answer.headers:  # a server without sessions gives none
        session["Mcp-Session-Id"] = answer.headers["mcp-session-id"]
    begun = replace(conversation, session=session)
    answer, _ = await connections.post(*begun.message("notifications/initialized", notification=True))
    _served(answer, "notifications/initialized")
    return begun


def _prepared(wire: Wire, connections: int) -> str:
    """Return the requests of as many conversations as there are connections, each cut where its id belongs."""
    parts = []
    for conversation in wire.conversations[:connections]:
        call = {"name": wire.tool, "arguments": _ARGUMENTS}
        headers, body = conversation.message("tools/call", call, accept=BOTH, id=_ID)
        address = urlsplit(conversation.url)
        given = {"Host": address.netloc, **headers, "Content-Length": str(len(body))}
        lines = [f"POST {address.path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
        cut = ("\r\n".join(lines) + "\r\n\r\n" + body).split(str(_ID))
        if len(cut) != 2:
            raise ValueError("a request must name its id once")
        parts += cut
    return "\0".join(parts)


def load(wire: Wire, connections: int, seconds: int, *, folder: Path) -> Found:
    """Send calls on so many connections, on each the next one as soon as the last one is answered.

    Raises:
        Invalid: If a single answer is not the one that was asked for.
    """
    requests = folder / "requests"
    requests.write_bytes(_prepared(wire, connections).encode())
    options = ["-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "--timeout", f"{_PATIENCE:g}s"]
    given = [str(requests), str(_ID + next(_PHASES) * _IDS_OF_A_PHASE), _TEXT, wire.form.lower()]
    command = [*pinned(cores()[1]), "wrk", *options, "-s", str(_SCRIPT), wire.conversations[0].url, "--", *given]
    if shutil.which("wrk") is None:
        raise FileNotFoundError("wrk is not installed; `make bench` installs it")
    used, begun = processor_seconds_of_ended(), time.monotonic()
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=seconds + _PATIENCE, check=True
    )
    share = (processor_seconds_of_ended() - used) / (time.monotonic() - begun)
    return read(done.stdout, share)


def read(output: str, share: float) -> Found:
    """Return what the script tells at the end of wrk's output."""
    told = re.search(r"^found (.+)\n(.*)", output, re.MULTILINE)
    if told is None:
        raise Invalid(f"wrk tells nothing:\n{output}")
    calls, microseconds, failed, bad, median, p99 = map(float, told[1].split())
    if failed or bad or not calls:
        raise Invalid(f"of {calls:g} calls, {bad:g} were answered wrong and {failed:g} not at all: {told[2][:500]}")
    return Found(calls / microseconds * 1e6, median / 1000, p99 / 1000, share, int(calls))
