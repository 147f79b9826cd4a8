"""O2: no argument reaches a log line through a library, whatever its author does."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import structlog

from mcp_chassis import Server, ToolFailure
from mcp_chassis.telemetry.gate import configure, log_crashes
from tests.chassis.client import DEADLINE
from tests.chassis.serving import talking
from tests.chassis.test_log_secrecy import CANARIES, traces
from tests.chassis.tools import Story, chassis_server
from tests.support.inside import Log

pytestmark = pytest.mark.anyio


def by_template(text: str) -> None:
    logging.getLogger("library").error("got %s", text)


def by_message(text: str) -> None:
    logging.getLogger("library").warning(f"got {text}")  # what libraries do


def by_extra(text: str) -> None:
    logging.getLogger("library").critical("got it", extra={"payload": text, "tool_name": text, "event": text})


def by_exception(text: str) -> None:
    try:
        raise ValueError(text)
    except ValueError:
        logging.getLogger("library").exception("failed on %s", text)


def by_exception_as_message(text: str) -> None:
    logging.getLogger("library").error(ValueError(text))


def by_logger_name(text: str) -> None:
    logging.getLogger(f"asyncio.{text[:60]}").error("got it")


def by_a_level_of_its_own(text: str) -> None:
    logging.getLogger("library").log(35, text)


def by_broken_template(text: str) -> None:
    logging.getLogger("library").error("got %d %d", text)


def by_warning(text: str) -> None:
    warnings.warn(f"deprecated: {text}", UserWarning, stacklevel=2)


def by_structlog(text: str) -> None:
    structlog.get_logger().error(f"got {text}", reason=text, url=text, tool_name=text)
    structlog.get_logger("library").bind(method=text).warning("got %s", text)


def by_structlog_exception(text: str) -> None:
    try:
        raise ValueError(text)
    except ValueError:
        structlog.get_logger().exception("failed", hint=text)


def by_callback(text: str) -> None:
    def callback() -> None:
        raise ValueError(text)

    asyncio.get_running_loop().call_soon(callback)


def by_forgotten_task(text: str) -> None:
    async def forgotten() -> None:
        raise ValueError(text)

    asyncio.get_running_loop().create_task(forgotten(), name=text[:60])


def by_thread(text: str) -> None:
    def run() -> None:
        raise ValueError(text)

    thread = threading.Thread(target=run, name=text[:60])
    thread.start()
    thread.join(DEADLINE)


def by_finalizer(text: str) -> None:
    class Fragile:
        def __del__(self) -> None:
            raise ValueError(text)

    Fragile()
    gc.collect()


WAYS = [value for name, value in list(globals().items()) if name.startswith("by_")]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("style", ["json", "console"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_O2_library_that_logs_an_argument_leaves_a_line_without_it(
    way: Callable[[str], None], style: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for hook in ("sys.excepthook", "sys.unraisablehook", "threading.excepthook"):
        monkeypatch.setattr(hook, lambda *_: None)
    log, server = Log(), Server("tests")
    configure(stream=log.stream, level="debug", style=style)
    log_crashes()
    # The test runner would take these exceptions for its own.
    asyncio.get_running_loop().set_exception_handler(None)

    @server.tool()
    async def use(text: str) -> str:
        way(text)
        await asyncio.sleep(0)
        return "done"

    async with talking(server, "stateless") as client:
        for canary in CANARIES.values():
            assert (await client.call("use", {"text": canary})).text() == "done"
    gc.collect()

    printed = log.text() + "".join(capfd.readouterr())
    assert "library_record" in printed or "crashed" in printed
    for canary in CANARIES.values():
        assert not any(trace in printed for trace in traces(canary))


async def test_O2_trusted_logger_keeps_its_template_and_never_its_arguments() -> None:
    log = Log()
    configure(stream=log.stream, trusted=["notes", "asyncio"])

    logging.getLogger("notes.store").error("stored %s for %s", "canary", {"tenant": "canary"})
    logging.getLogger("notes").warning("stored %s", "canary")
    logging.getLogger("notes").error(ValueError("canary"))
    logging.getLogger("notesbook").error("stored %s", "canary")
    logging.getLogger("other").error("stored %s", "canary")

    templates = [(line["logger"], line.get("template")) for line in log.lines()]
    kept = [("notes", "stored %s for %s"), ("notes", "stored %s"), ("notes", None)]
    assert templates == [*kept, ("unknown", None), ("unknown", None)]
    assert "canary" not in log.text()


async def test_O2_console_shows_no_more_than_json_does(story: Story) -> None:
    log = Log()
    configure(stream=log.stream, style="console")

    async with talking(chassis_server(story), "stateless") as client:
        await client.call("crash", {"text": CANARIES["plain"]})

    assert "crashed" in log.text()
    assert CANARIES["plain"] not in log.text()


async def test_O2_author_may_tell_the_caller_what_the_log_does_not_hear(log: Log) -> None:
    server = Server("tests")

    @server.tool()
    async def tell(text: str) -> str:
        raise ToolFailure(f"no room for {text}")

    async with talking(server, "stateless") as client:
        assert (await client.call("tell", {"text": "canary"})).text() == "no room for canary"

    assert "canary" not in log.text()
