"""`ops resources add | lock | verify`: what is said, what is written, and how it ends (C1, C2)."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mcp_chassis.cli import application
from mcp_chassis.pins import LOCK, digest, read_lock
from tests.identity.serving import notes
from tests.resources.origin import Origin, flooding, raw, reply
from tests.support.privileges import without_override

FILE = "/v1.2/definitions.json"
GOOD, BAD = b'{"colours": ["red"]}', b'{"colours": ["rot"]}'

Desk = Callable[..., tuple[str, str]]


@pytest.fixture
def desk(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """Return somebody at a terminal beside an origin of the own network."""
    monkeypatch.setenv("MCP_RESOURCE_HOSTS", "localhost")
    origin.put(FILE, GOOD)

    def run(*arguments: str, expect: int = 0) -> tuple[str, str]:
        with ThreadPoolExecutor(1) as thread:  # because a command opens a loop of its own
            work = partial(CliRunner().invoke, application(notes()), ["ops", "resources", *arguments])
            done = thread.submit(work).result()
        assert done.exit_code == expect, (done.stdout, done.stderr, done.exception)
        assert "Traceback" not in done.stderr
        return done.stdout, done.stderr

    return run


def lock() -> Any:
    """Return the lock as it stands on disk."""
    return json.loads(LOCK.read_text(encoding="utf-8"))["resources"]


def test_C1_added_resource_is_pinned_and_shown(desk: Desk, origin: Origin) -> None:
    said, _ = desk("add", origin.url(FILE))

    assert said == f"added  {origin.url(FILE)}\n       sha256 {digest(GOOD)}, {len(GOOD)} bytes, application/json\n"
    (entry,) = lock().values()
    assert entry == {
        "sha256": digest(GOOD),
        "size": len(GOOD),
        "media_type": "application/json",
        "last_verified": entry["last_verified"],
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", entry["last_verified"])


def test_C1_added_once_more_says_what_it_was(desk: Desk, origin: Origin) -> None:
    desk("add", origin.url(FILE))
    assert desk("add", origin.url(FILE))[0].startswith("same   https://")
    origin.put(FILE, BAD + b"!")

    said, _ = desk("add", origin.url(FILE))

    assert said.startswith(f"changed from {digest(GOOD)[:16]}… ({len(GOOD)} bytes) https://")
    assert f"sha256 {digest(BAD + b'!')}" in said


@pytest.mark.parametrize(
    ("url", "reason"),
    [("https://localhost/main/x", "'main' is a branch"), ("http://localhost/v1.2/x", "https://"), ("x", "https://")],
)
def test_C2_mutable_reference_is_wrong_usage_and_nothing_is_fetched(
    url: str, reason: str, desk: Desk, origin: Origin
) -> None:
    _, told = desk("add", origin.url(FILE), url, expect=2)

    assert reason in told
    assert (origin.heads, LOCK.exists()) == ([], False)


def test_C1_one_that_fails_writes_nothing(desk: Desk, origin: Origin) -> None:
    _, told = desk("add", origin.url(FILE), origin.url("/v1.2/gone"), expect=1)

    assert told == f"{origin.url('/v1.2/gone')} answers 404; nothing was written\n"
    assert not LOCK.exists()


def test_C1_too_large_a_resource_is_not_pinned(desk: Desk, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp_chassis.fetching.LARGEST", 100_000)
    origin.answers[FILE] = flooding

    assert "is larger than" in desk("add", origin.url(FILE), expect=1)[1]
    assert not LOCK.exists()


def test_C1_host_of_the_own_network_must_be_listed(desk: Desk, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MCP_RESOURCE_HOSTS")

    _, told = desk("add", origin.url(FILE), expect=1)

    assert "localhost is in your own network" in told
    assert "list it in MCP_RESOURCE_HOSTS" in told


def test_C1_lock_accepts_what_changed_and_shows_it(desk: Desk, origin: Origin) -> None:
    origin.put("/v1.2/other", GOOD)
    desk("add", origin.url(FILE), origin.url("/v1.2/other"))
    origin.put(FILE, BAD)

    said, _ = desk("lock")

    assert f"changed from {digest(GOOD)[:16]}… ({len(GOOD)} bytes) {origin.url(FILE)}\n" in said
    assert f"same   {origin.url('/v1.2/other')}\n" in said
    assert {url: entry["sha256"] for url, entry in lock().items()} == {
        origin.url(FILE): digest(BAD),
        origin.url("/v1.2/other"): digest(GOOD),
    }


def test_C1_lock_that_fails_half_way_changes_nothing(desk: Desk, origin: Origin) -> None:
    origin.put("/v1.2/other", GOOD)
    desk("add", origin.url(FILE), origin.url("/v1.2/other"))
    before = LOCK.read_text(encoding="utf-8")
    origin.put(FILE, BAD)
    origin.answers["/v1.2/other"] = reply(b"", status="500 Broken")

    desk("lock", expect=1)

    assert LOCK.read_text(encoding="utf-8") == before


def test_C2_verify_notes_when_it_was_right(desk: Desk, origin: Origin) -> None:
    desk("add", origin.url(FILE))
    text = LOCK.read_text(encoding="utf-8")
    LOCK.write_text(re.sub(r'(?<="last_verified": ")\d{4}', "2020", text), encoding="utf-8")

    said, _ = desk("verify")

    assert said == f"ok     {origin.url(FILE)}\n1 of 1 verified\n"
    assert "2020" not in LOCK.read_text(encoding="utf-8")


def test_C1_verify_names_each_fault_and_exits_1(desk: Desk, origin: Origin) -> None:
    urls = [origin.url(f"/v1.2/{name}") for name in ("good", "swapped", "gone", "typed", "torn")]
    for name in ("good", "swapped", "gone", "typed", "torn"):
        origin.put(f"/v1.2/{name}", GOOD)
    desk("add", *urls)
    origin.put("/v1.2/swapped", BAD)
    del origin.answers["/v1.2/gone"]
    origin.put("/v1.2/typed", GOOD, kind="text/html")
    origin.answers["/v1.2/torn"] = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{")

    said, _ = desk("verify", expect=1)

    good, swapped, gone, typed, torn = urls
    *lines, last = said.splitlines()
    assert sorted(lines) == [
        f"FAILED {gone} answers 404",
        f"FAILED {swapped}: its SHA-256 is {digest(BAD)} (20 bytes), pinned {digest(GOOD)} (20 bytes)",
        f"FAILED {torn} cannot be had (RemoteProtocolError)",
        f"FAILED {typed} is text/html, not application/json",
        f"ok     {good}",
    ]
    assert last == "1 of 5 verified"
    assert {entry["sha256"] for entry in lock().values()} == {digest(GOOD)}


def test_C1_nothing_pinned_is_nothing_wrong(desk: Desk) -> None:
    assert desk("verify")[0] == "0 of 0 verified\n"
    assert not LOCK.exists()


def test_C1_verify_fills_the_folder_of_copies_if_one_is_named(
    desk: Desk, origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk("add", origin.url(FILE))
    monkeypatch.setenv("MCP_RESOURCE_CACHE", str(tmp_path / "copies"))

    desk("verify")

    assert (tmp_path / "copies" / digest(GOOD)).read_bytes() == GOOD


@pytest.mark.parametrize("command", [("verify",), ("lock",), ("add", "https://localhost/v1.2/x")])
def test_C2_broken_lock_is_bad_configuration(command: tuple[str, ...], desk: Desk, origin: Origin) -> None:
    LOCK.write_text('{"format": 3, "resources": {}}', encoding="utf-8")

    assert "resources.lock.json is no lock of format 1" in desk(*command, expect=78)[1]
    assert origin.heads == []


def test_S1_broken_environment_is_bad_configuration(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCP_RESOURCE_HOSTS", "https://localhost/")

    assert "MCP_RESOURCE_HOSTS" in desk("verify", expect=78)[1]


def test_C1_verify_tells_an_origin_that_is_away_from_one_that_changed(desk: Desk, origin: Origin) -> None:
    origin.put(FILE, GOOD)
    desk("add", origin.url(FILE))
    origin.answers[FILE] = raw(b"")

    said, _ = desk("verify", expect=3)

    assert "cannot be had" in said


def test_C1_query_is_not_shown(desk: Desk, origin: Origin) -> None:
    origin.put(f"{FILE}?token=s3cret", GOOD)
    url = origin.url(f"{FILE}?token=s3cret")
    said = "".join(desk("add", url) + desk("verify") + desk("lock"))
    origin.put(f"{FILE}?token=s3cret", BAD)
    said += "".join(desk("verify", expect=1))
    del origin.answers[f"{FILE}?token=s3cret"]
    said += "".join(desk("verify", expect=1) + desk("lock", expect=1))

    assert "s3cret" not in said
    assert list(read_lock()) == [url]


SCRIPT = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from mcp_chassis import settings
settings.answer = {"public_url": "https://notes.example.com", "tool_timeout": "30"}.__getitem__
from mcp_chassis.cli import main
from tests.identity.serving import notes
main(notes())
"""


def test_C2_verify_in_a_folder_that_cannot_be_written_says_so_and_is_right(desk: Desk, origin: Origin) -> None:
    desk("add", origin.url(FILE))
    Path().chmod(0o555)
    try:
        root = str(Path(__file__).parents[2])
        command = without_override([sys.executable, "-c", SCRIPT, root, "ops", "resources", "verify"])
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    finally:
        Path().chmod(0o755)

    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "1 of 1 verified"), done.stderr
    assert done.stderr == "resources.lock.json does not take the time of this verification: Permission denied\n"
