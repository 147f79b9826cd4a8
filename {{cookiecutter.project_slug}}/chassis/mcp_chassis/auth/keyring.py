"""Where the records of API keys are kept: a file, or the shared store (A4)."""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, Protocol, TextIO

from pydantic import BaseModel, ConfigDict, ValidationError

from mcp_chassis.auth.keys import KeyRecord, create
from mcp_chassis.state.store import Store

_LONGEST_WAIT: Final = 10.0
_PAUSE: Final = 0.05
_PREFIX: Final = "key:"
_NOBODY: Final = create("nobody")[1].model_dump_json()


class Keyring(Protocol):
    """Look-up of key records by id."""

    async def find(self, key_id: str) -> KeyRecord | None:
        """Return the record of `key_id`. Raises `StoreDown` or `UnreadableKeyring` if that cannot be known."""


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
        """Return the record from the file as it is now."""
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
            self._write(target, _Contents(keys=ordered))

    def _write(self, target: Path, contents: _Contents) -> None:
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            if target.exists():
                # Who could read it before, such as a server of another user in the group, can afterwards.
                os.fchmod(descriptor, stat.S_IMODE(target.stat().st_mode))
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(contents.model_dump_json(indent=2) + "\n")
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


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
        """Return the record from the store."""
        (text,) = await self._store.read([_PREFIX + key_id])
        # Parsed in both cases, so that an unknown id takes as long as a known one.
        record = self._record(key_id, _NOBODY if text is None else text)
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
