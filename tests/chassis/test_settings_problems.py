"""S1: each bad variable is named with its value, its rule and the way out, all of them in one message."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

import pytest
from pydantic import AfterValidator, Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from mcp_chassis import ServerSettings
from mcp_chassis.environment import BAD_CONFIGURATION, ConfigurationError, load
from mcp_chassis.settings import Settings

ADDRESS = "must be https:// and a host, without a path: https://notes.example.com"
LOOPBACK = (
    "must be a loopback address: 127.0.0.1 or ::1. Others come in through the edge (deploy/), never directly; "
    "remove it to use 127.0.0.1"
)
DATABASE = "must be postgresql+asyncpg://user:password@host:5432/name or sqlite+aiosqlite:///path/to/file"
FILE = "must be a file that this process can read"
HOST = "is not a host: list names like notes.example.com,notes.internal:8443"
NO_AUTH = "must not be none in production; use keys, jwt or mtls"
NO_REDIS = (
    "must be a Redis in production, so that all replicas know what was revoked; "
    "say MCP_SINGLE_REPLICA=true if there will only ever be one"
)
STATE = (
    "must be memory:// or redis://host:6379/0 (rediss:// for TLS), without options; "
    "write ?, #, / and [ in a password as %3F, %23, %2F and %5B"
)
MODE = "must be development or production; remove it to use development"
PORT = "must be a whole number from 0 to 65535; remove it to use 8080"
OURS = "remove it to use https://notes.example.com"

SINGLE = [
    ("MCP_ENVIRONMENT=prod", MODE),
    ("MCP_ENVIRONMENT=", MODE),
    ("MCP_ENVIRONMENT=Production", MODE),
    ("MCP_HOST=0.0.0.0", LOOPBACK),
    ("MCP_HOST=::", LOOPBACK),
    ("MCP_HOST=192.168.1.5", LOOPBACK),
    ("MCP_HOST=notes.example.com", LOOPBACK),
    ("MCP_HOST=127.0.0.1:80", LOOPBACK),
    ("MCP_HOST=", LOOPBACK),
    ("MCP_PORT=http", PORT),
    ("MCP_PORT=-1", PORT),
    ("MCP_PORT=65536", PORT),
    ("MCP_PORT=80.5", PORT),
    ("MCP_PORT=", PORT),
    ("MCP_PORT=tcp://10.0.0.1:80", PORT),
    ("MCP_PUBLIC_URL=notes.example.com", f"{ADDRESS}; {OURS}"),
    ("MCP_PUBLIC_URL=https://notes.example.com/", f"{ADDRESS}; {OURS}"),
    ("MCP_PUBLIC_URL=https://notes.example.com/mcp", f"{ADDRESS}; {OURS}"),
    ("MCP_PUBLIC_URL=https://notes.example.com?x", f"{ADDRESS}; {OURS}"),
    ("MCP_PUBLIC_URL=https://notes.example.com#x", f"{ADDRESS}; {OURS}"),
    ("MCP_PUBLIC_URL=https://two words", f"{ADDRESS}; {OURS}"),
    ("MCP_PUBLIC_URL=https://[::1", f"{ADDRESS}; {OURS}"),
    ("MCP_PUBLIC_URL=https://notes.example.com:0", f"{ADDRESS}; {OURS}"),
    ("MCP_PUBLIC_URL=https://notes.example.com:99999", f"{ADDRESS}; {OURS}"),
    ("MCP_PUBLIC_URL=ftp://notes.example.com", f"{ADDRESS}; {OURS}"),
    ("MCP_PUBLIC_URL=", f"{ADDRESS}; {OURS}"),
    ("MCP_SESSIONS=none", "must be stateful or stateless; remove it to use stateful"),
    ("MCP_MAX_SESSIONS=0", "must be a whole number from 1 to 100000; remove it to use 1000"),
    ("MCP_MAX_SESSIONS=many", "must be a whole number from 1 to 100000; remove it to use 1000"),
    ("MCP_SESSION_IDLE_TIMEOUT=0", "must be a number from 1 to 86400; remove it to use 1800"),
    ("MCP_SESSION_IDLE_TIMEOUT=nan", "must be a number from 1 to 86400; remove it to use 1800"),
    ("MCP_TOOL_TIMEOUT=0", "must be a number above 0 to 3600; remove it to use 30"),
    ("MCP_TOOL_TIMEOUT=3601", "must be a number above 0 to 3600; remove it to use 30"),
    ("MCP_TOOL_TIMEOUT=1m", "must be a number above 0 to 3600; remove it to use 30"),
    ("MCP_TOOL_TIMEOUT=inf", "must be a number above 0 to 3600; remove it to use 30"),
    ("MCP_MAX_BODY_BYTES=1MB", "must be a whole number from 1024 to 67108864; remove it to use 1048576"),
    ("MCP_MAX_BODY_BYTES=1023", "must be a whole number from 1024 to 67108864; remove it to use 1048576"),
    ("MCP_MAX_HEADER_BYTES=65537", "must be a whole number from 4096 to 65536; remove it to use 16384"),
    ("MCP_RECEIVE_TIMEOUT=0", "must be a number above 0 to 300; remove it to use 15"),
    ("MCP_SEND_TIMEOUT=601", "must be a number above 0 to 600; remove it to use 60"),
    ("MCP_ALLOWED_HOSTS=notes.internal,https://x", f"'https://x' {HOST}"),
    ("MCP_ALLOWED_HOSTS=*", f"'*' {HOST}"),
    ("MCP_ALLOWED_ORIGINS=notes.example.com", ADDRESS),
    ("MCP_ALLOWED_ORIGINS=https://a.example,https://b.example/x", ADDRESS),
    ("MCP_LIST_TTL=-1", "must be a number from 0 to 86400; remove it to use 60"),
    ("MCP_LOG_FORMAT=xml", "must be json or console"),
    ("MCP_LOG_LEVEL=trace", "must be debug or info or warning or error or critical; remove it to use info"),
    ("MCP_DATABASE_URL_FILE=/nowhere/url", FILE),
    ("MCP_DATABASE_URL_FILE=/", FILE),
    ("MCP_DATABASE_URL_FILE=", FILE),
]


def given(monkeypatch: pytest.MonkeyPatch, *variables: str) -> None:
    for variable in variables:
        monkeypatch.setenv(*variable.split("=", 1))


def problems(*classes: type[ServerSettings]) -> list[str]:
    """Return the lines that stop a server with these settings, and check the line above them."""
    with pytest.raises(ConfigurationError) as stopped:
        load(Settings, *classes)
    first, *lines = str(stopped.value).split("\n")
    assert first == ("1 problem stops this server:" if len(lines) == 1 else f"{len(lines)} problems stop this server:")
    assert stopped.value.exit_code == BAD_CONFIGURATION == 78
    assert all(line.startswith("  ") for line in lines)
    return [line[2:] for line in lines]


@pytest.mark.parametrize(("variable", "rule"), SINGLE)
def test_S1_bad_variable_is_named_with_its_rule_and_the_way_out(
    variable: str, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch, variable)

    assert problems() == [f"{variable}  {rule}"]


OPTIONS = (
    "redis://:s3c?ret@redis/0",
    "redis://redis/0?socket_timeout=60",
    "redis://redis:port/0",
    "redis://:s3c[ret@r/0",
)
BAD_SECRETS = [
    *(("MCP_DATABASE_URL", url, DATABASE) for url in ("mysql://ann:s3cret@db/notes", "s3cret", "", "postgresql:///s")),
    *(
        ("MCP_STATE_URL", url, STATE)
        for url in ("file:///s3cret", "redis://ann:s3cret@redis/x", "s3cret", "", *OPTIONS)
    ),
]


@pytest.mark.parametrize(("name", "url", "rule"), BAD_SECRETS)
def test_S1_secret_is_never_shown(
    name: str, url: str, rule: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given(monkeypatch, f"{name}={url}")
    assert problems() == [f"{name}  {rule}"]

    monkeypatch.delenv(name)
    (tmp_path / "url").write_text(url)
    given(monkeypatch, f"{name}_FILE={tmp_path / 'url'}")
    assert problems() == [f"{name}  {rule}"]


def test_S1_password_in_a_plain_variable_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, "MCP_PUBLIC_URL=https://ann:s3cret@notes.example.com")

    assert problems() == [f"MCP_PUBLIC_URL=https://***@notes.example.com  {ADDRESS}; {OURS}"]


def test_S1_secret_stands_in_the_variable_or_in_the_file_not_in_both(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, "MCP_DATABASE_URL=sqlite+aiosqlite:///notes.db", "MCP_DATABASE_URL_FILE=/run/secrets/url")

    assert problems() == [
        "MCP_DATABASE_URL_FILE=/run/secrets/url  must not stand beside MCP_DATABASE_URL; remove one of them"
    ]


def test_S1_file_of_a_secret_must_be_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "url").write_bytes(b"\xff\xfe")
    given(monkeypatch, f"MCP_DATABASE_URL_FILE={tmp_path / 'url'}")

    assert problems() == [f"MCP_DATABASE_URL_FILE={tmp_path / 'url'}  {FILE}"]


SINGLE_REPLICA = "MCP_SINGLE_REPLICA=true"
REDIS = "MCP_STATE_URL=redis://redis:6379/0"
UNSAFE = [
    ([], [f"MCP_AUTH=none  {NO_AUTH}", f"MCP_STATE_URL=memory://  {NO_REDIS}"]),
    (["MCP_AUTH=none", SINGLE_REPLICA], [f"MCP_AUTH=none  {NO_AUTH}"]),
    (["MCP_LOG_LEVEL=debug", REDIS], [f"MCP_AUTH=none  {NO_AUTH}"]),
    (["MCP_AUTH=mtls"], [f"MCP_STATE_URL=memory://  {NO_REDIS}"]),
    (["MCP_AUTH=mtls", "MCP_SINGLE_REPLICA=false"], [f"MCP_STATE_URL=memory://  {NO_REDIS}"]),
]


@pytest.mark.parametrize(("variables", "told"), UNSAFE)
def test_A10_unsafe_production_does_not_start(
    variables: list[str], told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch, "MCP_ENVIRONMENT=production", *variables)

    assert problems() == told


@pytest.mark.parametrize("state", [REDIS, SINGLE_REPLICA])
def test_A10_safe_production_starts(state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, "MCP_ENVIRONMENT=production", "MCP_AUTH=mtls", state)

    assert load(Settings)[0].auth == ("mtls",)


def even(value: SecretStr) -> SecretStr:
    if len(value.get_secret_value()) % 2:
        raise ValueError(f"{value.get_secret_value()} is uneven")
    return value


class Mine(ServerSettings):
    """Settings as a team writes them."""

    model_config = SettingsConfigDict(env_prefix="NOTES_")

    region: str = Field(description="Where the notes are kept")
    kept: int = Field(1000, ge=1, le=5000, description="Notes kept")
    token: Annotated[SecretStr, AfterValidator(even)] = SecretStr("even")
    low: int = 1
    high: int = 2

    @model_validator(mode="after")
    def ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError("NOTES_LOW must be at most NOTES_HIGH")
        return self


def test_S1_problems_of_all_settings_classes_come_in_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, "MCP_ENVIRONMENT=production", "MCP_PUBLIC_URL=http://notes.example.com", "MCP_PORT=x")
    given(monkeypatch, "MCP_DATABASE_URL_FILE=/nowhere", "NOTES_KEPT=0", "NOTES_TOKEN=odd", "MCP_LOG_LEVEL=loud")

    found = problems(Mine)

    assert "MCP_DATABASE_URL_FILE=/nowhere  must be a file that this process can read" in found
    assert f"MCP_AUTH=none  {NO_AUTH}" in found
    assert f"MCP_STATE_URL=memory://  {NO_REDIS}" in found
    assert "MCP_PUBLIC_URL=http://notes.example.com  must be https:// in production" in found
    assert f"MCP_PORT=x  {PORT}" in found
    assert "NOTES_REGION  is required: Where the notes are kept" in found
    assert "NOTES_KEPT=0  must be a whole number from 1 to 5000; remove it to use 1000" in found
    assert "NOTES_TOKEN  *** is uneven" in found
    assert len(found) == 9


def test_S1_rule_over_several_variables_is_told_in_its_authors_words(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, "NOTES_REGION=north", "NOTES_LOW=3")

    assert problems(Mine) == ["NOTES_*  NOTES_LOW must be at most NOTES_HIGH"]


def test_S1_current_settings_of_a_class_that_was_not_loaded_are_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ServerSettings, "_loaded", {})

    with pytest.raises(ConfigurationError, match="NOTES_REGION"):
        Mine.current()
    given(monkeypatch, "NOTES_REGION=north")

    assert Mine.current().region == "north"
    assert Mine.current() is Mine.current()
