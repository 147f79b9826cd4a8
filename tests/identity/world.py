"""A server with every way in, an issuer beside it, and good credentials to bend."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mcp_chassis.auth import Revocations, keys
from mcp_chassis.auth.keys import FileKeyring, KeyRecord
from mcp_chassis.settings import Settings
from mcp_chassis.state.store import MemoryStore
from tests.identity.issuer import Issuer
from tests.identity.serving import Served, bearer, serving, settings
from tests.identity.wire import Answer


@dataclass
class World:
    """What a test can use, and what it must never see in a log."""

    issuer: Issuer
    file: Path
    store: MemoryStore = field(default_factory=MemoryStore)
    served: Served = field(init=False)
    secrets: list[str] = field(default_factory=list)

    def key(self, caller: str = "agent-7", *scopes: str, tenant: str = "acme", expires: datetime | None = None) -> str:
        """Create a key the server knows."""
        key, record = keys.create(caller, tenant=tenant, scopes=scopes, expires=expires)
        self.keep(record)
        return self.secret(key)

    def keep(self, record: KeyRecord) -> None:
        """Write a record into the keys file."""
        with FileKeyring(self.file).editing() as kept:
            kept[record.id] = record

    def token(self, key_id: str = "first", **how: Any) -> str:
        """Create a signed token."""
        return self.secret(self.issuer.token(key_id, **how))

    def secret(self, text: str) -> str:
        """Remember a text that nobody may log."""
        self.secrets.append(text)
        return text

    @property
    def revocations(self) -> Revocations:
        """What this server has taken back."""
        return Revocations(self.store)


def yesterday() -> datetime:
    """Return a time that has passed."""
    return datetime.now(UTC) - timedelta(days=1)


def every_way_in(world: World, **given: Any) -> Settings:
    """Return settings that admit keys, tokens and certificates."""
    everything = {"auth": ("keys", "jwt", "mtls"), "jwt_issuer": world.issuer.url, "api_keys_file": world.file}
    return settings(**(everything | {"jwt_refresh_floor": 1} | given))


@asynccontextmanager
async def a_world(issuer: Issuer, folder: Path, monkeypatch: pytest.MonkeyPatch, **given: Any) -> AsyncIterator[World]:
    """Serve with every way in; the store in this process is within reach of the test."""
    world = World(issuer, folder / "keys.json")
    world.key("operator")
    monkeypatch.setattr("mcp_chassis.app.open_store", lambda *_args, **_named: world.store)
    async with serving(every_way_in(world, **given)) as world.served:
        yield world


def holder(credential: str) -> list[tuple[str, str | bytes]]:
    """Return the headers of somebody with `credential`."""
    return [bearer(credential)]


@asynccontextmanager
async def server_of(issuer: Issuer, **given: Any) -> AsyncIterator[Served]:
    """Serve a server that admits the issuer's tokens alone, and asks for keys once."""
    known: dict[str, Any] = {"auth": ("jwt",), "jwt_issuer": issuer.url, "jwt_refresh_floor": 3600}
    async with serving(settings(**(known | given))) as served:
        yield served


async def ask(served: Served, token: str) -> Answer:
    """Call a tool with a token."""
    return await served.peer("stateless", [bearer(token)]).call("whoami")
