"""What a server remembers beyond one request, in this process or shared by all replicas."""

from __future__ import annotations

from mcp_chassis.state.redis import RedisStore
from mcp_chassis.state.store import MemoryStore, Store


def open_store(url: str, *, server: str) -> Store:
    """Return the store that `MCP_STATE_URL` names; it connects when it is first asked.

    Args:
        url: `memory://`, `redis://…` or `rediss://…`.
        server: The server's name, under which its state is kept.
    """
    return MemoryStore() if url == "memory://" else RedisStore(url, server=server)
