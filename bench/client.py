"""One caller that sends one message after the other, and lets nothing pass that was not served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from typing import Any, Final

from bench.figures import Invalid
from bench.load import Connections, outcome_of
from tests.live.curl import HANDSHAKE, Answer, Conversation, Era

TOOL: Final = "search_notes"
ARGUMENTS: Final[Mapping[str, Any]] = {"query": "milk", "limit": 5}
_INTRODUCTION: Final = {
    "protocolVersion": HANDSHAKE.version,
    "capabilities": {},
    "clientInfo": {"name": "bench", "version": "1"},
}


class Client:
    """A caller on connections that stay.

    Args:
        url: Where the server is.
        era: How it speaks.
        headers: What proves who calls; a server without authentication needs none.
        connections: Ways to the server that its messages take in turn; by default one of its own.
    """

    def __init__(self, url: str, era: Era, headers: Mapping[str, str], connections: Sequence[Connections] = ()) -> None:
        self._ways = cycle(connections or [Connections(url)])
        self._conversation = Conversation(url, era, headers)

    async def open(self) -> None:
        """Open the session, where the era has them; again opens another one."""
        begun = replace(self._conversation, session=_without_session(self._conversation.session))
        if begun.era is not HANDSHAKE:
            return
        opened, _ = await next(self._ways).post(*begun.message("initialize", _INTRODUCTION))
        if opened.status != 200:
            raise Invalid(f"initialize is answered {opened.status}: {opened.body}")
        session = {"Mcp-Session-Id": opened.headers["mcp-session-id"], "MCP-Protocol-Version": HANDSHAKE.version}
        self._conversation = replace(begun, session={**begun.session, **session})
        told = self._conversation.message("notifications/initialized", notification=True)
        noted, _ = await next(self._ways).post(*told)
        if noted.status != 202:
            raise Invalid(f"initialized is answered {noted.status}: {noted.body}")

    async def ask(self, method: str, params: Mapping[str, Any] | None = None) -> tuple[Answer, float]:
        """Send a request; return its answer, and the seconds it took."""
        answer, took = await next(self._ways).post(*self._conversation.message(method, params))
        if outcome_of(answer) != "served":
            raise Invalid(f"{method} is answered {answer.status}: {answer.body}")
        return answer, took

    async def call(self, tool: str = TOOL, arguments: Mapping[str, Any] = ARGUMENTS) -> float:
        """Call a tool; return the seconds it took."""
        return (await self.ask("tools/call", {"name": tool, "arguments": dict(arguments)}))[1]

    async def batch(self, calls: int) -> list[float]:
        """Return the milliseconds of each of so many calls, one after the other."""
        return [await self.call() * 1000 for _ in range(calls)]


def _without_session(headers: Mapping[str, str]) -> Mapping[str, str]:
    return {name: value for name, value in headers.items() if name not in ("Mcp-Session-Id", "MCP-Protocol-Version")}
