"""What moves is not pinned, and a lock that is not exactly a lock stops the server (C2)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mcp_chassis.pins import LOCK, Pin, Unpinnable, check_reference, digest, read_lock, write_lock
from tests.support.privileges import without_override

COMMIT = "3d3c42e5aac5ba805825da76410c181273ba90b1"
SHA256 = digest(b"{}")
URL = "https://files.example.com/v1.2/definitions.json"
RAW = "https://raw.githubusercontent.com/acme/data"
PIN = Pin(sha256=SHA256, size=2, media_type="application/json", last_verified=datetime(2026, 1, 31, tzinfo=UTC))

MUTABLE = {
    "https://files.example.com/latest/definitions.json": "latest",
    "https://files.example.com/definitions-latest.json": "latest",
    "https://files.example.com/LATEST/definitions.json": "latest",
    "https://files.example.com/%6Catest/definitions.json": "latest",
    "https://files.example.com/definitions.json?version=latest": "latest",
    "https://files.example.com/nightly/definitions.json": "nightly",
    "https://files.example.com/1.0-SNAPSHOT/definitions.json": "snapshot",
    "https://files.example.com/main/definitions.json": "main",
    "https://files.example.com/master.zip": "master",
    "https://files.example.com/data/HEAD/definitions.json": "head",
    "https://files.example.com/data@develop": "develop",
    "https://files.example.com/data:edge": "edge",
    "https://files.example.com/definitions.json?ref=main": "branch",
    "https://files.example.com/definitions.json?ref=new-colours": "branch",
    "https://files.example.com/definitions.json?a=b&at=refs/heads/v1.2": "refs/heads",
    "https://github.com/acme/data/releases/latest/download/definitions-1.2.json": "latest",
    "https://github.com/acme/data/blob/main/definitions-1.2.json": "main",
    "https://github.com/acme/data/raw/new-colours/definitions.json": "branch",
    "https://github.com/acme/data/archive/refs/heads/v1.2.zip": "refs/heads",
    f"{RAW}/main/definitions.json": "main",
    f"{RAW}/main/{COMMIT}.json": "main",
    f"{RAW}/refs/heads/v1.2/definitions.json": "refs/heads",
    f"{RAW}/new-colours/definitions.json": "branch",
    f"{RAW}/3d3c42e/definitions.json": "commit",
    "https://gist.githubusercontent.com/acme/0123456789abcdef0123456789abcdef/raw/definitions.json": "branch",
    "https://gitlab.example.com/acme/data/-/raw/new-colours/definitions.json": "branch",
    "https://git.example.com/acme/data/raw/branch/v1.2/definitions.json": "branch",
    "https://bitbucket.org/acme/data/raw/new-colours/definitions.json": "branch",
    "https://huggingface.co/acme/data/resolve/main/weights-1.2.bin": "branch",
    "https://cdn.jsdelivr.net/npm/colours@1/definitions.json": "exact version",
    "https://cdn.jsdelivr.net/gh/acme/data/definitions.json": "branch",
    "https://unpkg.com/@acme/colours/definitions.json": "exact version",
    "https://registry.example.com/v2/acme/data/manifests/1.2": "digest",
    "http://files.example.com/v1.2/definitions.json": "https://",
    "ftp://files.example.com/v1.2/definitions.json": "https://",
    "https:///v1.2/definitions.json": "https://",
    "https://files.example.com:99999/v1.2/definitions.json": "https://",
    "https://[::1/v1.2/definitions.json": "https://",
    "https://ann:hunter2@files.example.com/v1.2/definitions.json": "credentials",
    "https://files.example.com/v1.2/definitions.json#top": "fragment",
    "https://files.example.com/v1.2/a b": "ASCII",
    "https://files.example.com/v1.2/größe.json": "ASCII",
    "https://files.example.com/v1.2/../main/definitions.json": "dot segments",
    "https://files.example.com/v1.2/%2e%2E/main/definitions.json": "dot segments",
    "https://files.example.com\\@evil.example/v1.2": "ASCII",
    "": "ASCII",
}

FIXED = [
    URL,
    "https://files.example.com/definitions.json",
    "https://files.example.com:8443/main/definitions-1.2.json",
    "https://files.example.com/v1.2.3/src/main/resources/definitions.json",
    "https://files.example.com/main-menu/head-count/edge-cases.json",
    f"https://files.example.com/latest/{SHA256}.json",
    "https://github.com/acme/data/releases/download/v1.2/definitions.json",
    "https://github.com/acme/data/archive/refs/tags/july.tar.gz",
    f"https://github.com/acme/data/archive/{COMMIT}.zip",
    f"{RAW}/{COMMIT}/main/definitions.json",
    f"{RAW}/v1.2.3/src/main/definitions.json",
    f"{RAW}/refs/tags/july/definitions.json",
    f"https://gist.githubusercontent.com/acme/0123456789abcdef/raw/{COMMIT}/definitions.json",
    "https://gitlab.example.com/acme/data/-/raw/v1.2/definitions.json",
    "https://files.example.com/definitions.json?ref=v1.2",
    "https://cdn.jsdelivr.net/npm/@acme/colours@1.2.3/definitions.json",
    "https://cdn.jsdelivr.net/gh/acme/data@1.2.3/definitions.json",
    "https://unpkg.com/colours@1.2.3/definitions.json",
    f"https://registry.example.com/v2/acme/data/manifests/sha256:{SHA256}",
    f"https://huggingface.co/acme/data/resolve/{COMMIT}/weights.bin",
]


@pytest.mark.parametrize("url", MUTABLE)
def test_C2_mutable_reference_is_refused_with_the_reason(url: str) -> None:
    with pytest.raises(Unpinnable) as found:
        check_reference(url)

    assert MUTABLE[url] in str(found.value)
    assert "hunter2" not in str(found.value)


@pytest.mark.parametrize("url", FIXED)
def test_C2_fixed_reference_is_accepted(url: str) -> None:
    check_reference(url)


def lock(resources: Any, **more: Any) -> str:
    """Return a lock with these resources."""
    return json.dumps({"format": 1, "resources": resources, **more})


ENTRY = json.loads(PIN.model_dump_json())
HOSTILE: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "not JSON"),
    "not JSON": ("resources: {}", "not JSON"),
    "not UTF-8": (b'{"format": 1, "resources": {"\xff": 1}}', "not JSON"),
    "a list": ("[]", "format 1"),
    "deep": ("[" * 100_000, "not JSON"),
    "huge": (" " * 1_048_577, "larger than"),
    "no format": (json.dumps({"resources": {}}), "format"),
    "another format": (json.dumps({"format": 2, "resources": {}}), "format"),
    "format as text": (json.dumps({"format": "1", "resources": {}}), "format"),
    "format as truth": (json.dumps({"format": True, "resources": {}}), "format"),
    "no resources": (json.dumps({"format": 1}), "resources"),
    "unknown field": (lock({}, more=1), "more"),
    "unknown field of an entry": (lock({URL: ENTRY | {"insecure": True}}), "insecure"),
    "no digest": (lock({URL: {**ENTRY, "sha256": ""}}), "sha256"),
    "another digest": (lock({URL: ENTRY | {"sha256": "d41d8cd98f00b204e9800998ecf8427e"}}), "sha256"),
    "capital digest": (lock({URL: ENTRY | {"sha256": SHA256.upper()}}), "sha256"),
    "digest and a line": (lock({URL: ENTRY | {"sha256": SHA256 + "\n"}}), "sha256"),
    "negative size": (lock({URL: ENTRY | {"size": -1}}), "size"),
    "unbounded size": (lock({URL: ENTRY | {"size": 10**30}}), "size"),
    "size as text": (lock({URL: ENTRY | {"size": "2"}}), "size"),
    "size as fraction": (lock({URL: ENTRY | {"size": 2.5}}), "size"),
    "time without zone": (lock({URL: ENTRY | {"last_verified": "2026-01-31T12:00:00"}}), "last_verified"),
    "no time": (lock({URL: {name: ENTRY[name] for name in ENTRY if name != "last_verified"}}), "last_verified"),
    "entry is null": (lock({URL: None}), "definitions.json"),
    "twice": (f'{{"format": 1, "resources": {{"{URL}": {json.dumps(ENTRY)}, "{URL}": {json.dumps(ENTRY)}}}}}', "twice"),
    "digest twice": (lock({URL: ENTRY}).replace('"size"', f'"sha256": "{"0" * 64}", "size"'), "twice"),
    "mutable": (lock({f"{RAW}/main/x.json": ENTRY}), "branch"),
    "http": (lock({"http://files.example.com/v1.2": ENTRY}), "https://"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_C2_lock_that_is_none_is_refused_with_the_reason(case: str) -> None:
    text, reason = HOSTILE[case]
    LOCK.write_bytes(text if isinstance(text, bytes) else text.encode())

    with pytest.raises(Unpinnable) as found:
        read_lock()

    assert reason in str(found.value)
    assert str(found.value).count("\n") == 0


def test_C2_lock_that_cannot_be_read_is_refused_with_the_reason(tmp_path: Path) -> None:
    LOCK.mkdir()
    with pytest.raises(Unpinnable, match="cannot be read: Is a directory"):
        read_lock()
    LOCK.rmdir()
    write_lock({})
    LOCK.chmod(0)
    script = "from mcp_chassis.pins import read_lock; read_lock()"

    done = subprocess.run(without_override([sys.executable, "-c", script]), capture_output=True, text=True, timeout=60)

    assert "Unpinnable: resources.lock.json cannot be read: Permission denied" in done.stderr


def test_C2_without_a_lock_nothing_is_pinned() -> None:
    assert read_lock() == {}


def test_C2_lock_is_read_as_it_was_written_and_by_every_user() -> None:
    before = os.umask(0o077)
    try:
        write_lock({URL: PIN, f"{URL}?b": PIN, "https://a.example/1.0": PIN})
    finally:
        os.umask(before)

    assert read_lock() == {URL: PIN, f"{URL}?b": PIN, "https://a.example/1.0": PIN}
    assert LOCK.stat().st_mode & 0o777 == 0o644
    assert list(json.loads(LOCK.read_text())["resources"]) == ["https://a.example/1.0", URL, f"{URL}?b"]
    assert json.loads(LOCK.read_text())["resources"][URL]["last_verified"] == "2026-01-31T00:00:00Z"
    assert [path.name for path in Path().iterdir()] == ["resources.lock.json"]
