"""Spans reach a real OTLP receiver, with names of ours and nothing of what was sent (O7)."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.chassis.client import ERAS, Era
from tests.chassis.upstream import upstream
from tests.live.collector import Collector, collecting
from tests.live.data import client_of, shared_postgres, stored_project, variables
from tests.live.project import ServerProcess, default_project
from tests.support.postgres import Postgres

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("live-data-desk")]

TRACES = {"handshake": "4bf92f3577b34da6a3ce929d0e0e4736", "stateless": "5cf92f3577b34da6a3ce929d0e0e4737"}
OTHER = "a" * 32
SPAN = "00f067aa0ba902b7"
SECRETS = ("s3cret-argument", "s3cret-header", "s3cret-canary", "canary-77b0")
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@dataclass
class Traced:
    """What came of calls in both eras."""

    collector: Collector
    services_were_told: list[str]


@pytest.fixture(scope="module")
def postgres(_apart: None) -> Postgres:
    """Return the PostgreSQL of this worker."""
    return shared_postgres()


@pytest.fixture(scope="module")
async def traced(postgres: Postgres) -> Traced:
    """Return the spans of a server that was stopped, after the same calls in both eras."""
    with collecting() as collector:
        async with upstream() as service:
            given = variables(postgres) | {ENDPOINT: collector.url, "CRM_URL": f"http://127.0.0.1:{service.port}"}
            with ServerProcess(stored_project(), given=given) as server:
                caller = await client_of(server, "handshake")
                params = {"name": "ping", "arguments": {}, "_meta": {"traceparent": f"00-{OTHER}-{SPAN}-01"}}
                header = ("traceparent", f"00-{TRACES['handshake']}-{SPAN}-01")
                await caller.request("tools/call", params, id=9, extra=[header])
                for era in ERAS:
                    client = await client_of(server, era)
                    extra = [("traceparent", f"00-{TRACES[era]}-{SPAN}-01"), ("X-Secret", SECRETS[1])]
                    answer = await client.call("both_worlds", {"secret": SECRETS[0]}, id=7, extra=extra)
                    assert answer.result()["structuredContent"] == {"result": 200}, answer
                    await client.call("crash_inside", {}, id=8)
                assert server.stop() == 0
            told = [seen.headers["traceparent"] for seen in service.seen]
    return Traced(collector, told)


@pytest.mark.parametrize("era", ERAS)
async def test_O7_message_tool_wait_and_downstream_are_one_tree(era: Era, traced: Traced) -> None:
    spans = {span.id: span for span in traced.collector.spans if span.trace == TRACES[era]}
    downstream = [span for span in spans.values() if span.name == "downstream"]
    (call,) = [span for span in downstream if span.attributes["service"] == "crm"]
    tool = spans[call.parent]
    message = spans[tool.parent]
    (wait,) = [span for span in spans.values() if span.name == "database.acquire"]

    assert (tool.name, tool.attributes["tool"]) == ("tool", "both_worlds")
    assert (message.name, message.parent) == ("tools/call", SPAN)
    assert wait.parent == tool.id
    assert {span.attributes["service"] for span in downstream} == {"crm", "database"}
    assert all(set(span.attributes) == {"service", "operation_hash"} for span in downstream)
    assert set(message.attributes) == {"request_id"}


@pytest.mark.parametrize("era", ERAS)
async def test_O7_trace_goes_on_in_the_service(era: Era, traced: Traced) -> None:
    mine = [span for span in traced.collector.spans if span.trace == TRACES[era]]
    (call,) = [span for span in mine if span.attributes.get("service") == "crm"]

    assert f"00-{call.trace}-{call.id}-01" in traced.services_were_told


async def test_O7_parent_of_the_message_goes_before_the_header(traced: Traced) -> None:
    assert traced.collector.of(OTHER)["tools/call"].parent == SPAN


async def test_O7_crash_marks_its_spans_without_its_text(traced: Traced) -> None:
    failed = [span for span in traced.collector.spans if span.failed]

    assert {span.attributes.get("tool") for span in failed} >= {"crash_inside"}


async def test_O7_O2_no_argument_header_or_exception_text_is_in_the_bytes(traced: Traced) -> None:
    everything = b"".join(traced.collector.bodies)

    assert b"both_worlds" in everything
    for secret in SECRETS:
        assert secret.encode() not in everything
    assert traced.collector.resources[0]["service.name"] == "acme-notes"


def test_O7_endpoint_without_the_extra_stops_the_start_and_says_what_to_do(postgres: Postgres) -> None:
    done = default_project().run("serve", given={ENDPOINT: "http://user:s3cret@collector:4318", "MCP_PORT": "0"})

    assert done.returncode == 78
    assert (
        f"{ENDPOINT}=http://***@collector:4318  needs the tracing extra: uv add 'mcp-chassis[tracing]'" in done.stderr
    )
    assert "s3cret" not in done.stderr


async def test_O7_dead_collector_costs_no_call_and_no_long_shutdown(postgres: Postgres) -> None:
    with ServerProcess(stored_project(), given=variables(postgres) | {ENDPOINT: "http://127.0.0.1:1"}) as server:
        answer = await (await client_of(server, "stateless")).call("ping")

        assert not answer.result().get("isError")
        assert server.stop() == 0
    assert "Traceback" not in server.output
