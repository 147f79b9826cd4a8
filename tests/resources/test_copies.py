"""What a process serves is what was verified, whatever origin, disk and neighbours do (C1)."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest
from prometheus_client import REGISTRY

from mcp_chassis.environment import ConfigurationError
from mcp_chassis.fetching import Fetched, Fetcher
from mcp_chassis.pins import Pin, digest
from mcp_chassis.resources import Copies, NotPinned, Resources, labels
from tests.identity.serving import Log
from tests.resources.internet import PUBLIC, Internet
from tests.resources.origin import DEADLINE, Origin, flooding, reply
from tests.support.privileges import without_override

pytestmark = pytest.mark.anyio

GOOD = b'{"colours": ["red"]}'
BAD = b'{"colours": ["rot"]}'
FILE = "/v1.2/definitions.json?token=s3cret"
URL = f"https://files.example.com{FILE}"
LABEL = "files.example.com/v1.2/definitions.json?…"


def pin(body: bytes = GOOD, media_type: str = "application/json") -> Pin:
    """Return the pin of a reviewed body."""
    moment = datetime(2026, 1, 31, tzinfo=UTC)
    return Pin(sha256=digest(body), size=len(body), media_type=media_type, last_verified=moment)


def resources(folder: Path, *, interval: float = 0.05, pins: dict[str, Pin] | None = None) -> Resources:
    """Return the resources of a process that starts."""
    return Resources(pins or {URL: pin()}, copies=Copies(folder), fetcher=Fetcher(), interval=interval)


def metric(name: str, label: str = LABEL) -> float | None:
    """Return what `/metrics` shows."""
    return REGISTRY.get_sample_value(f"mcp_resource_{name}", {"resource": label})


@asynccontextmanager
async def running(found: Resources) -> AsyncIterator[None]:
    """Start as a server does, and verify on."""
    await found.prepare()
    async with found.verifying():
        yield


async def until(true: Callable[[], object]) -> None:
    """Wait for something that happens in the background."""
    with anyio.fail_after(DEADLINE):
        while not true():  # noqa: ASYNC110 - the other side is a server, it has no event
            await anyio.sleep(0.02)


async def stopped(found: Resources) -> str:
    """Return why a server does not start."""
    with pytest.raises(ConfigurationError) as error:
        await found.prepare()
    return str(error.value)


async def test_C1_first_start_fetches_and_keeps_and_the_next_needs_nobody(
    public: Origin, internet: Internet, tmp_path: Path
) -> None:
    public.put(FILE, GOOD)
    first = resources(tmp_path / "copies")
    await first.prepare()
    assert first.verified(URL) == GOOD
    assert (tmp_path / "copies" / digest(GOOD)).read_bytes() == GOOD

    internet.ports[PUBLIC] = 0
    second = resources(tmp_path / "copies")
    await second.prepare()

    assert second.verified(URL) == GOOD
    assert len(public.heads) == 1


async def test_C1_swapped_resource_is_refused_at_the_start_and_told_with_expected_actual_url_and_sizes(
    public: Origin, tmp_path: Path, log: Log
) -> None:
    public.put(FILE, BAD + b"!")

    text = await stopped(resources(tmp_path / "copies"))

    assert digest(GOOD) in text
    assert digest(BAD + b"!") in text
    (line,) = log.lines("resource_mismatch")
    assert line["level"] == "critical"
    assert line["url"] == "https://files.example.com/v1.2/definitions.json?…"
    assert (line["expected"], line["actual"]) == (digest(GOOD), digest(BAD + b"!"))
    assert (line["expected_bytes"], line["actual_bytes"]) == (len(GOOD), len(BAD) + 1)
    assert "no verified copy" in line["hint"]
    assert "s3cret" not in log.text() + text
    assert not (tmp_path / "copies").exists()


async def test_C1_every_missing_resource_is_named_at_once(public: Origin, tmp_path: Path) -> None:
    pins = {f"https://files.example.com/{number}.0/x": pin() for number in range(9)}
    public.put("/4.0/x", GOOD)

    text = await stopped(resources(tmp_path, pins=pins))

    assert text.startswith("8 problems stop this server:")
    assert text.count("answers 404") == 8
    assert "/4.0/x" not in text


async def test_C1_swapped_while_running_is_told_and_the_verified_copy_serves_on(
    public: Origin, tmp_path: Path, log: Log
) -> None:
    public.put(FILE, GOOD)
    found = resources(tmp_path)
    async with running(found):
        await until(lambda: metric("current") == 1)
        public.put(FILE, BAD)
        await until(lambda: metric("current") == 0)

        assert found.verified(URL) == GOOD
        line = log.lines("resource_mismatch")[0]
        assert (line["level"], line["actual"]) == ("critical", digest(BAD))
        assert line["hint"] == "the verified copy serves on"
        assert (tmp_path / digest(GOOD)).read_bytes() == GOOD
        assert not (tmp_path / digest(BAD)).exists()

        public.put(FILE, GOOD)
        await until(lambda: metric("current") == 1)


async def test_C1_swapped_between_two_starts_is_told_at_once_and_the_copy_serves(
    public: Origin, tmp_path: Path, log: Log
) -> None:
    Copies(tmp_path).keep(pin(), GOOD)
    public.put(FILE, BAD)
    found = resources(tmp_path, interval=0)
    async with running(found):
        await until(lambda: log.lines("resource_mismatch"))

        assert found.verified(URL) == GOOD
    assert len(public.heads) == 1


async def test_C1_unreachable_while_running_is_counted_until_it_answers(
    public: Origin, tmp_path: Path, log: Log
) -> None:
    public.put(FILE, GOOD)
    found = resources(tmp_path)
    async with running(found):
        public.answers[FILE] = reply(b"", status="503 Busy")
        await until(lambda: (metric("failures") or 0) > 2)
        assert found.verified(URL) == GOOD
        assert metric("current") == 1
        assert {line["reason"] for line in log.lines("resource_unreachable")} == {"status"}
        public.put(FILE, GOOD)
        await until(lambda: metric("failures") == 0)
    assert "s3cret" not in log.text()


async def test_C1_endless_body_is_a_mismatch_of_unknown_digest(
    public: Origin, tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_chassis.fetching.LARGEST", 100_000)
    public.answers[FILE] = flooding

    assert "larger than 100000 bytes" in await stopped(resources(tmp_path))
    assert log.lines("resource_mismatch")[0]["actual"] == "unknown"


async def test_C1_same_bytes_of_another_type_are_refused_and_wrong_bytes_are_a_mismatch_of_any_type(
    public: Origin, tmp_path: Path, log: Log
) -> None:
    public.put(FILE, GOOD, kind="text/html")
    assert "is text/html, not application/json" in await stopped(resources(tmp_path))
    assert not log.lines("resource_mismatch")

    public.put(FILE, b"<html>", kind="text/html")
    await stopped(resources(tmp_path))
    assert log.lines("resource_mismatch")


async def test_C1_nothing_that_a_stranger_causes_ends_the_verifications(
    public: Origin, tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    public.put(FILE, GOOD)
    found = resources(tmp_path)
    async with running(found):
        seen = len(public.heads)

        async def burst(_self: Fetcher, _url: str) -> Fetched:
            raise RuntimeError

        with monkeypatch.context() as broken:
            broken.setattr(Fetcher, "fetch", burst)
            await until(lambda: log.lines("crashed"))
            assert "could not be verified (RuntimeError)" in await stopped(resources(tmp_path / "others"))
        await until(lambda: len(public.heads) > seen)


# --- the disk ---------------------------------------------------------------------------------------------------------
def tampered(path: Path) -> None:
    path.write_bytes(BAD)


def shortened(path: Path) -> None:
    path.write_bytes(GOOD[:-1])


def lengthened(path: Path) -> None:
    path.write_bytes(GOOD + b"\n")


def piped(path: Path) -> None:
    os.mkfifo(path)


def a_folder(path: Path) -> None:
    path.mkdir()


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


DAMAGES: list[Callable[[Path], None]] = [tampered, shortened, lengthened, piped, endless]


@pytest.mark.parametrize("damage", DAMAGES)
async def test_C1_copy_that_was_changed_on_disk_is_fetched_anew(
    damage: Callable[[Path], None], public: Origin, tmp_path: Path
) -> None:
    damage(tmp_path / digest(GOOD))
    public.put(FILE, GOOD)
    found = resources(tmp_path)

    await found.prepare()

    assert found.verified(URL) == GOOD
    assert (tmp_path / digest(GOOD)).read_bytes() == GOOD


@pytest.mark.parametrize("damage", [*DAMAGES, a_folder])
async def test_C1_copy_that_was_changed_on_disk_is_refused_when_nothing_better_can_be_had(
    damage: Callable[[Path], None], public: Origin, tmp_path: Path
) -> None:
    damage(tmp_path / digest(GOOD))
    public.put(FILE, BAD)

    assert "has no verified copy" in await stopped(resources(tmp_path))


async def test_C1_lost_copy_is_kept_again_while_running(public: Origin, tmp_path: Path) -> None:
    public.put(FILE, GOOD)
    found = resources(tmp_path)
    async with running(found):
        (tmp_path / digest(GOOD)).write_bytes(BAD)
        await until(lambda: (tmp_path / digest(GOOD)).read_bytes() == GOOD)


@pytest.mark.parametrize("obstacle", [a_folder, tampered])
async def test_C1_copy_that_cannot_be_kept_costs_a_line_not_the_server(
    obstacle: Callable[[Path], None], public: Origin, tmp_path: Path, log: Log
) -> None:
    public.put(FILE, GOOD)
    folder = tmp_path / "copies"
    if obstacle is a_folder:
        folder.mkdir()
        a_folder(folder / digest(GOOD))
    else:
        obstacle(folder)  # a file where the folder should be
    found = resources(folder)

    await found.prepare()

    assert found.verified(URL) == GOOD
    (line,) = log.lines("resource_not_kept")
    assert line["reason"] in ("Is a directory", "File exists", "Not a directory")


SCRIPT = """
import anyio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.resources.test_copies import GOOD, URL, resources
found = resources(Path(sys.argv[1]))
anyio.run(found.prepare)
print(found.verified(URL) == GOOD)
"""


def test_C1_copies_in_a_folder_that_nobody_may_write_are_used(tmp_path: Path) -> None:
    Copies(tmp_path / "copies").keep(pin(), GOOD)
    (tmp_path / "copies").chmod(0o555)
    root = str(Path(__file__).parents[2])

    command = without_override([sys.executable, "-c", SCRIPT, str(tmp_path / "copies"), root])
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr


def _keep_often(folder: str) -> None:
    for _ in range(50):
        Copies(Path(folder)).keep(pin(), GOOD)


def test_C1_processes_that_share_a_folder_never_see_half_a_copy(tmp_path: Path) -> None:
    Copies(tmp_path).keep(pin(), GOOD)
    writers = [multiprocessing.get_context("spawn").Process(target=_keep_often, args=(str(tmp_path),)) for _ in "ab"]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        seen.add(Copies(tmp_path).find(pin()))
    for writer in writers:
        writer.join(DEADLINE)

    assert seen == {GOOD}
    assert [path.name for path in tmp_path.iterdir()] == [digest(GOOD)]


# --- names ------------------------------------------------------------------------------------------------------------
def test_C1_labels_hold_no_query_and_no_two_are_alike() -> None:
    long = f"https://a.example/{'x' * 300}/"
    urls = ["https://a.example/1/x", "https://a.example/2/x", "https://a.example/x?a=s3cret", "https://a.example/x?b"]

    found = labels([*urls, f"{long}1", f"{long}2", f"{long}3"])

    assert [found[url] for url in urls] == ["a.example/1/x", "a.example/2/x", "a.example/x?…", "a.example/x?… #2"]
    assert len(set(found.values())) == 7
    assert max(map(len, found.values())) <= 205


async def test_C1_url_that_is_not_pinned_is_not_loaded(public: Origin, tmp_path: Path) -> None:
    public.put(FILE, GOOD)
    found = resources(tmp_path)
    await found.prepare()

    for url in (URL.partition("?")[0], URL + "&more", URL.replace("https", "http"), ""):
        with pytest.raises(NotPinned):
            found.verified(url)
    assert len(public.heads) == 1
