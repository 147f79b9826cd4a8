"""The forms that values of the environment must have, and the words for those that do not (S1)."""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final, get_args

from pydantic import SecretStr

from mcp_chassis import policy
from mcp_chassis.environment import Problem
from mcp_chassis.fetching import parts_of
from mcp_chassis.limiter import DownPolicy
from mcp_chassis.request import PROBE_SCOPE
from mcp_chassis.state.store import Limit

_TRUE: Final = ("true", "1", "yes", "on", "t", "y")
"""What pydantic reads as true."""
ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Asymmetric ones alone: with HMAC a public key would be a signing key (RFC 8725, 2.1)."""
AUTH_MODES: Final = ("keys", "jwt", "mtls", "none")
_SHORTEST_SECRET: Final = 32
"""Bytes of a key for HMAC with SHA-256 (RFC 7518, 3.2), and what the SDK asks of a request-state key."""
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:\d{1,5})?")
_PEER_ADDRESS: Final = re.compile(r"https?://([A-Za-z0-9.-]+|\[[0-9a-f:.]+\]):[0-9]{1,5}")
_WEB_ADDRESS: Final = re.compile(rf"https?://{_HOST.pattern}")


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
    return parts.username if (parts := parts_of(url)) else None


def split(value: object) -> object:
    """Read `a, b` as two items; pydantic-settings would expect JSON."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def loopback(value: str) -> str:
    """Admit addresses that only this machine reaches: the edge is the way in (T5)."""
    if value == "localhost":
        return "127.0.0.1"
    try:
        if ipaddress.ip_address(value).is_loopback:
            return value
    except ValueError:
        pass
    raise ValueError(
        "must be a loopback address: 127.0.0.1 or ::1. Others come in through the edge (deploy/), never directly"
    )


def web_address(value: str) -> str:
    """Admit a scheme and a host."""
    if not _WEB_ADDRESS.fullmatch(value) or parts_of(value) is None:
        raise ValueError("must be https:// and a host, without a path: https://notes.example.com")
    return value


def peer_address(value: str) -> str:
    """Admit a scheme, a host or address, and a port; an IPv6 address may be bare, as Kubernetes fills it in."""
    scheme, _, place = value.partition("://")
    host, _, port = place.rpartition(":")
    try:
        address = f"{scheme}://[{ipaddress.IPv6Address(host.strip('[]'))}]:{port}" if ":" in host else value
    except ValueError:
        address = ""
    if not _PEER_ADDRESS.fullmatch(address) or parts_of(address) is None:
        raise ValueError(
            "must be https://, this replica's own address and the port of its peers: https://10.1.2.3:9443"
        )
    return address


def certificates(value: Path) -> Path:
    """Admit a file with certificates of authorities."""
    try:
        ssl.create_default_context(cafile=value)
    except OSError:
        raise ValueError("must be a file with certificates in PEM that this process can read") from None
    return value


def secrets(value: SecretStr) -> SecretStr:
    """Admit secrets that nobody guesses, separated by white space."""
    found = value.get_secret_value().split()
    if not found or any(len(secret) < _SHORTEST_SECRET for secret in found):
        raise ValueError(f"must be secrets of at least {_SHORTEST_SECRET} characters, one a line: openssl rand -hex 32")
    return value


def issuer_address(value: str) -> str:
    """Admit an issuer: https, or http on this machine for development (RFC 8414, 2)."""
    parts = parts_of(value)
    plain = parts is not None and not parts.query and not parts.fragment and "@" not in parts.netloc
    local = parts is not None and parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost", "::1")
    if parts is None or not plain or not (local or parts.scheme == "https"):
        raise ValueError("must be https:// and the issuer as its tokens name it: https://login.example.com/tenant/v2.0")
    return value


