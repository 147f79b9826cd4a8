"""Messages sent by plain curl, and answers as they came over the wire, in both eras."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Final

BOTH = "application/json, text/event-stream"
JSON = "application/json"
EVENTS = "text/event-stream"

_NAMED_BY: Final = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
"""What the header `Mcp-Name` repeats from the parameters."""
_IDS: Final = count(1000)
"""A session takes no id twice (2025-11-25, basic: requests)."""


@dataclass(frozen=True)
class Era:
    """One of the two ways of speaking.

    Args:
        name: For test ids.
        version: Protocol version.
        mode: What the official client and FastMCP's call it.
        inspector: What the Inspector calls it.
    """

    name: str
    version: str
    mode: str
    inspector: str

    def __str__(self) -> str:
        return self.name


HANDSHAKE = Era("handshake", "2025-11-25", "legacy", "legacy")
STATELESS = Era("stateless", "2026-07-28", "2026-07-28", "modern")
ERAS = (HANDSHAKE, STATELESS)


@dataclass(frozen=True)
class Answer:
    """What one POST was answered."""

    status: int
    headers: dict[str, str]
    body: str

    @property
    def type(self) -> str:
        """The media type, without parameters."""
        return self.headers.get("content-type", "").partition(";")[0]

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The JSON-RPC messages in the body, whichever shape it has."""
        if self.type == JSON:
            return [json.loads(self.body)]
        events = self.body.replace("\r\n", "\n").split("\n\n")
        data = (line[5:].strip() for event in events for line in event.split("\n") if line.startswith("data:"))
        return [json.loads(text) for text in data if text]

    @property
    def message(self) -> dict[str, Any]:
        """The message that ends the answer."""
        return self.messages[-1]


def curl(url: str, *options: str) -> Answer:
    """Run curl, which must get an answer, and return it."""
    command = ["curl", "--silent", "--show-error", "--include", "--noproxy", "*", "--max-time", "20", *options, url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"curl exits {done.returncode}: {done.stderr}")
    head, _, body = done.stdout.partition("\n\n")
    status, *lines = head.splitlines()
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Answer(int(status.split()[1]), headers, body)


@dataclass(frozen=True)
class Conversation:
    """Where to send messages, in what era, and in which session if the era has them."""

    url: str
    era: Era
    session: Mapping[str, str] = field(default_factory=dict)

    def message(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        accept: str = BOTH,
        id: int | None = None,
        notification: bool = False,
    ) -> tuple[dict[str, str], str]:
        """Return headers and body of one message, under an id that no other has unless one is given."""
        given = dict(params or {})
        headers = {"Content-Type": JSON, "Accept": accept, **self.session}
        meta: dict[str, Any] = {}
        if self.era is STATELESS:
            headers |= {"MCP-Protocol-Version": self.era.version, "Mcp-Method": method}
            if method in _NAMED_BY:
                headers["Mcp-Name"] = given[_NAMED_BY[method]]
            meta["io.modelcontextprotocol/protocolVersion"] = self.era.version
            meta["io.modelcontextprotocol/clientCapabilities"] = {"elicitation": {}}
        params = {**given, "_meta": meta | given.get("_meta", {})}
        body: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params}
        if not notification:
            body["id"] = next(_IDS) if id is None else id
        return headers, json.dumps(body)

    def post(self, method: str, params: Mapping[str, Any] | None = None, **how: Any) -> Answer:
        """Send one message; `how` is that of `message`, and an empty `accept` sends no such header."""
        headers, body = self.message(method, params, **how)
        options = [part for name, value in headers.items() for part in ("--header", f"{name}: {value}".rstrip(" "))]
        return curl(self.url, *options, "--data", body)

    def call(self, tool: str, arguments: Mapping[str, Any] | None = None, **how: Any) -> Answer:
        """Call a tool; `how` is that of `post`, and `progress=True` asks for progress."""
        meta = {"_meta": {"progressToken": "p"}} if how.pop("progress", False) else {}
        return self.post("tools/call", {"name": tool, "arguments": dict(arguments or {}), **meta}, **how)


def initialize(url: str, accept: str = BOTH) -> Answer:
    """Open a session."""
    client = {"name": "curl", "version": "1"}
    params = {"protocolVersion": HANDSHAKE.version, "capabilities": {}, "clientInfo": client}
    return Conversation(url, HANDSHAKE).post("initialize", params, accept=accept)


def converse(url: str, era: Era, accept: str = BOTH) -> Conversation:
    """Begin a conversation; in the handshake era that opens a session, with this `Accept`."""
    begun = Conversation(url, era)
    if era is STATELESS:
        return begun
    opened = initialize(url, accept)
    if opened.status != 200:
        raise RuntimeError(f"initialize is answered {opened.status}: {opened.body}")
    session = {"Mcp-Session-Id": opened.headers["mcp-session-id"], "MCP-Protocol-Version": era.version}
    begun = replace(begun, session=session)
    acknowledged = begun.post("notifications/initialized", notification=True, accept=accept)
    if acknowledged.status != 202:
        raise RuntimeError(f"initialized is answered {acknowledged.status}: {acknowledged.body}")
    return begun
