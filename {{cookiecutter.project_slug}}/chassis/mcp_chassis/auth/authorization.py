"""What a caller may do, decided from the parsed body and never from a header (A7, A11)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mcp_chassis.auth.challenge import Challenge
from mcp_chassis.request import Caller, Message

_PROBE_METHODS: Final = frozenset(
    {
        *("initialize", "notifications/initialized", "server/discover", "ping"),
        *("tools/list", "prompts/list", "resources/list", "resources/templates/list"),
    }
)
_PROBE_TOOL: Final = "ping"


class Authorization:
    """Hold callers to their scopes.

    Args:
        challenge: How a refused client is told.
        needed: Returns the scopes that a tool needs.
    """

    def __init__(self, challenge: Challenge, needed: Callable[[str], frozenset[str]]) -> None:
        self._challenge = challenge
        self._needed = needed

    def __call__(self, caller: Caller, message: Message | None) -> None:
        """Let the message pass.

        Raises:
            Refused: 403 if the caller lacks a scope.
        """
        if message is None or message.method is None:
            return
        if caller.probing and not self._probing(message):
            raise self._challenge.forbidden(())
        if message.tool is not None and caller.missing(needed := self._needed(message.tool)):
            raise self._challenge.forbidden(needed)

    def _probing(self, message: Message) -> bool:
        return message.method in _PROBE_METHODS or (message.method == "tools/call" and message.tool == _PROBE_TOOL)
