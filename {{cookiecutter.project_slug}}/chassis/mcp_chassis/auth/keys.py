"""API keys: how one looks, and how it is checked without keeping it (A4).

A key is `mcpkey_<id>_<secret><checksum>`. The id finds the record at once; only the secret's hash is kept. The fixed
prefix and the checksum let secret scanners find a leaked key and tell it from noise.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import re
import secrets
import stat
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal, TextIO

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from mcp_chassis.pins import replace
from mcp_chassis.request import Caller
from mcp_chassis.state.store import Store

PREFIX: Final = "mcpkey"
_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_LENGTH: Final = 12
_SECRET_LENGTH: Final = 43
"""256 random bits in 62 letters: too many to guess, so a fast hash is enough."""
_CHECKSUM_LENGTH: Final = 6
KEY_PATTERN: Final = re.compile(PREFIX + "_([0-9A-Za-z]{12})_([0-9A-Za-z]{43})([0-9A-Za-z]{6})")
_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._@:/-]{0,127}$"
_Scope = Annotated[str, Field(pattern=r"^[\x21\x23-\x5b\x5d-\x7e]{1,128}$")]
"""RFC 6749, 3.3."""
_LONGEST_WAIT: Final = 10.0
_PAUSE: Final = 0.05
_OWNER_ALONE: Final = 0o600
_PREFIX: Final = "key:"


class KeyRecord(BaseModel):
    """What is kept of a key: everything but the key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern="^[0-9A-Za-z]{12}$")
    hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    caller: str = Field(pattern=_NAME)
    tenant: str = Field(default="default", pattern=_NAME)
    scopes: tuple[_Scope, ...] = ()
    created: AwareDatetime
    expires: AwareDatetime | None = None

    def caller_at(self, now: datetime) -> Caller | None:
        """Return who the key speaks for, or None if it has expired."""
        if self.expires is not None and self.expires <= now:
            return None
        ends = None if self.expires is None else self.expires.timestamp()
        return Caller(self.caller, self.tenant, frozenset(self.scopes), "key", ends)


class MalformedKey(Exception):
    """A text is not one of our keys; its form or checksum is wrong."""


def create(
    caller: str, *, tenant: str = "default", scopes: tuple[str, ...] = (), expires: datetime | None = None
) -> tuple[str, KeyRecord]:
    """Return a new key and its record.

    Raises:
        pydantic.ValidationError: If caller or tenant is not a plain name.
    """
    public = "".join(secrets.choice(_ALPHABET) for _ in range(_ID_LENGTH))
    secret = "".join(secrets.choice(_ALPHABET) for _ in range(_SECRET_LENGTH))
    record = KeyRecord(
        id=public,
        hash=digest(secret),
        caller=caller,
        tenant=tenant,
        scopes=scopes,
        created=datetime.now(UTC).replace(microsecond=0),
        expires=expires,
    )
    body = f"{PREFIX}_{public}_{secret}"
    return body + _checksum(body), record


def split(key: str) -> tuple[str, str]:
    """Return the id and the secret of a key.

    Raises:
        MalformedKey: If it is none of ours.
    """
    parts = KEY_PATTERN.fullmatch(key)
    if parts is None or _checksum(key[:-_CHECKSUM_LENGTH]) != parts.group(3):
        raise MalformedKey
    return parts.group(1), parts.group(2)


def digest(secret: str) -> str:
    """Return the hash that is kept of a secret."""
    return hashlib.sha256(secret.encode("ascii")).hexdigest()


_NOBODY: Final = digest("nobody")


def matches(secret: str, record: KeyRecord | None) -> bool:
    """Tell whether the secret is the record's, in the same time for a wrong secret and for no record."""
    same = hmac.compare_digest(digest(secret), _NOBODY if record is None else record.hash)
    return same and record is not None


def _checksum(body: str) -> str:
    number = zlib.crc32(body.encode("ascii"))
    letters = []
    for _ in range(_CHECKSUM_LENGTH):
        number, rest = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[rest])
    return "".join(reversed(letters))


_NO_RECORD: Final = create("nobody")[1].model_dump_json()


class UnreadableKeyring(Exception):
    """What is kept is missing or not one of ours; the text says which, never what is in it."""


