"""PROTOCOL.md's traps that show in logs, spans and routes: each on the stock SDK, none on the chassis."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import mcp.shared._otel
import pytest
from fastapi import FastAPI
from opentelemetry.trace import NonRecordingSpan, NoOpTracer, Span, use_span
from opentelemetry.util.types import AttributeValue

from mcp_chassis.telemetry.gate import configure
from tests.chassis.client import ERAS, Client, Era
from tests.chassis.serving import chassis, settings, stock
from tests.chassis.tools import SECRET, Story, chassis_server, stock_server
from tests.support.inside import listening

pytestmark = pytest.mark.anyio
STRANGER = "nobody-" + "n" * 100


@contextmanager
def plain_logging() -> Iterator[io.StringIO]:
    """Log as `logging.basicConfig` does, into memory."""
    stream = io.StringIO()
    root = logging.getLogger()
    root.handlers[:] = [logging.StreamHandler(stream)]
    root.handlers[0].setFormatter(logging.Formatter(logging.BASIC_FORMAT))
    root.setLevel(logging.INFO)
    yield stream


async def call(port: int, era: Era, tool: str, arguments: dict[str, Any]) -> None:
    client = Client(port, era)
    await client.open()
    await client.call(tool, arguments)


@pytest.mark.parametrize("era", ERAS)
async def test_O2_trap_9_crash_writes_its_text_into_the_log_of_the_stock_server_only(era: Era, story: Story) -> None:
    with plain_logging() as theirs:
        async with stock(stock_server(story)) as port:
            await call(port, era, "crash", {"text": "an argument"})
    configure(stream=(ours := io.StringIO()))
    async with chassis(chassis_server(story)) as port:
        await call(port, era, "crash", {"text": "an argument"})

    assert SECRET in theirs.getvalue()
    assert "an argument" in theirs.getvalue()
    assert SECRET not in ours.getvalue()
    assert "an argument" not in ours.getvalue()
    assert '"exception_type":"RuntimeError"' in ours.getvalue()


LOGGING_PROBE = """
import logging
{import_server}
{name}("probe")
logging.getLogger("library").error("text %s", "argument")
"""


def test_O2_trap_14_stock_server_opens_the_log_before_anybody_configured_it() -> None:
    theirs = logged(LOGGING_PROBE.format(import_server="from mcp.server.mcpserver import MCPServer", name="MCPServer"))
    ours = logged(LOGGING_PROBE.format(import_server="from mcp_chassis import Server", name="Server"))

    assert "text argument" in theirs
    assert "text" not in ours
    assert json.loads(ours)["event"] == "library_record"


def logged(program: str) -> str:
    """Run a program of its own and return what it wrote to standard error."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    return done.stderr


async def test_T3_trap_15_mounted_stock_server_answers_with_a_redirect(story: Story) -> None:
    theirs = stock_server(story)
    mounted = theirs.streamable_http_app(streamable_http_path="/")

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> Any:
        async with theirs.session_manager.run():
            yield

    app = FastAPI(lifespan=lifespan)
    app.mount("/mcp", mounted)
    async with listening(app) as port:
        redirected = await Client(port, "handshake").introduce()
    async with chassis(chassis_server(story)) as port:
        served = await Client(port, "handshake").introduce()

    assert redirected.status == 307
    assert served.status == 200


async def test_T3_trap_15_app_of_the_chassis_can_be_built_again_where_the_managers_runs_once(story: Story) -> None:
    theirs, ours = stock_server(story), chassis_server(story)
    app = theirs.streamable_http_app()
    async with listening(app):
        pass
    with pytest.raises(RuntimeError, match="once"):
        async with theirs.session_manager.run():
            pass

    for _ in range(2):
        async with chassis(ours) as port:
            assert (await Client(port, "handshake").introduce()).status == 200


class Recorder(NoOpTracer):
    """A tracer that keeps what an exporter would send."""

    def __init__(self) -> None:
        self.kept: list[str] = []

    @contextmanager
    def start_as_current_span(self, name: str, *_: Any, **more: Any) -> Iterator[Span]:  # type: ignore[override]
        attributes: Mapping[str, AttributeValue] = more.get("attributes") or {}
        self.kept += [name, *(str(value) for value in attributes.values())]
        span = KeepingSpan(self)
        with use_span(span, record_exception=False, set_status_on_exception=False):
            yield span


class KeepingSpan(NonRecordingSpan):
    """A span that keeps every text given to it."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(NonRecordingSpan(None).get_span_context())  # type: ignore[arg-type]
        self._recorder = recorder

    def set_status(self, status: Any, description: str | None = None) -> None:
        self._recorder.kept.append(str(description))

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        self._recorder.kept.append(str(value))

    def record_exception(self, exception: BaseException, *_: Any, **__: Any) -> None:
        self._recorder.kept.append(str(exception))


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    found = Recorder()
    monkeypatch.setattr(mcp.shared._otel, "_tracer", found)
    return found


@pytest.mark.parametrize("era", ERAS)
async def test_O5_trap_17_name_of_a_stranger_names_a_span_of_the_stock_server_only(
    era: Era, story: Story, recorder: Recorder
) -> None:
    async with stock(stock_server(story)) as port:
        await call(port, era, STRANGER, {})
    theirs, recorder.kept = recorder.kept, []
    configure(stream=(log := io.StringIO()))
    async with chassis(chassis_server(story), settings()) as port:
        await call(port, era, STRANGER, {})

    assert any(STRANGER in text for text in theirs)
    assert not any(STRANGER in text for text in recorder.kept)
    assert STRANGER not in log.getvalue()
    assert '"tool_name":"unknown"' in log.getvalue()
