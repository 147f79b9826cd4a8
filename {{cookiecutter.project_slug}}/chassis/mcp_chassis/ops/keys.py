"""`ops keys` and `ops tokens`: credentials handed out and taken back (A3, A4)."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import typer
from pydantic import ValidationError
from pydantic_core import to_json

from mcp_chassis.auth import Kind, Revocations, keys
from mcp_chassis.auth.keys import FileKeyring, KeyRecord, StoreKeyring
from mcp_chassis.errors import violations
from mcp_chassis.ops import NO_STORE, Impossible, Misused, run, tell, time_span
from mcp_chassis.server import Server
from mcp_chassis.settings import Settings
from mcp_chassis.state.store import Store

_NO_KEYRING: Final = (
    "there is no place for keys: set MCP_API_KEYS_FILE to a file, or MCP_STATE_URL to a Redis that the server shares"
)


Caller = Annotated[str, typer.Option(help="Who uses the key; this name appears in logs.")]
Tenant = Annotated[str, typer.Option(help="Whose data the caller works on.")]
Scopes = Annotated[list[str] | None, typer.Option("--scope", help="What the caller may do; repeat it for more.")]
Expires = Annotated[str, typer.Option(help="When the key ends: 90d, 12h, or never.")]
Overlap = Annotated[str, typer.Option(help="How long the old key stays valid beside the new one.")]
PrintEntry = Annotated[
    bool, typer.Option("--print-entry", help="Write nothing; print the entry for your secret store.")
]
KeyId = Annotated[str, typer.Argument(help="The id of a key, as `ops keys list` shows it; not the key itself.")]


def key_commands(server: Server) -> typer.Typer:
    """Return `ops keys`."""
    app = typer.Typer(help="API keys: create, list, revoke, rotate.", no_args_is_help=True)

    @app.command("create")
    def create(
        caller: Caller,
        tenant: Tenant = "default",
        scope: Scopes = None,
        expires: Expires = "90d",
        entry: PrintEntry = False,
    ) -> None:
        """Create a key and print it, once.

        Only its hash is kept, so a lost key cannot be shown again; create another.
        """

        async def work(desk: Desk) -> None:
            key, record = _new_key(caller, tenant, tuple(scope or ()), _end(expires))
            await desk.hand_out(key, record, print_entry=entry)

        _run(server, work)

    @app.command("list")
    def list_keys() -> None:
        """List the keys: id, caller, tenant, scopes, expiry."""
        _run(server, lambda desk: desk.show())

    @app.command("revoke")
    def revoke(key_id: KeyId) -> None:
        """Take a key back, at the next request of every replica that shares the store."""
        _run(server, lambda desk: desk.revoke(_key_id(key_id)))

    @app.command("rotate")
    def rotate(key_id: KeyId, overlap: Overlap = "24h", expires: Expires = "90d") -> None:
        """Create a successor for a key; both are valid for the overlap."""
        _run(server, lambda desk: desk.rotate(_key_id(key_id), time_span(overlap), _end(expires)))

    return app


def token_commands(server: Server) -> typer.Typer:
    """Return `ops tokens`."""
    app = typer.Typer(help="Tokens of the OAuth issuer: revoke.", no_args_is_help=True)

    @app.command("revoke")
    def revoke(
        jti: Annotated[str | None, typer.Option(help="The one token with this `jti`.")] = None,
        subject: Annotated[
            str | None, typer.Option(help="Everything of this caller, keys and certificates too.")
        ] = None,
        span: Annotated[str, typer.Option("--for", help="For how long: at least a token's lifetime.")] = "24h",
    ) -> None:
        """Take back one token, or all of a caller's credentials, in every replica."""

        async def work(desk: Desk) -> None:
            if bool(jti) == bool(subject):
                raise Misused("give either --jti or --subject, and not an empty one")
            await desk.take_back("token" if jti else "subject", jti or subject or "", time_span(span))

        _run(server, work)

    return app


