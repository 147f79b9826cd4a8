"""S1, S2: where settings come from, what a stranger variable is told, and the example file derived from them."""

from __future__ import annotations

import re
from datetime import date
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import SettingsConfigDict

from mcp_chassis import Server, ServerSettings
from mcp_chassis.cli import environment_example
from mcp_chassis.environment import ConfigurationError, load, unknown_variables
from mcp_chassis.settings import Settings
from mcp_chassis.start import start
from tests.support.inside import Log


def given(monkeypatch: pytest.MonkeyPatch, *variables: str) -> None:
    for variable in variables:
        monkeypatch.setenv(*variable.split("=", 1))


def test_S1_server_starts_from_an_empty_environment() -> None:
    settings, _ = load(Settings)

    assert (settings.environment, settings.host, settings.port) == ("development", "127.0.0.1", 8080)
    assert (settings.public_url, settings.tool_timeout) == ("https://notes.example.com", 30)
    assert settings.database_url is None


GOOD = {
    "MCP_HOST=localhost": ("host", "127.0.0.1"),
    "MCP_HOST=::1": ("host", "::1"),
    "MCP_HOST=127.0.0.2": ("host", "127.0.0.2"),
    "MCP_PORT=0": ("port", 0),
    "MCP_PUBLIC_URL=http://localhost:8080": ("public_url", "http://localhost:8080"),
    "MCP_ALLOWED_HOSTS= a.example , b.example:8443,": ("allowed_hosts", ("a.example", "b.example:8443")),
    "MCP_ALLOWED_HOSTS=": ("allowed_hosts", ()),
    "MCP_ALLOWED_ORIGINS=https://a.example": ("allowed_origins", ("https://a.example",)),
    "MCP_LIST_TTL=0": ("list_ttl", 0),
    "MCP_TOOL_TIMEOUT=0.5": ("tool_timeout", 0.5),
    "MCP_STATE_URL=memory://": ("store_shown", "memory://"),
    "MCP_STATE_URL=redis://ann:s3cret@redis:6379/0": ("store_shown", "redis://redis:6379/0"),
    "MCP_AUTH= mtls ,": ("auth", ("mtls",)),
    "MCP_LOG_TRUSTED_LOGGERS=notes,httpx": ("log_trusted_loggers", ("notes", "httpx")),
}


@pytest.mark.parametrize(("variable", "expected"), GOOD.items())
def test_S1_good_value_is_taken_as_it_is_meant(
    variable: str, expected: tuple[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch, variable)

    assert getattr(load(Settings)[0], expected[0]) == expected[1]


@pytest.mark.parametrize(
    ("url", "used"),
    [
        ("postgresql+asyncpg://u:p@db:5432/notes", "postgresql+asyncpg://u:p@db:5432/notes"),
        ("postgresql://db/notes", "postgresql+asyncpg://db/notes"),
        ("postgres://u:p@db/postgres", "postgresql+asyncpg://u:p@db/postgres"),
        ("sqlite+aiosqlite:///notes.db", "sqlite+aiosqlite:///notes.db"),
    ],
)
def test_S1_secret_may_be_given_as_a_file(url: str, used: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "url").write_text(f"{url}\n")
    given(monkeypatch, f"MCP_DATABASE_URL_FILE={tmp_path / 'url'}")

    settings, _ = load(Settings)

    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == settings.database_url_in_use == used
    assert url not in repr(settings)


def test_S1_settings_are_frozen() -> None:
    settings, _ = load(Settings)

    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 1


def test_S2_dot_env_is_read_in_development_behind_the_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "url").write_text("sqlite+aiosqlite:///from-file.db")
    (tmp_path / ".env").write_text(f"MCP_PORT=1111\nMCP_LIST_TTL=7\nMCP_DATABASE_URL_FILE={tmp_path / 'url'}\n")
    given(monkeypatch, "MCP_PORT=2222")

    settings, _ = load(Settings)

    assert (settings.port, settings.list_ttl) == (2222, 7)
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == "sqlite+aiosqlite:///from-file.db"


@pytest.mark.parametrize("line", ["MCP_PORT=x", "MCP_AUTH=keys", "MCP_DATABASE_URL_FILE=/nowhere", "MCP_POTR=1"])
def test_S2_dot_env_is_never_read_in_production(line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"{line}\n")
    given(monkeypatch, "MCP_ENVIRONMENT=production")

    with pytest.raises(ConfigurationError) as stopped:
        load(Settings)

    assert [problem.variable for problem in stopped.value.problems] == ["MCP_AUTH", "MCP_STATE_URL"]
    assert stopped.value.problems[0].value == "none"
    assert unknown_variables(Settings) == []


