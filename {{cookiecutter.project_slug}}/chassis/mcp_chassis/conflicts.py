"""Variables that are right one by one and wrong together (A10)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from mcp_chassis.environment import Problem

_TRUE: Final = ("true", "1", "yes", "on", "t", "y")
"""What pydantic reads as true."""


def conflicts_of(given: Mapping[str, str]) -> list[Problem]:
    """Return the problems of the chassis's variables; `given` maps their names to texts."""
    auth = given.get("MCP_AUTH", "none")
    modes = {mode.strip() for mode in auth.split(",")} - {""}
    in_process = given.get("MCP_STATE_URL", "memory://") == "memory://"
    found = _missing_for(modes, given, in_process=in_process)
    if given.get("MCP_ENVIRONMENT") == "production":
        found += _unsafe_in_production(auth, modes, given, in_process=in_process)
    return found


def _missing_for(modes: set[str], given: Mapping[str, str], *, in_process: bool) -> list[Problem]:
    found = []
    if "jwt" in modes and not given.get("MCP_JWT_ISSUER"):
        rule = "is required by MCP_AUTH=jwt: the issuer as its tokens name it, like https://login.example.com"
        found.append(Problem("MCP_JWT_ISSUER", None, rule))
    peers = [name for name in ("MCP_PEER_URL", "MCP_PEER_SECRET") if given.get(name)]
    if len(peers) == 1:
        [missing] = {"MCP_PEER_URL", "MCP_PEER_SECRET"} - set(peers)
        found.append(Problem(missing, None, f"is required by {peers[0]}: replicas forward with both or not at all"))
    if peers and in_process:
        rule = f"must be a Redis for {peers[0]}: replicas find the owner of a session there"
        found.append(Problem("MCP_STATE_URL", "memory://", rule))
    if "keys" in modes and in_process and not given.get("MCP_API_KEYS_FILE"):
        rule = "is required by MCP_AUTH=keys unless MCP_STATE_URL is a Redis: a file like keys.json"
        found.append(Problem("MCP_API_KEYS_FILE", None, rule))
    return found


def _unsafe_in_production(auth: str, modes: set[str], given: Mapping[str, str], *, in_process: bool) -> list[Problem]:
    found = []
    if "none" in modes:
        found.append(Problem("MCP_AUTH", auth, "must not be none in production; use keys, jwt or mtls"))
    if modes == {"keys"} and given.get("MCP_EXPOSURE", "public") == "public":
        rule = (
            "is not enough in production for a server that everybody can reach: add jwt or mtls (keys may stay beside "
            "them), or say MCP_EXPOSURE=internal if only your own network reaches it"
        )
        found.append(Problem("MCP_AUTH", auth, rule))
    for name in ("MCP_PUBLIC_URL", "MCP_JWT_ISSUER", "MCP_JWT_KEYS_URL"):
        if given.get(name, "").lower().startswith("http://"):
            found.append(Problem(name, given[name], "must be https:// in production"))
    if given.get("MCP_DATABASE_URL", "").startswith("sqlite"):
        rule = "must be PostgreSQL in production: SQLite serves one process and cannot keep tenants apart"
        found.append(Problem("MCP_DATABASE_URL", given["MCP_DATABASE_URL"], rule))
    owner, user = (_user(given.get(f"MCP_DATABASE_{kind}", "")) for kind in ("MIGRATION_URL", "URL"))
    if owner is not None and owner == user:
        rule = "must name another role than MCP_DATABASE_URL: who owns the tables can switch row security off"
        found.append(Problem("MCP_DATABASE_MIGRATION_URL", None, rule))
    if given.get("MCP_LOG_PAYLOADS", "").lower() in _TRUE:
        rule = "must not be on in production: lines would hold what callers send"
        found.append(Problem("MCP_LOG_PAYLOADS", given["MCP_LOG_PAYLOADS"], rule))
    if in_process and given.get("MCP_SINGLE_REPLICA", "").lower() not in _TRUE:
        rule = (
            "must be a Redis in production, so that all replicas know what was revoked; "
            "say MCP_SINGLE_REPLICA=true if there will only ever be one"
        )
        found.append(Problem("MCP_STATE_URL", "memory://", rule))
    return found


def _user(url: str) -> str | None:
    try:
        return urlsplit(url).username
    except ValueError:
        return None
