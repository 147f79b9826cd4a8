"""Checks run in the background on their own cadence; probes read what is there (O4)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from prometheus_client import REGISTRY

from mcp_chassis import Server
from mcp_chassis.health import Check, Health
from tests.chassis.client import exchange, raw
from tests.chassis.serving import chassis
from tests.support.inside import Clock

pytestmark = pytest.mark.anyio

LONG = 3600.0
Ask = Callable[[], Awaitable[object]]


class Dependency:
    """Something that answers, refuses or hangs as a test says, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.error: Exception | None = None
        self.answer: object = None
        self.hangs = False
        self.asks = asyncio.Event()

    async def ask(self) -> object:
        """Answer one question."""
        self.asked += 1
        self.asks.set()
        if self.hangs:
            await anyio.sleep(LONG)
        if self.error is not None:
            raise self.error
        return self.answer


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return the clock of the checks; event loops keep their own."""
    clock = Clock()
    monkeypatch.setattr("mcp_chassis.health.time", clock)
    return clock


def check(ask: Ask, **how: Any) -> Check:
    """Return a check that repeats itself when a test says so."""
    return Check("crm", ask, **({"interval": LONG} | how))


async def get(port: int, path: str = "/health") -> tuple[int, dict[str, Any]]:
    """Return status and JSON of a health path."""
    answer = await exchange(port, raw("GET", [], path=path))
    return answer.status, json.loads(answer.body)


async def test_O4_each_check_tells_status_latency_and_age(clock: Clock) -> None:
    async def ask() -> None:
        clock.now += 0.25

    found = check(ask)
    await found.run()
    clock.now += 7

    assert found.as_data() == {
        "status": "healthy",
        "required": True,
        "error": None,
        "latency_ms": 250.0,
        "age_s": 7.0,
    }


@pytest.mark.parametrize(("required", "status"), [(True, "unhealthy"), (False, "degraded")])
async def test_O4_check_that_raises_tells_the_class_of_the_error_and_no_text(required: bool, status: str) -> None:
    dependency = Dependency()
    dependency.error = ConnectionRefusedError("s3cret-host refused")
    found = check(dependency.ask, required=required)

    await found.run()

    told = found.as_data()
    assert (told["status"], told["error"]) == (status, "ConnectionRefusedError")
    assert "s3cret" not in json.dumps(told)
    assert REGISTRY.get_sample_value("mcp_check_status", {"check": "crm"}) == (2 if required else 1)


async def test_O4_false_is_no_answer() -> None:
    dependency = Dependency()
    dependency.answer = False
    found = check(dependency.ask)

    await found.run()

    assert (found.current, found.error) == ("unhealthy", "NoAnswer")


async def test_O4_slow_answer_is_degraded_also_where_it_is_required(clock: Clock) -> None:
    async def ask() -> None:
        clock.now += 0.6

    found = check(ask, slow=0.5)
    await found.run()

    assert (found.current, found.error) == ("degraded", None)


async def test_O4_hanging_check_is_bounded(clock: Clock) -> None:
    dependency = Dependency()
    dependency.hangs = True
    found = check(dependency.ask, timeout=0.05)

    with anyio.fail_after(5):
        await found.run()

    assert (found.current, found.error) == ("unhealthy", "TimeoutError")


async def test_O4_while_a_check_asks_its_last_result_is_told_whole() -> None:
    dependency = Dependency()
    dependency.error = ConnectionRefusedError()
    found = check(dependency.ask)
    await found.run()
    before = found.as_data()
    dependency.hangs, dependency.asks = True, asyncio.Event()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(found.run)
        await dependency.asks.wait()
        during = found.as_data()
        tasks.cancel_scope.cancel()

    assert {name: during.get(name) for name in ("status", "error", "latency_ms")} == {
        name: before[name] for name in ("status", "error", "latency_ms")
    }


@pytest.mark.parametrize(("required", "status"), [(True, "unhealthy"), (False, "degraded")])
async def test_O4_result_that_is_too_old_counts_as_no_answer(required: bool, status: str, clock: Clock) -> None:
    found = check(Dependency().ask, interval=5, timeout=2, required=required)
    await found.run()

    clock.now += 21
    fresh = found.current
    clock.now += 1

    assert (fresh, found.current) == ("healthy", status)


def test_O4_check_that_was_never_asked_is_no_good() -> None:
    assert check(Dependency().ask).current == "unhealthy"
    assert Health("1", [check(Dependency().ask)]).status == "unhealthy"


@pytest.mark.parametrize(
    ("required", "optional", "expected"),
    [
        (True, True, (200, "healthy")),
        (True, False, (200, "degraded")),
        (False, True, (503, "unhealthy")),
        (False, False, (503, "unhealthy")),
    ],
)
async def test_O4_required_and_optional_dependencies_differ(
    required: bool, optional: bool, expected: tuple[int, str]
) -> None:
    server = Server("tests")
    for name, works in (("database", required), ("weather", optional)):
        dependency = Dependency()
        dependency.answer = works
        server.check(name, dependency.ask, required=name == "database", interval=LONG)

    async with chassis(server) as port:
        status, told = await get(port)
        ready = await get(port, "/health/ready")
        live = await get(port, "/health/live")

    assert (status, told["status"]) == expected
    assert set(told) == {"status", "version", "uptime_seconds", "checks", "breakers"}
    assert told["checks"]["weather"]["required"] is False
    assert ready == (expected[0], {"status": expected[1]})
    assert live == (200, {"status": "alive"})


async def test_O4_probes_do_not_ask_and_liveness_never_does() -> None:
    dependency, server = Dependency(), Server("tests")
    server.check("crm", dependency.ask, interval=LONG)

    async with chassis(server) as port:
        paths = [path for _ in range(30) for path in ("/health", "/health/ready", "/health/live")]
        answers = await asyncio.gather(*(get(port, path) for path in paths))

    assert {status for status, _ in answers} == {200}
    assert dependency.asked == 1


async def test_O4_check_in_one_line_is_asked_again_and_again() -> None:
    dependency, server = Dependency(), Server("tests")
    server.check("crm", dependency.ask, interval=0.01)

    async with chassis(server) as port:
        dependency.error = OSError()
        with anyio.fail_after(5):
            while (await get(port))[0] != 503:
                await dependency.asks.wait()
        dependency.error = None
        with anyio.fail_after(5):
            while (await get(port))[0] != 200:
                await dependency.asks.wait()
        assert dependency.asked >= 3

    asked = dependency.asked
    await anyio.sleep(0.05)
    assert dependency.asked == asked


async def test_O4_one_hanging_check_does_not_hold_up_the_others() -> None:
    hanging, other, server = Dependency(), Dependency(), Server("tests")
    hanging.hangs = True
    server.check("crm", hanging.ask, required=False, interval=LONG, timeout=0.2)
    server.check("erp", other.ask, interval=0.01)

    async with chassis(server) as port:
        status, told = await get(port)
        with anyio.fail_after(5):
            while other.asked < 5:
                other.asks = asyncio.Event()
                await other.asks.wait()

    assert (status, told["status"], told["checks"]["crm"]["error"]) == (200, "degraded", "TimeoutError")


async def test_S3_draining_server_is_not_ready_and_lives() -> None:
    health = Health("1", [])
    before = health.status

    health.drain()

    assert (before, health.status) == ("healthy", "unhealthy")


class Odd(Exception):
    """What nobody expects."""


async def test_O4_breaking_check_does_not_end_the_server() -> None:
    async def ask() -> None:
        raise Odd("s3cret")

    server = Server("tests")
    server.check("crm", ask, interval=0.01)

    async with chassis(server) as port:
        first = await get(port)
        second = await get(port)

    assert [status for status, _ in (first, second)] == [503, 503]
    assert second[1]["checks"]["crm"]["error"] == "Odd"