def auth_modes(values: tuple[str, ...]) -> tuple[str, ...]:
    """Admit ways to prove who calls; none excludes the others."""
    known = set(values) <= set(AUTH_MODES) and len(set(values)) == len(values) and values
    if not known or ("none" in values and len(values) > 1):
        raise ValueError("must be none, or one or more of keys, jwt, mtls separated by commas: keys,jwt")
    return values


def algorithms(values: tuple[str, ...]) -> tuple[str, ...]:
    """Admit asymmetric signatures alone."""
    if not values or not set(values) <= set(ALGORITHMS):
        raise ValueError(f"must be some of {', '.join(ALGORITHMS)}: RS256,ES256")
    return values


def stdio_scopes(values: tuple[str, ...]) -> tuple[str, ...]:
    """Admit any scope but the probe's, which is held to its rules over HTTP alone (A7)."""
    if PROBE_SCOPE in values:
        raise ValueError("must not hold probe: a probe asks over HTTP, where it is held to what it may")
    return values


def state_url(value: SecretStr) -> SecretStr:
    """Admit this process's memory, or Redis."""
    text = value.get_secret_value()
    parts = parts_of(text)
    plain = parts is not None and not parts.query and not parts.fragment
    if text != "memory://" and not (plain and re.fullmatch(r"rediss?://[^\s/]+(/\d+)?", text)):
        # Options in the URL would switch off time limits and certificate checks.
        raise ValueError(
            "must be memory:// or redis://host:6379/0 (rediss:// for TLS), without options; "
            "write ?, #, / and [ in a password as %3F, %23, %2F and %5B"
        )
    return value


def database_url(value: SecretStr) -> SecretStr:
    """Admit PostgreSQL, or SQLite for development; return the spelling that SQLAlchemy knows."""
    text = value.get_secret_value()
    parts = parts_of(text)
    if text.startswith("sqlite+aiosqlite:///"):
        return value
    if parts is None or parts.scheme not in ("postgresql", "postgresql+asyncpg", "postgres"):
        raise ValueError(
            "must be postgresql+asyncpg://user:password@host:5432/name or sqlite+aiosqlite:///path/to/file"
        )
    options = [option.partition("=")[0] for option in parts.query.split("&") if option]
    if set(options) - {"ssl", "sslmode"}:
        raise ValueError("must have no options but sslmode, like ?sslmode=verify-full")
    # What libpq calls sslmode, asyncpg calls ssl; their words are the same.
    return SecretStr(f"postgresql+asyncpg://{text.partition('://')[2]}".replace("?sslmode=", "?ssl="))


def hosts(values: tuple[str, ...]) -> tuple[str, ...]:
    """Admit host names, with or without a port."""
    if bad := [value for value in values if not _HOST.fullmatch(value) or parts_of(f"//{value}") is None]:
        raise ValueError(f"{bad[0]!r} is not a host: list names like notes.example.com,notes.internal:8443")
    return values


def origins(values: tuple[str, ...]) -> tuple[str, ...]:
    """Admit browser origins."""
    for value in values:
        web_address(value)
    return values


def tool_limits(items: tuple[str, ...]) -> tuple[str, ...]:
    """Admit rates by tool."""
    policy.by_name(items, policy.rate)
    return items


def tool_counts(items: tuple[str, ...]) -> tuple[str, ...]:
    """Admit whole numbers by tool."""
    policy.by_name(items, policy.count)
    return items


def down_policies(items: tuple[str, ...]) -> tuple[str, ...]:
    """Admit one policy for all limits, and others for single ones."""
    for item in items:
        limit, equals, policy = item.rpartition("=")
        if policy not in get_args(DownPolicy) or (equals and limit not in get_args(Limit)):
            policies, limits = " or ".join(get_args(DownPolicy)), ", ".join(get_args(Limit))
            raise ValueError(f"must be {policies}, or one of them for a limit ({limits}) like budget=closed")
    named = [item.rpartition("=")[0] for item in items]
    if len(named) != len(set(named)):
        raise ValueError("must name each limit once, like local,budget=closed")
    return items
