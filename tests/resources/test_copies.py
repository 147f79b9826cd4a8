"""What a process serves is what was verified, whatever origin, disk and neighbours do (C1)."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_chassis.fetching import Fetched, Fetcher
from mcp_chassis.pins import digest
from mcp_chassis.resources import Copies, NotPinned, labels
from tests.resources.internet import PUBLIC, Internet
from tests.resources.origin import Origin, flooding, reply
from tests.resources.process import BAD, FILE, GOOD, URL, metric, pin, resources, running, stopped, until
from tests.support.inside import Log

pytestmark = pytest.mark.anyio


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


async def test_C1_failures_are_counted_in_a_row(public: Origin, tmp_path: Path) -> None:
    public.put(FILE, GOOD)
    found = resources(tmp_path, interval=0)
    await found.prepare()
    for status, counted in (("503 Busy", 1), ("503 Busy", 2), ("200 OK", 0), ("503 Busy", 1)):
        public.put(FILE, GOOD, status=status)
        async with found.verifying():
            await until(lambda counted=counted: metric("failures") == counted)  # type: ignore[misc]


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
