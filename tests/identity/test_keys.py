"""API keys: their form, what is kept of them, and that a guess takes as long whatever it gets right (A4)."""

from __future__ import annotations

import json
import re
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_chassis.auth import Authentication, keys
from mcp_chassis.auth.keys import FileKeyring, KeyRecord, StoreKeyring
from mcp_chassis.http import Challenge, Refused
from mcp_chassis.state.store import MemoryStore
from tests.identity.credentials import _flipped

FOR_SCANNERS = re.compile(r"mcpkey_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}")
TRIES = 6000
NOISE = 0.04
"""Share of a try by which two means may differ: what two equal groups differ by on a busy machine, doubled."""


def test_A4_key_has_the_form_that_scanners_know() -> None:
    made = [keys.create("agent-7")[0] for _ in range(200)]

    assert all(FOR_SCANNERS.fullmatch(key) for key in made)
    assert len({keys.split(key) for key in made}) == 200


def test_A4_every_changed_letter_breaks_the_checksum() -> None:
    key, _ = keys.create("agent-7")
    start = len("mcpkey_")

    for place in range(start, len(key)):
        for letter in ("0", "1", "z", "-", "é"):
            if key[place] != letter:
                with pytest.raises(keys.MalformedKey):
                    keys.split(key[:place] + letter + key[place + 1 :])


@given(st.text())
def test_A4_text_that_is_no_key_is_malformed(text: str) -> None:
    with pytest.raises(keys.MalformedKey):
        keys.split(f"mcpkey_{text}")


def test_A4_record_holds_no_secret() -> None:
    key, record = keys.create("agent-7", scopes=("notes:read",))
    key_id, secret = keys.split(key)

    kept = record.model_dump_json()

    assert record.id == key_id
    assert keys.matches(secret, record)
    assert secret not in kept
    assert not any(secret[place : place + 8] in kept for place in range(len(secret) - 8))


@pytest.mark.parametrize(
    "wrong",
    [
        *({"caller": name} for name in ("", " ", "a b", "-a", "ann\n", "a" * 129, "Zoë")),
        {"tenant": "a\x00"},
        *({"scopes": (scope,)} for scope in ("", "a b", 'a"b', "a\\b", "ü", "a" * 129)),
    ],
)
def test_A4_record_takes_plain_names_alone(wrong: dict[str, object]) -> None:
    good = keys.create("agent-7")[1].model_dump(mode="json")

    with pytest.raises(ValueError, match="validation error"):
        KeyRecord.model_validate_json(json.dumps(good | wrong))


Ask = Callable[[str], Awaitable[float]]


def asking(authenticate: Authentication) -> Ask:
    """Return how long one refused try takes, in seconds."""

    async def ask(key: str) -> float:
        scope = {"type": "http", "headers": [(b"authorization", f"Bearer {key}".encode())]}
        begun = time.perf_counter()
        with pytest.raises(Refused) as refusal:
            await authenticate(scope)
        taken = time.perf_counter() - begun
        assert refusal.value.reason == "unknown_key"
        return taken

    return ask


async def difference(ask: Ask, wrong_secret: str, unknown_id: str) -> float:
    """Return by which share of a try two kinds of wrong keys differ, from interleaved tries in changing order."""
    taken: dict[str, list[float]] = {wrong_secret: [], unknown_id: []}
    for number in range(TRIES):
        pair = (wrong_secret, unknown_id) if number % 2 else (unknown_id, wrong_secret)
        for key in pair:
            taken[key].append(await ask(key))
    # A mean without the slowest fifth: those tries were interrupted, and say nothing about the code.
    means = [statistics.fmean(sorted(found)[: TRIES * 4 // 5]) for found in taken.values()]
    return abs(means[0] - means[1]) / min(means)


async def authentications(folder: Path) -> tuple[str, dict[str, Authentication]]:
    """Return a key, and what judges it from a file and from a store."""
    key, record = keys.create("agent-7", tenant="acme", scopes=("notes:read", "notes:write"))
    file, store = FileKeyring(folder / "keys.json"), MemoryStore()
    with file.editing() as kept:
        kept[record.id] = record
        for number in range(50):
            other = keys.create(f"agent-{number}")[1]
            kept[other.id] = other
    await StoreKeyring(store).put(record)
    challenge = Challenge("notes", None)
    return key, {
        name: Authentication(challenge=challenge, keyring=keyring)
        for name, keyring in (("file", file), ("store", StoreKeyring(store)))
    }


@pytest.mark.anyio
@pytest.mark.parametrize("kept_in", ["file", "store"])
async def test_A4_unknown_id_takes_as_long_as_a_wrong_secret(kept_in: str, tmp_path: Path) -> None:
    key, found = await authentications(tmp_path)
    ask = asking(found[kept_in])

    # Noise only adds: a machine that was busy for one whole run may be asked again, a difference stays.
    differences = [await difference(ask, _flipped(key), keys.create("agent-7")[0])]
    while differences[-1] > NOISE and len(differences) < 3:
        differences.append(await difference(ask, _flipped(key), keys.create("agent-7")[0]))

    assert min(differences) < NOISE, differences


@pytest.mark.anyio
async def test_A4_the_clock_of_these_tests_sees_an_early_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = keys.matches
    monkeypatch.setattr(keys, "matches", lambda secret, record: record is not None and right(secret, record))
    key, found = await authentications(tmp_path)

    assert await difference(asking(found["file"]), _flipped(key), keys.create("agent-7")[0]) > NOISE


@pytest.mark.anyio
async def test_A4_the_clock_of_these_tests_sees_a_record_that_is_not_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def find(keyring: StoreKeyring, key_id: str) -> KeyRecord | None:
        (text,) = await vars(keyring)["_store"].read([f"key:{key_id}"])
        return None if text is None else KeyRecord.model_validate_json(text)

    monkeypatch.setattr(StoreKeyring, "find", find)
    key, found = await authentications(tmp_path)

    assert await difference(asking(found["store"]), _flipped(key), keys.create("agent-7")[0]) > NOISE
