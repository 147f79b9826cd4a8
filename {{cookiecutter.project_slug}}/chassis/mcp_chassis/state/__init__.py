"""What a server remembers beyond one request, in this process or shared by all replicas."""

from __future__ import annotations

from mcp_chassis.state.store import LONGEST, MemoryStore, Store
from mcp_chassis.telemetry import STORE_UP
from mcp_chassis.telemetry.logging import log


def open_store(url: str, *, server: str, longest: float = LONGEST) -> Store:
    """Return the store that `MCP_STATE_URL` names; it connects when it is first asked.

    Args:
        url: `memory://`, `redis://…` or `rediss://…`.
        server: The server's name, under which its state is kept.
        longest: Seconds that Redis may be silent.
    """
    STORE_UP.set(1)
    if url == "memory://":
        return MemoryStore()
    # Imported here: it takes a tenth of the start of a server that has no use for it.
    from mcp_chassis.state.redis import RedisStore

    return RedisStore(url, server=server, longest=longest, on_change=_tell)


def _tell(answers: bool) -> None:
    """Write one line per change, not per request (L9)."""
    STORE_UP.set(int(answers))
    if answers:
        log.info("store_answers")
    else:
        log.error("store_silent", hint="limits and revocations follow their policies until it answers")
