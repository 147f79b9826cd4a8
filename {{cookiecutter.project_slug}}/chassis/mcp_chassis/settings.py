"""Environment variables in, one frozen object out, or every problem in one message (S1).

Each variable is named `MCP_` and the field's name in capitals. A secret may be given as a file: `MCP_…_FILE`.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode, SettingsConfigDict

from mcp_chassis import forms, policy
from mcp_chassis.environment import EnvironmentSettings, Problem
from mcp_chassis.forms import conflicts_of
from mcp_chassis.policy import Rate

_SECONDS_A_DAY = 86_400
DRAIN_MARGIN = 5.0
"""Seconds beyond the longest call: one that began with the signal ends by its own deadline."""
_SQLITE = "sqlite+aiosqlite:///data.db"


def answer(name: str) -> str:
    """Return an answer given when the project was rendered; updates change it in `answers.json`."""
    answers = json.loads(resources.files("mcp_chassis").joinpath("answers.json").read_text(encoding="utf-8"))
    return str(answers[name])


_List = Annotated[tuple[str, ...], NoDecode, BeforeValidator(forms.split)]


class Settings(EnvironmentSettings):
    """What the chassis reads from the environment."""

    model_config = SettingsConfigDict(env_prefix="MCP_")

    environment: Literal["development", "production"] = Field(
        "development", description="production refuses what is convenient but unsafe, and never reads .env"
    )
    host: Annotated[str, AfterValidator(forms.loopback)] = Field(
        "127.0.0.1", description="Loopback address to listen on; the edge in front is the only way in"
    )
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 lets the system choose one")
    public_url: Annotated[str, AfterValidator(forms.web_address)] = Field(
        default_factory=lambda: answer("public_url"),
        description="Address that clients use; its host is accepted in Host and Origin headers",
    )
    auth: Annotated[_List, AfterValidator(forms.auth_modes)] = Field(
        ("none",),
        description="How callers prove who they are: keys, jwt, mtls, or several; none admits all, in development",
    )
    exposure: Literal["internal", "public"] = Field(
        "public", description="Who can reach the public URL; in production API keys alone are enough for internal only"
    )
    api_keys_file: Path | None = Field(
        None, description="Where the hashes of API keys are kept; without it, in the Redis of MCP_STATE_URL"
    )
    jwt_issuer: Annotated[str, AfterValidator(forms.issuer_address)] | None = Field(
        None, description="The issuer whose tokens are accepted, exactly as their iss names it"
    )
    jwt_audiences: _List = Field(
        (), description="Audiences accepted, separated by commas; by default the public URL with /mcp"
    )
    jwt_keys_url: Annotated[str, AfterValidator(forms.issuer_address)] | None = Field(
        None, description="Where the issuer's JWKS is; by default found through its openid-configuration"
    )
    jwt_algorithms: Annotated[_List, AfterValidator(forms.algorithms)] = Field(
        ("RS256", "ES256"), description="Signatures accepted, separated by commas"
    )
    jwt_leeway: float = Field(30, ge=0, le=300, description="Seconds by which the issuer's clock may differ")
    jwt_not_before: Literal["required", "optional"] = Field(
        "required", description="Whether a token must carry nbf; some issuers never send it"
    )
    jwt_tenant_claim: str | None = Field(
        None, description="Claim that names the caller's tenant, such as tid; without it all are in one tenant"
    )
    jwt_refresh_floor: float = Field(
        10, ge=1, le=3600, description="Seconds between two fetches of the issuer's keys, however many keys are unknown"
    )
    mtls_tenant_attribute: str | None = Field(
        None, description="Attribute of the certificate's subject that names the tenant, such as O"
    )
    mtls_scopes: _List = Field((), description="What callers with a certificate may do, separated by commas")
    revocation_when_store_down: Literal["deny", "allow"] = Field(
        "deny", description="While Redis is down: deny turns its outage into this server's, allow lets revoked ones in"
    )
    list_by_scope: bool = Field(True, description="Whether a tool list leaves out what its caller may not call")
    stdio_caller: str = Field("local", description="Whom the stdio transport speaks for")
    stdio_tenant: str = Field("default", description="Whose data the stdio transport works on")
    stdio_scopes: Annotated[_List, AfterValidator(forms.stdio_scopes)] = Field(
        ("*",), description="What the stdio transport may do; * is everything"
    )
    sessions: Literal["stateful", "stateless"] = Field(
        "stateful",
        description="stateless serves tools alone: no sessions, no GET stream, no questions to the client",
    )
    max_sessions: int = Field(1000, ge=1, le=100_000, description="Open sessions of the handshake era at one time")
    max_sessions_per_caller: int = Field(100, ge=1, le=100_000, description="Open sessions of one caller at one time")
    session_limit: Annotated[Rate, BeforeValidator(policy.rate_per_minute)] = Field(
        Rate(300, 60, per=60), description="Sessions that one client address may open: a minute, and at once"
    )
    session_limit_per_caller: Annotated[Rate, BeforeValidator(policy.rate_per_minute)] = Field(
        Rate(60, 20, per=60), description="Sessions that one caller may open: a minute, and at once"
    )
    session_idle_timeout: float = Field(
        1800, ge=1, le=_SECONDS_A_DAY, description="Seconds without a request after which a session ends"
    )
    tool_timeout: float = Field(
        default_factory=lambda: float(answer("tool_timeout")),
        gt=0,
        le=3600,
        description="Seconds that the longest tool call may take; no tool may declare more",
    )
    drain_timeout: float | None = Field(
        None,
        gt=0,
        le=7200,
        description="Seconds that calls in flight get after SIGTERM; by default the longest tool call and 5 more",
    )
    peer_url: Annotated[str, AfterValidator(forms.peer_address)] | None = Field(
        None,
        description="Where other replicas reach this one, like https://10.1.2.3:9443; without it, a session answers "
        "through the replica that opened it alone",
    )
    peer_secret: Annotated[SecretStr, AfterValidator(forms.secrets)] | None = Field(
        None, description="Shared by all replicas, which sign with it what they forward; newest first, one a line"
    )
    peer_ca_file: Annotated[Path, AfterValidator(forms.certificates)] | None = Field(
        None, description="Who signed the certificate of the replicas' edges, unless a public authority did"
    )
    request_state_keys: Annotated[SecretStr, AfterValidator(forms.secrets)] | None = Field(
        None,
        description="Shared by all replicas, so that one goes on where another asked; newest first, one a line",
    )
    resource_cache: Path | None = Field(
        None,
        description="Where verified copies of pinned resources are kept; by default in the folder for temporary files",
    )
    resource_interval: float = Field(
        3600,
        ge=0,
        le=_SECONDS_A_DAY * 7,
        description="Seconds between two verifications of them; 0 verifies at the start alone",
    )
    resource_hosts: Annotated[_List, AfterValidator(forms.hosts)] = Field(
        (), description="Hosts of your own network that pinned resources may come from, separated by commas"
    )
    max_body_bytes: int = Field(1_048_576, ge=1024, le=67_108_864, description="Largest request body")
    max_header_bytes: int = Field(16_384, ge=4096, le=65_536, description="All request headers together")
    receive_timeout: float = Field(
        15, gt=0, le=300, description="Seconds a client may take to send its headers, and again for its body"
    )
    send_timeout: float = Field(
        60, gt=0, le=600, description="Seconds a client may leave an answer unread before it is cut off"
    )
    max_streams: int = Field(1000, ge=1, le=100_000, description="Open GET streams and subscriptions at one time")
    max_streams_per_caller: int = Field(100, ge=1, le=100_000, description="Of these, one caller's")
    max_calls: int = Field(500, ge=1, le=100_000, description="Tool calls running at one time; none waits for a place")
    max_calls_per_caller: int = Field(100, ge=1, le=100_000, description="Of these, one caller's")
    caller_limit: Annotated[Rate, BeforeValidator(policy.rate)] = Field(
        Rate(50, 50), description="Requests of one caller, whatever they ask for: a second, and at once"
    )
    global_limit: Annotated[Rate, BeforeValidator(policy.rate)] | None = Field(
        None, description="Tool calls of all callers together: a second, and at once; by default unlimited"
    )
    tool_limit: Annotated[Rate, BeforeValidator(policy.rate)] = Field(
        Rate(20, 5), description="Calls of one caller to one tool that declares no limit: a second, and at once"
    )
    tool_limits: Annotated[_List, AfterValidator(forms.tool_limits)] = Field(
        (), description="Limits that replace what tools declare, like search_notes=50/10,run_report=5/2"
    )
    tool_budgets: Annotated[_List, AfterValidator(forms.tool_counts)] = Field(
        (), description="Units per caller and UTC day that replace what tools declare, like run_report=100"
    )
    tool_concurrency: Annotated[_List, AfterValidator(forms.tool_counts)] = Field(
        (), description="Calls running at one time that replace what tools declare, like run_report=2"
    )
    limits_when_store_down: Annotated[_List, AfterValidator(forms.down_policies)] = Field(
        ("local",),
        description="While Redis is down: local counts in each replica, open admits, closed refuses; single limits "
        "may differ, like local,budget=closed",
    )
    suspension_refusals: int = Field(
        100, ge=0, le=1_000_000, description="Refusals within the window that suspend a caller; 0 suspends nobody"
    )
    suspension_window: float = Field(60, gt=0, le=_SECONDS_A_DAY, description="Seconds in which they are counted")
    suspension_first: float = Field(
        30, gt=0, le=_SECONDS_A_DAY, description="Seconds of the first suspension; each further one is twice as long"
    )
    suspension_longest: float = Field(3600, gt=0, le=_SECONDS_A_DAY, description="Seconds of the longest")
    suspension_decay: float = Field(
        600, gt=0, le=_SECONDS_A_DAY, description="Seconds of good conduct after which one suspension is forgotten"
    )
    allowed_hosts: Annotated[_List, AfterValidator(forms.hosts)] = Field(
        (),
        description="Further Host headers to accept, separated by commas; loopback and the public URL always are",
    )
    allowed_origins: Annotated[_List, AfterValidator(forms.origins)] = Field(
        (),
        description="Browser origins to accept, separated by commas; in development localhost is accepted too",
    )
    list_ttl: float = Field(
        60, ge=0, le=_SECONDS_A_DAY, description="Seconds a stateless-era client may reuse a list of tools"
    )
    state_url: Annotated[SecretStr, AfterValidator(forms.state_url)] = Field(
        SecretStr("memory://"),
        description="Where limits and revocations are kept: memory:// is this process, redis:// is shared",
    )
    state_timeout: float = Field(
        0.03,
        ge=0.005,
        le=5,
        description="Seconds that Redis may be silent before it counts as down; a call asks 2 or 3 times",
    )
    single_replica: bool = Field(
        False, description="Says that there will only ever be one replica, so that production may use memory://"
    )
    database_url: Annotated[SecretStr, AfterValidator(forms.database_url)] | None = Field(
        None,
        description="The database of your tools, if they use one: postgresql:// in production; in development, without "
        "it, a SQLite file data.db",
    )
    database_migration_url: Annotated[SecretStr, AfterValidator(forms.database_url)] | None = Field(
        None, description="The same database as the role that owns the tables; ops db upgrade uses it, serve never"
    )
    database_pool_size: int = Field(5, ge=1, le=100, description="Connections kept open")
    database_pool_overflow: int = Field(5, ge=0, le=100, description="Connections beyond these under load")
    database_acquire_timeout: float = Field(2, gt=0, le=60, description="Seconds a call may wait for a connection")
    database_statement_timeout: float = Field(10, gt=0, le=3600, description="Seconds one statement may take")
    log_format: Literal["json", "console"] | None = Field(
        None, description="json or console; by default console on a terminal in development, else json"
    )
    log_level: Literal["debug", "info", "warning", "error", "critical"] = Field(
        "info", description="Lowest level of lines written"
    )
    log_payloads: bool = Field(
        False, description="Writes arguments, exception texts and prints into the log; refused in production"
    )
    log_trusted_loggers: _List = Field(
        (),
        description="Loggers whose message templates may be kept, separated by commas; their arguments never are",
    )

    @classmethod
    def conflicts(cls, given: dict[str, str]) -> list[Problem]:
        """Return what no single variable shows (A10)."""
        return conflicts_of(given)

    @property
    def database_url_in_use(self) -> str:
        """The database of the tools, as SQLAlchemy names it."""
        return _SQLITE if self.database_url is None else self.database_url.get_secret_value()

    @property
    def database_url_of_owner(self) -> str:
        """The same as the role that owns the tables."""
        owner = self.database_migration_url
        return self.database_url_in_use if owner is None else owner.get_secret_value()

    @property
    def drain_seconds(self) -> float:
        """How long calls in flight may take after a signal."""
        return self.tool_timeout + DRAIN_MARGIN if self.drain_timeout is None else self.drain_timeout

    @property
    def store_shown(self) -> str:
        """The store as logs may show it: without the password."""
        parts = urlsplit(self.state_url.get_secret_value())
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
