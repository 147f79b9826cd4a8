"""The address of a database: every usual spelling, and a refusal that shows one that works (S1, A9)."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from mcp_chassis.environment import ConfigurationError, load
from mcp_chassis.forms import database_url
from mcp_chassis.settings import Settings

PLACE = "notes:p%40ss@db.example:5432/notes"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_A9_each_spelling_of_postgresql_is_accepted(scheme: str) -> None:
    assert database_url(SecretStr(f"{scheme}://{PLACE}")).get_secret_value() == f"postgresql+asyncpg://{PLACE}"


def test_A9_sqlite_is_accepted_as_it_is() -> None:
    assert database_url(SecretStr("sqlite+aiosqlite:///data.db")).get_secret_value() == "sqlite+aiosqlite:///data.db"


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:s3cret@h/d",
        "postgresql://",
        "postgresql:///d",
        "sqlite:///data.db",
        "postgresql://h:x/d",
        "postgresql://h:0/d",
        "postgresql://[::1/d",
        "",
    ],
)
def test_S1_address_of_another_database_is_refused_with_one_that_works(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MCP_DATABASE_URL", url)

    with pytest.raises(
        ConfigurationError, match=r"must be postgresql\+asyncpg://user:password@host:5432/name or sqlite"
    ):
        load(Settings)


def test_O2_address_is_never_shown() -> None:
    assert "s3cret" not in repr(Settings.model_validate({"database_url": "postgresql://u:s3cret@h/d"}))