def test_S2_dot_env_that_asks_for_production_does_not_start_a_development_server(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MCP_ENVIRONMENT=production\n")

    with pytest.raises(ConfigurationError, match="MCP_ENVIRONMENT=production  must be set in the process"):
        load(Settings)


STRANGERS = {
    "MCP_POTR": "MCP_PORT",
    "MCP_PUBLICURL": "MCP_PUBLIC_URL",
    "MCP_MAX_SESSION": "MCP_MAX_SESSIONS",
    "MCP_DATABASE_FILE": "MCP_DATABASE_URL_FILE",
    "MCP_PORT_FILE": None,
    "MCP_XYZZY": None,
    "MCP_SERVICE_HOST": None,
}


def test_S1_unknown_variable_is_a_warning_with_the_nearest_name(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, *(f"{name}=canary" for name in STRANGERS), "MCP_LOG_LEVEL=info", "OTHER_PORT=1")

    start(Server("tests"), stream=log.stream)

    found = {line["variable"]: line["nearest"] or None for line in log.lines("unknown_variable")}
    assert {name: found.get(name, "missing") for name in ("MCP_POTR", "MCP_PUBLICURL", "MCP_MAX_SESSION")} == {
        "MCP_POTR": "MCP_PORT",
        "MCP_PUBLICURL": "MCP_PUBLIC_URL",
        "MCP_MAX_SESSION": "MCP_MAX_SESSIONS",
    }
    assert set(found) == set(STRANGERS)
    assert found["MCP_DATABASE_FILE"] in ("MCP_DATABASE_URL", "MCP_DATABASE_URL_FILE")
    assert found["MCP_XYZZY"] is None
    assert "canary" not in log.text()


class Colour(Enum):
    """A choice."""

    RED = "red"


class Every(ServerSettings):
    """One field of every kind."""

    model_config = SettingsConfigDict(env_prefix="EVERY_")

    needed: str = Field(description="A name that must be given")
    needed_secret: SecretStr = Field(description="A key that must be given")
    secret: SecretStr | None = Field(None, description="A key that may be given")
    defaulted_secret: SecretStr = Field(SecretStr("hush"), description="A key with a default")
    number: int = Field(5, ge=1, le=9, description="A number with bounds")
    share: Annotated[float, Field(gt=0, lt=1)] = Field(0.5, description="A share")
    switch: bool = Field(True, description="A switch")
    choice: Literal["a", "b"] = Field("a", description="A choice")
    many: tuple[str, ...] = Field((), description="A list")
    maybe: int | None = Field(None, description="A number that may be left out")
    day: date | None = None


EXAMPLE = """
# A name that must be given
# (text; required)
EVERY_NEEDED=

# A key that must be given
# (text; required; secret, or its file in EVERY_NEEDED_SECRET_FILE)
EVERY_NEEDED_SECRET=

# A key that may be given
# (text; secret, or its file in EVERY_SECRET_FILE)
# EVERY_SECRET=

# A key with a default
# (text; default hush; secret, or its file in EVERY_DEFAULTED_SECRET_FILE)
# EVERY_DEFAULTED_SECRET=hush

# A number with bounds
# (a whole number from 1 to 9; default 5)
# EVERY_NUMBER=5

# A share
# (a number above 0 below 1; default 0.5)
# EVERY_SHARE=0.5

# A switch
# (true or false; default true)
# EVERY_SWITCH=true

# A choice
# (a or b; default a)
# EVERY_CHOICE=a

# A list
# (a list, separated by commas)
# EVERY_MANY=

# A number that may be left out
# (a whole number)
# EVERY_MAYBE=

# (date)
# EVERY_DAY=
"""


def test_S2_example_tells_of_every_kind_of_variable() -> None:
    text = environment_example(Server("tests", settings=Every))

    assert text.endswith(EXAMPLE)


def test_S2_example_holds_every_variable_of_the_chassis_once_and_starts_a_server_as_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = environment_example(Server("tests"))
    names = re.findall(r"^(?:# )?([A-Z_]+)=", text, flags=re.MULTILINE)
    (tmp_path / ".env").write_text(text)

    assert sorted(names) == sorted(variable.name for variable in Settings.variables())
    assert load(Settings)[0] == load(Settings)[0]


def test_S2_every_default_of_the_example_is_a_good_value(tmp_path: Path) -> None:
    plain, _ = load(Settings)
    defaults = [line[2:] for line in environment_example(Server("tests")).splitlines() if line.startswith("# MCP_")]
    (tmp_path / ".env").write_text("\n".join(line for line in defaults if not line.endswith("=")))

    assert load(Settings)[0] == plain
