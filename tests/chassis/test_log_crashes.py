"""E2, E3: what counts, records and checks may itself break; the call is answered and nothing leaks."""

from __future__ import annotations

import json
import logging
from typing import Any

import anyio
import httpx2
import pytest

from mcp_chassis import Server, downstream
from mcp_chassis.environment import ConfigurationError, load
from mcp_chassis.settings import Settings
from mcp_chassis.telemetry.gate import configure
from mcp_chassis.telemetry.logging import log as chassis_log
from tests.chassis.client import ERAS, Era, exchange, raw
from tests.chassis.serving import chassis, talking
from tests.support.inside import Log

pytestmark = pytest.mark.anyio

CANARY = "kanari-9d21"
BROKEN = [
    "mcp_chassis.messages.count_call",
    "mcp_chassis.messages.to_json",
    "mcp_chassis.messages.span",
    "mcp_chassis.calls.span",
    "mcp_chassis.downstream.record",
    "mcp_chassis.downstream.trace_headers",
    "mcp_chassis.downstream.DOWNSTREAM_DURATION",
    "mcp_chassis.downstream._hashed",
    "mcp_chassis.downstream.Breaker.enter",
    "mcp_chassis.downstream.Breaker.leave",
]


def explode(*_: Any, **__: Any) -> Any:
    raise RuntimeError(f"broken by {CANARY}")


def calling_server() -> Server:
    """Return a server with a tool that asks another service."""
    server = Server("tests")
    answers = httpx2.MockTransport(lambda _request: httpx2.Response(200))
    client = downstream.client("other", base_url="http://other.example", transport=answers)

    @server.tool()
    async def ask(text: str) -> str:
        await client.get("/", params={"q": text})
        return "done"

    return server


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("place", BROKEN)
async def test_E2_E3_what_breaks_inside_telemetry_leaves_an_answer_and_no_text(
    place: str, era: Era, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with talking(calling_server(), era) as client:
        monkeypatch.setattr(place, explode)
        answer = await client.call("ask", {"text": CANARY})
        monkeypatch.undo()

    assert answer.status < 500 or "requestId" in answer.body.decode()
    assert set(answer.message()) & {"result", "error"}
    assert CANARY not in answer.body.decode() + log.text()
    assert log.lines("crashed")


@pytest.mark.parametrize("error", [RuntimeError(CANARY), type(CANARY, (ValueError,), {})(CANARY), None])
async def test_E2_E3_check_that_raises_or_hangs_is_told_by_its_type_alone(error: Exception | None, log: Log) -> None:
    server = Server("tests")

    async def ask() -> None:
        if error is None:
            await anyio.sleep_forever()
        else:
            raise error

    server.check("other", ask, required=False, timeout=0.05)
    async with chassis(server) as port:
        shown = (await exchange(port, raw("GET", [], path="/health"))).body.decode()

    assert json.loads(shown)["checks"]["other"]["status"] == "degraded"
    expected = {"RuntimeError", "ValueError"} if error is not None else {"TimeoutError"}
    assert json.loads(shown)["checks"]["other"]["error"] in expected
    assert CANARY not in shown + log.text()


async def test_O2_payloads_show_what_was_left_out(monkeypatch: pytest.MonkeyPatch, log: Log) -> None:
    monkeypatch.setattr(chassis_log, "payloads", True)
    server = Server("tests")

    @server.tool()
    async def use(text: str) -> str:
        logging.getLogger("library").error("got %s", text)
        logging.getLogger("library").error("does not fit %d", text)
        raise RuntimeError(text)

    async with talking(server, "stateless") as client:
        await client.call("use", {"text": CANARY})

    [call], [crash] = log.lines("tool_called"), log.lines("crashed")
    assert json.loads(call["payload"]) == {"text": CANARY}
    assert crash["text"] == CANARY
    assert [line["text"] for line in log.lines("library_record")] == [f"got {CANARY}", "does not fit %d"]


@pytest.mark.parametrize("spelling", ["true", "True", "TRUE", "1", "yes", "YES", "on", "ON", "t", "y", "Y"])
def test_O2_payloads_are_refused_in_production_however_they_are_spelt(
    spelling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MCP_ENVIRONMENT", "production")
    monkeypatch.setenv("MCP_LOG_PAYLOADS", spelling)

    with pytest.raises(ConfigurationError, match=rf"MCP_LOG_PAYLOADS={spelling}  must not be on in production"):
        load(Settings)


def test_O2_payloads_are_off_unless_they_are_asked_for() -> None:
    assert load(Settings)[0].log_payloads is False


@pytest.mark.parametrize("value", ["\ud800", 10**400, {"a": ["\udfff"]}], ids=["surrogate", "huge", "nested"])
def test_O1_line_is_json_whatever_a_field_holds(value: Any) -> None:
    found = Log()
    configure(stream=found.stream)

    chassis_log.info("message_handled", reason=value)

    [line] = found.lines()
    assert line["reason"] == value