class _Contents(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    keys: list[KeyRecord] = []


class FileKeyring:
    """Records in a JSON file, read again when it changes: a mounted Secret is swapped under a running server.

    Args:
        path: The file of `MCP_API_KEYS_FILE`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._records: dict[str, KeyRecord] = {}

    async def find(self, key_id: str) -> KeyRecord | None:
        """Return the record from the file as it is now. Raises `UnreadableKeyring`."""
        return self.records().get(key_id)

    def exists(self) -> bool:
        """Tell whether there is a file yet."""
        return self._path.exists()

    def records(self) -> dict[str, KeyRecord]:
        """Return all records by id.

        Raises:
            UnreadableKeyring: If the file is missing or malformed.
        """
        try:
            status = self._path.stat()
            seen = (status.st_mtime_ns, status.st_ino, status.st_size)
            if seen != self._seen:
                self._records = {record.id: record for record in self._read().keys}
                self._seen = seen
        except OSError as error:
            raise UnreadableKeyring(f"{self._path}: {error.strerror}") from None
        return self._records

    def _read(self) -> _Contents:
        try:
            return _Contents.model_validate_json(self._path.read_bytes())
        except ValidationError as error:
            places = sorted({".".join(str(part) for part in item["loc"]) for item in error.errors()})
            raise UnreadableKeyring(f"{self._path} is not a keys file; wrong at: {', '.join(places)}") from None

    @contextmanager
    def editing(self) -> Iterator[dict[str, KeyRecord]]:
        """Yield the records to change, and write them back as one atomic replacement.

        Two editors wait for each other; a reader sees the file before or after, never between.

        Raises:
            UnreadableKeyring: If there is a file that is not one of ours, or somebody holds its lock.
            OSError: If the folder cannot be written, as with a mounted Secret.
        """
        # Behind a link is the file that others read too; replacing the link would part them.
        target = self._path.resolve()
        with target.with_name(f".{target.name}.lock").open("a", encoding="ascii") as lock:
            _lock(lock, target)
            records = dict(self.records()) if self.exists() else {}
            yield records
            ordered = sorted(records.values(), key=lambda record: (record.created, record.id))
            text = _Contents(keys=ordered).model_dump_json(indent=2) + "\n"
            # Who could read it before, such as a server of another user in the group, can afterwards.
            mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else _OWNER_ALONE
            replace(target, text.encode("utf-8"), mode)


def _lock(file: TextIO, target: Path) -> None:
    """Take the editors' lock.

    Raises:
        UnreadableKeyring: If somebody holds it for longer than an edit takes.
    """
    end = time.monotonic() + _LONGEST_WAIT
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise UnreadableKeyring(f"{target} is held by another editor; find out by whom and try again") from None
            time.sleep(_PAUSE)
        else:
            return


class StoreKeyring:
    """Records in the shared store, seen by every replica at once."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def find(self, key_id: str) -> KeyRecord | None:
        """Return the record from the store. Raises `StoreDown` or `UnreadableKeyring`."""
        (text,) = await self._store.read([_PREFIX + key_id])
        # Parsed in both cases, so that an unknown id takes as long as a known one.
        record = self._record(key_id, _NO_RECORD if text is None else text)
        return None if text is None else record

    async def records(self) -> dict[str, KeyRecord]:
        """Return all records by id."""
        names = await self._store.names(_PREFIX)
        texts = await self._store.read(names) if names else []
        found = zip(names, texts, strict=True)
        records = [self._record(name.removeprefix(_PREFIX), text) for name, text in found if text is not None]
        return {record.id: record for record in records}

    def _record(self, key_id: str, text: str) -> KeyRecord:
        try:
            return KeyRecord.model_validate_json(text)
        except ValidationError:
            raise UnreadableKeyring(f"the store holds no record of ours for the key {key_id}") from None

    async def put(self, record: KeyRecord) -> None:
        """Keep `record`."""
        await self._store.write(_PREFIX + record.id, record.model_dump_json())

    async def remove(self, key_id: str) -> None:
        """Forget the key."""
        await self._store.remove(_PREFIX + key_id)


Keyring = FileKeyring | StoreKeyring
