"""PROTOCOL.md's traps that a client can see: each shows on the stock SDK and not on the chassis.

When the first half of a test fails, the SDK has mended its trap: read its changelog, then drop the half and perhaps the
chassis's cure.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from starlette.authentication import SimpleUser
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_chassis.request import Caller
from tests.chassis.client import BOTH, ERAS, HANDSHAKE_VERSION, JSON, Client, Era, connect, exchange, raw
from tests.chassis.serving import chassis, settings, stock, talking
from tests.chassis.tools import SECRET, Story, chassis_server, stock_server

pytestmark = pytest.mark.anyio

MALFORMED = {"protocolVersion": HANDSHAKE_VERSION, "capabilities": {}}
"""An `initialize` without the required clientInfo."""


async def failing(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """Server middleware that breaks on every tool call."""
    if ctx.method == "tools/call":
        raise RuntimeError(SECRET)
    return await call_next(ctx)


async def opened(port: int, era: Era = "handshake", **more: Any) -> Client:
    client = Client(port, era, **more)
    await client.open()
    return client


async def test_E3_trap_3_exception_text_of_a_middleware_leaves_the_stock_server_only(story: Story) -> None:
    theirs, ours = stock_server(story), chassis_server(story)
    theirs.middleware.append(failing)
    ours.middleware.append(failing)

    async with stock(theirs) as port:
        leaked = (await (await opened(port)).call("add", {"a": 1, "b": 2})).error()
    async with chassis(ours) as port:
        kept = (await (await opened(port)).call("add", {"a": 1, "b": 2})).error()

    assert (leaked["code"], leaked["message"]) == (0, SECRET)
    assert kept["code"] == -32603
    assert SECRET not in json.dumps(kept, ensure_ascii=False)


async def test_T7_trap_4_malformed_initialize_keeps_a_slot_of_the_stock_server_only(story: Story) -> None:
    ours = settings(max_sessions=1)

    async with stock(stock_server(story), max_sessions=1) as port:
        refused = await Client(port, "handshake").request("initialize", MALFORMED)
        afterwards = await Client(port, "handshake").introduce()
        assert refused.error()["code"] == -32602
        assert afterwards.status == 503
    async with chassis(chassis_server(story), ours) as port:
        refused = await Client(port, "handshake").request("initialize", MALFORMED)
        afterwards = await Client(port, "handshake").introduce()
        assert refused.error()["code"] == -32602
        assert afterwards.status == 200


async def test_T7_trap_5_get_without_sessions_opens_a_dead_stream_on_the_stock_server_only(story: Story) -> None:
    get = raw("GET", [("Accept", "text/event-stream")])

    async with stock(stock_server(story), stateless_http=True) as port, connect(port) as connection:
        await connection.send(get)
        dead = await connection.head()
    async with chassis(chassis_server(story), settings(sessions="stateless")) as port:
        refused = await exchange(port, get)

    assert (dead.status, dead.shape) == (200, "text/event-stream")
    assert (refused.status, refused.header("allow")) == (405, "POST")


@pytest.mark.parametrize("second", [7, "7"])
async def test_T7_trap_6_second_request_with_a_running_id_orphans_the_first_on_the_stock_server_only(
    second: object,
) -> None:
    theirs, ours = Story(), Story()

    async with stock(stock_server(theirs)) as port:
        client = await opened(port)
        async with connect(port) as first:
            await first.send(client.request_bytes("tools/call", {"name": "wait"}, id=7))
            await theirs.started.wait()
            await client.call("add", {"a": 1, "b": 2}, id=second)
            theirs.release.set()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(first.answer(), 0.5)
    async with chassis(chassis_server(ours)) as port:
        client = await opened(port)
        async with connect(port) as first:
            await first.send(client.request_bytes("tools/call", {"name": "wait"}, id=7))
            await ours.started.wait()
            refused = await client.call("add", {"a": 1, "b": 2}, id=second)
            ours.release.set()
            answered = await first.answer()

    assert refused.status == 400
    assert refused.error()["data"]["reason"] == "duplicate_id"
    assert answered.text() == "released"


@pytest.mark.parametrize("era", ERAS)
async def test_E4_trap_8_stock_server_quotes_bad_values_ignores_strangers_and_coerces(era: Era, story: Story) -> None:
    wrong_type, stranger, coerced = {"a": SECRET, "b": 1}, {"a": 1, "b": 2, "c": 3}, {"a": "5", "b": 1}

    async with stock(stock_server(story)) as port:
        client = await opened(port, era)
        assert SECRET in (await client.call("add", wrong_type)).text()
        assert (await client.call("add", stranger)).text() == "3"
        assert (await client.call("add", coerced)).text() == "6"
        assert (await client.call("nobody")).result()["isError"]
    async with talking(chassis_server(story), era) as client:
        assert (await client.call("add", wrong_type)).text() == "Invalid arguments: a must be a valid integer"
        assert (await client.call("add", stranger)).text() == "Invalid arguments: c is not an argument of this tool"
        assert (await client.call("add", coerced)).text() == "Invalid arguments: a must be a valid integer"
        assert (await client.call("nobody")).error()["code"] == -32602


class NaiveAuthentication:
    """Authentication as a first attempt writes it: the user in the scope is not the SDK's own kind."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        names = [value.decode() for name, value in scope.get("headers", ()) if name == b"x-caller"]
        await self._app({**scope, "user": SimpleUser(names[0])} if names else scope, receive, send)


