"""What is written down of calls of other services, and what a failing one costs (L7, O1, O2, O5)."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

import anyio
import httpx2
import pytest

from mcp_chassis import Server
from mcp_chassis.downstream import Breaker
from tests.chassis.client import ERAS, Era, exchange, raw
from tests.chassis.serving import talking
from tests.chassis.upstream import Upstream, calling, client, sample, upstream
from tests.chassis.upstream import hurried as hurried
from tests.support.inside import Log

pytestmark = pytest.mark.anyio

SECRET = "s3cret"


@pytest.fixture
async def service() -> AsyncIterator[Upstream]:
    """Return a service that answers 200 until it is told otherwise."""
    async with upstream() as found:
        yield found


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("era", ERAS)
async def test_O1_every_attempt_is_in_the_line_of_the_call(era: Era, service: Upstream, log: Log) -> None:
    service.statuses = [503]

    async with client(service) as crm, talking(calling(crm), era) as caller:
        await caller.call("fetch", {"paths": [f"/notes?token={SECRET}", "/other"]})

    [line] = log.lines("tool_called")
    assert [(call["service"], call["status"]) for call in line["downstream_calls"]] == [
        ("crm", "503"),
        ("crm", "200"),
        ("crm", "200"),
    ]
    hashes = [call["operation_hash"] for call in line["downstream_calls"]]
    assert hashes[0] == hashes[1] == hashlib.sha256(b"GET /notes").hexdigest()[:12]
    assert hashes[2] != hashes[0]
    assert all(call["duration_ms"] > 0 for call in line["downstream_calls"])


async def test_O1_line_of_a_tool_in_a_loop_stays_short(service: Upstream, log: Log) -> None:
    async with client(service) as crm, talking(calling(crm), "stateless") as caller:
        await caller.call("fetch", {"paths": ["/x"] * 60})

    [line] = log.lines("tool_called")
    assert (len(line["downstream_calls"]), len(service.seen)) == (50, 60)


async def test_O5_calls_and_failures_are_counted_under_the_declared_name(service: Upstream) -> None:
    errors, calls = sample("mcp_downstream_errors_total"), sample("mcp_downstream_duration_seconds_count")
    service.statuses = [404, 500, 0]

    async with client(service) as crm:
        for method in ("POST", "POST", "POST", "POST"):
            try:
                await crm.request(method, f"/{SECRET}")
            except httpx2.TransportError:
                continue

    assert sample("mcp_downstream_errors_total") - errors == 2
    assert sample("mcp_downstream_duration_seconds_count") - calls == 4


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("trouble", ["500", "cut", "hang", "refused", "nonsense"])
async def test_O2_nothing_of_an_address_reaches_log_metrics_or_caller(
    trouble: str, service: Upstream, log: Log
) -> None:
    service.statuses = [500] if trouble == "500" else [0] * 3
    service.hangs = trouble == "hang"
    server = Server("tests")
    target = {"refused": "http://user:s3cret-pass@127.0.0.1:1/s3cret", "nonsense": "nonsense://s3cret"}.get(trouble)

    @server.tool()
    async def fetch(text: str) -> int:
        """Call the service."""
        answer = await crm.get(target or f"/{text}", params={"q": text}, headers={"X-Key": text})
        answer.raise_for_status()
        return answer.status_code

    async with client(service, timeout=0.2) as crm, talking(server, "stateless") as caller:
        answer = await caller.call("fetch", {"text": SECRET})
        metrics = (await _metrics(caller.port)).lower()

    assert answer.result()["isError"]
    assert answer.result()["_meta"]["errorCode"] == "internal_error"
    for told in (answer.body.decode(), log.text(), metrics):
        assert SECRET not in told
        assert "127.0.0.1" not in told
    assert log.lines("tool_called")[0]["downstream_calls"]


async def _metrics(port: int) -> str:
    return (await exchange(port, raw("GET", [], path="/metrics"))).body.decode()


@pytest.mark.parametrize("era", ERAS)
async def test_L7_open_breaker_is_an_answer_at_once(era: Era, service: Upstream, log: Log) -> None:
    service.statuses = [500] * 10
    breaker = Breaker("crm", minimum=10, pause=30)

    async with client(service, breaker=breaker) as crm, talking(calling(crm), era) as caller:
        await caller.call("fetch", {"paths": ["/x"] * 10, "method": "POST"}, id=1)
        service.hangs = True
        refused = (await caller.call("fetch", {"paths": ["/x"]}, id=2)).result()

    assert len(service.seen) == 10
    assert refused["isError"]
    assert refused["_meta"]["errorCode"] == "breaker_open"
    assert 28_000 < refused["_meta"]["retryAfterMs"] <= 30_000
    assert "crm is failing and is left alone for now: wait" in refused["content"][0]["text"]
    assert sample("mcp_breaker_state") == 2
    line = log.lines("tool_called")[-1]
    assert (line["error_code"], line["downstream_calls"]) == ("breaker_open", [])


async def test_L7_of_calls_at_the_same_time_one_tries_a_failing_service(service: Upstream) -> None:
    service.statuses = [500] * 10
    # A try that outlasts the pause loses its turn to another one, as on a busy machine a short one would.
    breaker = Breaker("crm", minimum=10, pause=1)
    async with client(service, breaker=breaker) as crm:
        await asyncio.gather(*(crm.post("/x") for _ in range(10)))
        states = [breaker.state]
        await anyio.sleep(1.05)
        results = await asyncio.gather(*(crm.post("/x") for _ in range(10)), return_exceptions=True)

    assert sum(isinstance(found, httpx2.Response) for found in results) == 1
    assert len(service.seen) == 11
    assert [*states, breaker.state] == ["open", "closed"]


async def test_L7_retries_count_as_what_they_are(service: Upstream) -> None:
    service.statuses = [503] * 12
    breaker = Breaker("crm", minimum=10)

    async with client(service, breaker=breaker) as crm:
        results = await asyncio.gather(*(crm.get("/x") for _ in range(8)), return_exceptions=True)

    assert breaker.state == "open"
    assert any(getattr(found, "code", None) == "breaker_open" for found in results)
    assert len(service.seen) < 24
