"""E2, E3: no exception passes; the client gets an id, and the log says under that id what broke."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import pytest
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import MCPServer, Resolve
from pydantic import AfterValidator, BaseModel, BeforeValidator

from mcp_chassis import Server
from tests.chassis.client import ERAS, EVENTS, JSON, Client, Era
from tests.chassis.serving import chassis, talking
from tests.chassis.tools import SECRET, Story, chassis_server
from tests.support.inside import Log

pytestmark = pytest.mark.anyio


def reject(value: str) -> str:
    raise ValueError(f"{SECRET} {value}")


def explode(value: str) -> str:
    raise KeyError(SECRET, value)


def explode_early(_value: Any) -> str:
    raise ZeroDivisionError(SECRET)


def depend() -> str:
    raise OSError(SECRET)


class Leaving(BaseException):
    """What is no `Exception`, such as a library's own signal."""


def faulty() -> Server:
    """Return a server whose tools break in every way an author can think of."""
    server = Server("faulty")
    register_raising(server)
    register_misreturning(server)

    @server.tool()
    async def rejecting(text: Annotated[str, AfterValidator(reject)]) -> str:
        return text

    @server.tool()
    async def exploding(text: Annotated[str, AfterValidator(explode)]) -> str:
        return text

    @server.tool()
    async def exploding_early(text: Annotated[str, BeforeValidator(explode_early)]) -> str:
        return text

    @server.tool()
    async def depending(text: str, value: Annotated[str, Resolve(depend)]) -> str:
        return text + value

    return server


def register_raising(server: Server) -> None:
    """Give `server` tools that end in an exception."""

    @server.tool()
    async def leaving(text: str) -> str:
        raise Leaving(f"{SECRET} {text}")

    @server.tool()
    async def exiting(text: str) -> str:
        sys.exit(f"{SECRET} {text}")

    @server.tool()
    def exiting_thread(text: str) -> str:
        sys.exit(f"{SECRET} {text}")

    @server.tool()
    async def orphaned(text: str) -> str:
        waited: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        waited.cancel(f"{SECRET} {text}")
        return await waited

    @server.tool()
    async def grouped(text: str) -> str:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.sleep(3600))
            raise ValueError(f"{SECRET} {text}")
        return text

    @server.tool()
    async def chained(text: str) -> str:
        try:
            raise LookupError(SECRET)
        except LookupError as error:
            raise RuntimeError(f"{SECRET} {text}") from error


def register_misreturning(server: Server) -> None:
    """Give `server` tools whose results nobody can send."""

    @server.tool()
    async def misshapen(text: str) -> Point:
        return {"x": f"{SECRET} {text}"}  # type: ignore[return-value]  # the fault that is tested

    @server.tool()
    async def not_a_number(text: str) -> float:
        return float("nan")

    @server.tool()
    async def half_a_character(text: str) -> str:
        return "\ud800"

    @server.tool()
    async def unserialisable(text: str) -> dict[str, Any]:
        return {"x": object(), "y": b"\xff" + text.encode()}


class Point(BaseModel):
    """A result with a schema."""

    x: int


CRASHES = {
    "exploding": "KeyError",
    "exploding_early": "ZeroDivisionError",
    "depending": "OSError",
    "leaving": "tests.chassis.test_failures.Leaving",
    "exiting": "SystemExit",
    "exiting_thread": "SystemExit",
    "orphaned": "asyncio.exceptions.CancelledError",
    "grouped": "ExceptionGroup",
    "chained": "RuntimeError",
    "misshapen": "pydantic_core._pydantic_core.ValidationError",
    "not_a_number": "ValueError",
    "half_a_character": "UnicodeEncodeError",
    "unserialisable": "pydantic_core._pydantic_core.PydanticSerializationError",
}


@pytest.mark.parametrize("accept", [JSON, EVENTS])
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("tool", CRASHES)
async def test_E2_crash_is_answered_with_an_id_under_which_the_log_tells_more(
    tool: str, era: Era, accept: str, log: Log
) -> None:
    async with talking(faulty(), era) as client:
        crashed = await client.call(tool, {"text": "an argument"}, accept=accept)
        afterwards = await client.call("ping", accept=accept)

    [line] = log.lines("crashed")
    assert crashed.result()["isError"]
    assert crashed.text() == f"{tool} failed unexpectedly; quote request {line['request_id']} when you report it"
    assert crashed.result()["_meta"]["requestId"] == crashed.header("x-request-id") == line["request_id"]
    assert line["exception_type"] == CRASHES[tool]
    assert line["stack"]
    for told in (crashed.body.decode(), log.text()):
        assert SECRET not in told
        assert "an argument" not in told
    assert afterwards.text() == "pong"


@pytest.mark.parametrize("era", ERAS)
async def test_E4_rule_of_the_author_names_the_field_and_not_its_text(era: Era, log: Log) -> None:
    async with talking(faulty(), era) as client:
        refused = await client.call("rejecting", {"text": "an argument"})

    assert refused.text() == "Invalid arguments: text is not valid"
    assert SECRET not in log.text()


async def broken(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    raise RuntimeError(SECRET)


async def broken_afterwards(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    await call_next(ctx)
    raise Leaving(SECRET)


@pytest.mark.parametrize("layer", [broken, broken_afterwards])
@pytest.mark.parametrize("method", ["tools/list", "tools/call", "prompts/list"])
@pytest.mark.parametrize("era", ERAS)
async def test_E2_middleware_that_raises_is_a_generic_error_with_an_id(
    era: Era, method: str, layer: Callable[..., Any], log: Log, story: Story
) -> None:
    server = chassis_server(story)

    async with talking(server, era) as client:
        server.middleware.append(layer)
        answer = await client.request(method, {"name": "ping"} if method == "tools/call" else {})
        server.middleware.remove(layer)
        afterwards = await client.call("ping")

    # The handshake's last notification is answered before it is handled, so it may meet the broken layer too.
    [line] = [line for line in log.lines("crashed") if line["mcp_request_id"] is not None]
    assert answer.error()["code"] == -32603
    assert answer.error()["message"] == f"Internal error; quote request {line['request_id']} when you report it"
    assert SECRET not in answer.body.decode()
    assert SECRET not in log.text()
    assert afterwards.text() == "pong"


async def test_E2_authentication_that_raises_is_a_500_with_an_id(log: Log, story: Story) -> None:
    async def authenticate(_scope: Any) -> Any:
        raise RuntimeError(SECRET)

    async with chassis(chassis_server(story), authenticate=authenticate) as port:
        answers = [await Client(port, era).call("ping") for era in ERAS]

    assert [answer.status for answer in answers] == [500, 500]
    assert [answer.error()["data"]["requestId"] for answer in answers] == [
        line["request_id"] for line in log.lines("crashed")
    ]
    assert SECRET not in log.text() + "".join(answer.body.decode() for answer in answers)


@pytest.mark.parametrize("era", ERAS)
async def test_E2_lifespan_that_raises_stops_the_start_and_tells_the_log_where(era: Era, log: Log) -> None:
    @asynccontextmanager
    async def lifespan(_server: MCPServer[Any]) -> AsyncIterator[None]:
        if not SECRET:
            yield
        raise OSError(SECRET)

    with pytest.raises(SystemExit):
        async with talking(Server("tests", lifespan=lifespan), era):
            pass

    assert SECRET not in log.text()
    assert any(line["level"] == "error" for line in log.lines())