async def by_header(scope: Scope) -> tuple[Caller, Sequence[str]]:
    """Name the caller after a header; a test has no need for secrets."""
    return Caller(next(value.decode() for name, value in scope["headers"] if name == b"x-caller")), ()


async def test_A8_trap_11_session_of_another_caller_is_usable_on_the_stock_server_only(story: Story) -> None:
    async with stock(stock_server(story), wrap=NaiveAuthentication) as port:
        owner = await opened(port, headers=[("X-Caller", "ann")])
        thief = Client(port, "handshake", owner.session, headers=[("X-Caller", "bob")])
        taken = await thief.call("add", {"a": 1, "b": 2})
    async with chassis(chassis_server(story), authenticate=by_header) as port:
        owner = await opened(port, headers=[("X-Caller", "ann")])
        thief = Client(port, "handshake", owner.session, headers=[("X-Caller", "bob")])
        refused = await thief.call("add", {"a": 1, "b": 2})
        still = await owner.call("whoami")

    assert taken.text() == "3"
    assert (refused.status, refused.error()["data"]["reason"]) == (404, "unknown_session")
    assert still.result()["structuredContent"]["caller"] == "ann"


async def test_A8_trap_11_the_sdk_too_knows_whose_session_it_is(story: Story) -> None:
    server = chassis_server(story)

    async with chassis(server, authenticate=by_header) as port:
        owner = await opened(port, headers=[("X-Caller", "ann")])
        owners = vars(server.session_manager)["_session_owners"]
        assert owners[owner.session]["client_id"] == "none:ann"


async def test_T7_trap_13_stock_server_refuses_its_public_name_until_it_checks_nothing(story: Story) -> None:
    async with stock(stock_server(story)) as port:
        public = await Client(port, "handshake").introduce()
        named = await exchange(port, raw("POST", head(), body(), host="notes.example.com"))
        assert (public.status, named.status) == (200, 421)
    async with stock(stock_server(story), host="0.0.0.0") as port:
        assert (await exchange(port, raw("POST", head(), body(), host="evil.example"))).status == 200
    async with chassis(chassis_server(story)) as port:
        assert (await exchange(port, raw("POST", head(), body(), host="notes.example.com"))).status == 200
        assert (await exchange(port, raw("POST", head(), body(), host="evil.example"))).status == 421


def head() -> list[tuple[str, str]]:
    return Client(0, "handshake").head("initialize", {}, BOTH)


def body() -> bytes:
    initialize = Client(0, "handshake").request_bytes(
        "initialize", MALFORMED | {"clientInfo": {"name": "x", "version": "1"}}
    )
    return initialize.partition(b"\r\n\r\n")[2]


async def test_T2_stock_server_refuses_a_client_that_names_one_type(story: Story) -> None:
    async with stock(stock_server(story)) as port:
        refused = await Client(port, "handshake").introduce(accept=JSON)
    async with chassis(chassis_server(story)) as port:
        served = await Client(port, "handshake").introduce(accept=JSON)

    assert (refused.status, served.status) == (406, 200)