class Desk:
    """Where keys are handed out and taken back.

    Args:
        settings: The server's settings.
        store: The server's store.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        self._file = None if settings.api_keys_file is None else FileKeyring(settings.api_keys_file)
        self._shared = StoreKeyring(store) if store.shared else None
        self._revocations = Revocations(store)

    async def records(self) -> dict[str, KeyRecord]:
        """Return all keys by id."""
        if self._file is not None:
            return self._file.records() if self._file.exists() else {}
        if self._shared is not None:
            return await self._shared.records()
        raise Impossible(_NO_KEYRING)

    async def keep(self, *records: KeyRecord, successor_of: str | None = None) -> None:
        """Write records where the server looks for them; a key revoked in the meantime has no successor."""
        if self._file is not None:
            with self._file.editing() as kept:
                if successor_of is not None and successor_of not in kept:
                    raise _unknown(successor_of)
                kept.update({record.id: record for record in records})
        elif self._shared is not None:
            for record in records:
                await self._shared.put(record)
        else:
            raise Impossible(_NO_KEYRING)

    async def hand_out(self, key: str, record: KeyRecord, *, print_entry: bool) -> None:
        """Keep the record and print the key; or print both, for a secret store elsewhere."""
        if print_entry:
            print(to_json({"key": key, "entry": record.model_dump(mode="json")}).decode("utf-8"))
            tell("nothing was written: put the entry into the list `keys` of your keys file, and give the key away")
            return
        await self.keep(record)
        tell(_line(record))
        print(key)

    async def show(self) -> None:
        """Print one line for each key."""
        for record in (await self.records()).values():
            print(_line(record) + ("  REVOKED" if await self._revoked(record) else ""))

    async def _revoked(self, record: KeyRecord) -> bool:
        """Tell whether the store refuses a key that is still listed: a mounted file lags behind."""
        if self._shared is None:
            return False
        return await self._revocations.revoked(("key", record.id), ("subject", record.caller))

    async def find(self, key_id: str) -> KeyRecord:
        """Return one record."""
        record = (await self.records()).get(key_id)
        if record is None:
            raise _unknown(key_id)
        return record

    async def revoke(self, key_id: str) -> None:
        """Take a key back in the store, which is at once, and out of the file, which may lag or be read-only."""
        if self._file is not None:
            self._remove_from_file(self._file, key_id)
        else:
            await self.find(key_id)
        if self._shared is not None:
            await self._revocations.revoke("key", key_id, None)
            await self._shared.remove(key_id)
        tell(f"{key_id} is revoked")

    def _remove_from_file(self, keyring: FileKeyring, key_id: str) -> None:
        try:
            with keyring.editing() as kept:
                if kept.pop(key_id, None) is None:
                    if self._shared is None:
                        raise _unknown(key_id)
                    tell(f"the keys file has no key {key_id}; the store refuses that id from now on")
        except OSError as error:
            if self._shared is None:
                raise Impossible(f"{error.filename} cannot be written and {NO_STORE}") from None
            tell("the keys file is read-only: the store refuses the key from now on; remove its entry at the source")

    async def rotate(self, key_id: str, overlap: timedelta, expires: datetime | None) -> None:
        """Hand out a successor, and let the old key end after the overlap or when it would have ended anyway."""
        old = await self.find(key_id)
        if await self._revoked(old):
            raise Impossible(f"{key_id} is revoked, so it has no successor; create a new key")
        key, record = _new_key(old.caller, old.tenant, old.scopes, expires)
        end = datetime.now(UTC).replace(microsecond=0) + overlap
        ends = end if old.expires is None else min(end, old.expires)
        await self.keep(record, old.model_copy(update={"expires": ends}), successor_of=old.id)
        tell(f"{old.id} is valid until {ends.isoformat()}")
        tell(_line(record))
        print(key)

    async def take_back(self, kind: Kind, what: str, span: timedelta) -> None:
        """Revoke tokens in the store."""
        if self._shared is None:
            raise Impossible(NO_STORE)
        await self._revocations.revoke(kind, what, span.total_seconds())
        end = datetime.now(UTC).replace(microsecond=0) + span
        tell(f"revoked until {end.isoformat()}; what is still valid then is accepted again")


def _run(server: Server, work: Callable[[Desk], Awaitable[None]]) -> None:
    run(server, lambda settings, store: work(Desk(settings, store)))


def _new_key(caller: str, tenant: str, scopes: tuple[str, ...], expires: datetime | None) -> tuple[str, KeyRecord]:
    try:
        return keys.create(caller, tenant=tenant, scopes=scopes, expires=expires)
    except ValidationError as error:
        raise Misused(f"not a key: {violations(error)}") from None


def _key_id(text: str) -> str:
    # Not echoed: somebody may have given the key itself.
    if not re.fullmatch(r"[0-9A-Za-z]{12}", text):
        raise Misused("that is not the id of a key: an id has 12 letters and digits, as `ops keys list` shows it")
    return text


def _unknown(key_id: str) -> Impossible:
    return Impossible(f"there is no key {key_id}; `ops keys list` shows them")


def _end(text: str) -> datetime | None:
    return None if text == "never" else datetime.now(UTC).replace(microsecond=0) + time_span(text)


def _line(record: KeyRecord) -> str:
    ends = "never" if record.expires is None else record.expires.isoformat()
    scopes = " ".join(record.scopes) or "-"
    return f"{record.id}  caller={record.caller}  tenant={record.tenant}  scopes={scopes}  expires={ends}"
