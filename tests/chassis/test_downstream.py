"""Calls of other services: bounded, retried, under the id they serve (L7, O3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial

import anyio
import httpx2
import pytest
import stamina

from mcp_chassis import downstream
from tests.chassis.client import ERAS, Era
from tests.chassis.serving import talking
from tests.chassis.upstream import Upstream, calling, client, upstream
from tests.chassis.upstream import hurried as hurried

pytestmark = pytest.mark.anyio

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


@pytest.fixture
async def service() -> AsyncIterator[Upstream]:
    """Return a service that answers 200 until it is told otherwise."""
    async with upstream() as found:
        yield found


# --- what is tried again ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    ("method", "status"),
    [("GET", 429), ("HEAD", 502), ("OPTIONS", 503), ("PUT", 504), ("DELETE", 503), ("GET", 0), ("PUT", 0)],
)
async def test_L7_idempotent_call_is_tried_again(method: str, status: int, service: Upstream) -> None:
    service.statuses = [status, status]

    async with client(service) as crm:
        answer = await crm.request(method, "/x", content=b"body" if method == "PUT" else None)

    assert (answer.status_code, len(service.seen)) == (200, 3)
    assert {seen.body for seen in service.seen} == {b"body" if method == "PUT" else b""}


@pytest.mark.parametrize("off", [partial(stamina.set_active, False), partial(stamina.set_testing, True)])
async def test_L7_refusal_is_readable_where_a_test_of_yours_switched_retries_off(
    off: Callable[[], None], service: Upstream
) -> None:
    service.statuses = [503]

    off()
    try:
        async with client(service) as crm:
            answer = await crm.get("/x")
    finally:
        stamina.set_active(True)
        stamina.set_testing(False)

    assert (answer.status_code, answer.content, len(service.seen)) == (503, b"first,last", 1)


@pytest.mark.parametrize("method", ["POST", "PATCH"])
@pytest.mark.parametrize("status", [503, 0])
async def test_L7_other_call_is_never_sent_twice(method: str, status: int, service: Upstream) -> None:
    service.statuses = [status, 200]

    async with client(service) as crm:
        try:
            assert (await crm.request(method, "/x", content=b"pay")).status_code == 503
        except httpx2.TransportError:
            assert status == 0

    assert len(service.seen) == 1


@pytest.mark.parametrize("status", [400, 401, 404, 500, 501])
async def test_L7_answer_that_another_try_would_not_change_is_taken(status: int, service: Upstream) -> None:
    service.statuses = [status]

    async with client(service) as crm:
        answer = await crm.get("/x")

    assert (answer.status_code, len(service.seen)) == (status, 1)


@pytest.mark.usefixtures("hurried")
async def test_L7_after_three_tries_the_last_answer_is_given_whole(service: Upstream) -> None:
    service.statuses = [503, 502, 504]

    async with client(service) as crm:
        answer = await crm.get("/x")

    assert (answer.status_code, answer.text, len(service.seen)) == (504, "first,last", 3)
    assert answer.headers["x-answer"] == "yes"


async def test_L7_body_that_can_be_read_once_is_sent_once(service: Upstream) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"only "
        yield b"once"

    service.statuses = [503]
    async with client(service) as crm:
        answer = await crm.put("/x", content=parts())

    assert (answer.status_code, [seen.body for seen in service.seen]) == (503, [b"only once"])


async def test_L7_waits_between_tries_differ(service: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def note(seconds: float, *_: object) -> None:
        waits.append(seconds)

    monkeypatch.setattr("stamina._core._smart_sleep", note)
    async with client(service) as crm:
        for _ in range(8):
            service.statuses = [503, 503]
            await crm.get("/x")

    assert len(waits) == 16
    assert len(set(waits)) > 10  # two may be the longest wait there is
    assert all(0 < wait <= 2 for wait in waits)


# --- bounds -------------------------------------------------------------------------------------------------------


async def test_L7_silent_service_costs_its_timeout(service: Upstream) -> None:
    service.hangs = True

    async with client(service, timeout=0.2) as crm:
        with anyio.fail_after(5), pytest.raises(httpx2.ReadTimeout):
            await crm.post("/x")


async def test_L7_cancelled_call_leaves_the_service_at_once(service: Upstream) -> None:
    service.hangs = True

    async with client(service, timeout=60) as crm:
        call = asyncio.create_task(crm.get("/x"))
        await asyncio.wait_for(service.arrived.wait(), 5)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.wait_for(service.left.wait(), 5)

    assert len(service.seen) == 1


async def test_L7_answer_is_streamed_as_it_comes(service: Upstream) -> None:
    service.streams = True

    async with client(service) as crm, crm.stream("GET", "/x") as answer:
        parts = answer.aiter_bytes()
        first = await asyncio.wait_for(anext(parts), 5)
        service.more.set()
        rest = b"".join([part async for part in parts])

    assert (first, rest) == (b"first,", b"last")


async def test_L7_clients_time_limit_is_the_authors_or_ten_seconds() -> None:
    for given, expected in ((None, 10), (1, 1), (60, 60)):
        crm = downstream.client("crm") if given is None else downstream.client("crm", timeout=given)
        assert (crm.timeout.read, crm.timeout.connect) == (expected, min(expected, 3))
        await crm.aclose()


# --- what goes along ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
async def test_O3_service_is_told_the_id_and_the_trace(era: Era, service: Upstream) -> None:
    async with client(service) as crm, talking(calling(crm), era) as caller:
        extra = [("X-Request-ID", "edge-7"), ("traceparent", PARENT)]
        answer = await caller.call("fetch", {"paths": ["/x"]}, extra=extra)

    assert answer.result()["structuredContent"] == {"result": [200]}
    (seen,) = service.seen
    assert seen.headers["x-request-id"] == "edge-7"
    assert seen.headers["traceparent"].split("-")[1] == TRACE


async def test_O3_outside_of_a_call_no_id_is_made_up(service: Upstream) -> None:
    async with client(service) as crm:
        await crm.get("/x")
        await crm.get("/x", headers={"X-Request-ID": "mine"})

    assert [seen.headers.get("x-request-id") for seen in service.seen] == [None, "mine"]


async def test_O3_credentials_of_the_caller_do_not_travel(service: Upstream) -> None:
    async with client(service) as crm, talking(calling(crm), "stateless") as caller:
        await caller.call("fetch", {"paths": ["/x"]}, extra=[("Authorization", "Bearer callers"), ("Cookie", "a=b")])

    (seen,) = service.seen
    assert "callers" not in str(seen.headers)
    assert "cookie" not in seen.headers
