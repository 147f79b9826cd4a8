"""Environment variables in, one frozen object out, or every problem in one message (S1).

Each variable is named `MCP_` and the field's name in capitals. A secret may be given as a file: `MCP_…_FILE`.
"""

from __future__ import annotations

import ipaddress
import json
import re
from importlib import resources
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode, SettingsConfigDict

from mcp_chassis.environment import EnvironmentSettings, Problem

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:\d{1,5})?")
_WEB_ADDRESS = re.compile(rf"https?://{_HOST.pattern}")
_SECONDS_A_DAY = 86_400


def _loopback(value: str) -> str:
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


def _web_address(value: str) -> str:
    if not _WEB_ADDRESS.fullmatch(value) or urlsplit(value).port == 0:
        raise ValueError("must be https:// and a host, without a path: https://notes.example.com")
    return value


def _state_url(value: str) -> str:
    if value == "memory://":
        return value
    if re.fullmatch(r"rediss?://[^\s/]+(/\d+)?", value):
        raise ValueError("must be memory:// in this version of the chassis: it keeps no state in Redis yet")
    raise ValueError("must be memory://")


def _database_url(value: SecretStr) -> SecretStr:
    parts = urlsplit(value.get_secret_value())
    server = parts.scheme in ("postgresql", "postgresql+asyncpg", "postgres") and bool(parts.hostname)
    if not server and not value.get_secret_value().startswith("sqlite+aiosqlite:///"):
        raise ValueError(
            "must be postgresql+asyncpg://user:password@host:5432/name or sqlite+aiosqlite:///path/to/file"
        )
    return value


def _hosts(values: tuple[str, ...]) -> tuple[str, ...]:
    if bad := [value for value in values if not _HOST.fullmatch(value)]:
        raise ValueError(f"{bad[0]!r} is not a host: list names like notes.example.com,notes.internal:8443")
    return values


def _origins(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        _web_address(value)
    return values


def _answer(name: str) -> str:
    """Return an answer given when the project was rendered; updates change it in `answers.json`."""
    answers = json.loads(resources.files("mcp_chassis").joinpath("answers.json").read_text(encoding="utf-8"))
    return str(answers[name])


def _split(value: object) -> object:
    """Read `a, b` as two items; pydantic-settings would expect JSON."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


_List = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


class Settings(EnvironmentSettings):
    """What the chassis reads from the environment."""

    model_config = SettingsConfigDict(env_prefix="MCP_")

    environment: Literal["development", "production"] = Field(
        "development", description="production refuses what is convenient but unsafe, and never reads .env"
    )
    host: Annotated[str, AfterValidator(_loopback)] = Field(
        "127.0.0.1", description="Loopback address to listen on; the edge in front is the only way in"
    )
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 lets the system choose one")
    public_url: Annotated[str, AfterValidator(_web_address)] = Field(
        default_factory=lambda: _answer("public_url"),
        description="Address that clients use; its host is accepted in Host and Origin headers",
    )
    auth: Literal["none"] = Field(
        "none", description="Who may call: none admits everybody and starts in development only"
    )
    sessions: Literal["stateful", "stateless"] = Field(
        "stateful",
        description="stateless serves tools alone: no sessions, no GET stream, no questions to the client",
    )
    max_sessions: int = Field(1000, ge=1, le=100_000, description="Open sessions of the handshake era at one time")
    session_idle_timeout: float = Field(
        1800, ge=1, le=_SECONDS_A_DAY, description="Seconds without a request after which a session ends"
    )
    tool_timeout: float = Field(
        default_factory=lambda: float(_answer("tool_timeout")),
        gt=0,
        le=3600,
        description="Seconds that the longest tool call may take; no tool may declare more",
    )
    max_body_bytes: int = Field(1_048_576, ge=1024, le=67_108_864, description="Largest request body")
    max_header_bytes: int = Field(16_384, ge=4096, le=65_536, description="All request headers together")
    receive_timeout: float = Field(
        15, gt=0, le=300, description="Seconds a client may take to send its headers, and again for its body"
    )
    send_timeout: float = Field(
        60, gt=0, le=600, description="Seconds a client may leave an answer unread before it is cut off"
    )
    allowed_hosts: Annotated[_List, AfterValidator(_hosts)] = Field(
        (),
        description="Further Host headers to accept, separated by commas; loopback and the public URL always are",
    )
    allowed_origins: Annotated[_List, AfterValidator(_origins)] = Field(
        (),
        description="Browser origins to accept, separated by commas; in development localhost is accepted too",
    )
    list_ttl: float = Field(
        60, ge=0, le=_SECONDS_A_DAY, description="Seconds a stateless-era client may reuse a list of tools"
    )
    state_url: Annotated[str, AfterValidator(_state_url)] = Field(
        "memory://", description="Where limits and sessions are kept: memory:// is this process alone"
    )
    database_url: Annotated[SecretStr, AfterValidator(_database_url)] | None = Field(
        None, description="The database of your tools, if they have one; checked for form, opened by you"
    )
    log_format: Literal["json", "console"] | None = Field(
        None, description="json or console; by default console on a terminal in development, else json"
    )
    log_level: Literal["debug", "info", "warning", "error", "critical"] = Field(
        "info", description="Lowest level of lines written"
    )
    log_trusted_loggers: _List = Field(
        (),
        description="Loggers whose message templates may be kept, separated by commas; their arguments never are",
    )

    @classmethod
    def conflicts(cls, given: dict[str, str]) -> list[Problem]:
        """Return what no single variable shows: production without the protections it needs (A10)."""
        if given.get("MCP_ENVIRONMENT") != "production":
            return []
        found = [
            Problem(
                "MCP_AUTH",
                given.get("MCP_AUTH", "none"),
                "must not be none in production, and this version of the chassis has no other mode yet: "
                "run it with MCP_ENVIRONMENT=development, reachable by nobody but you",
            )
        ]
        if given.get("MCP_PUBLIC_URL", "").startswith("http://"):
            found.append(Problem("MCP_PUBLIC_URL", given["MCP_PUBLIC_URL"], "must be https:// in production"))
        return found
