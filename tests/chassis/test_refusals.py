"""T7: what a request may look like. Everything else is told precisely what is wrong, before any MCP code runs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.chassis.client import ERAS, JSON, Era, Response, connect, exchange, raw
from tests.chassis.serving import chassis, settings, talking
from tests.chassis.tools import Story, chassis_server

pytestmark = pytest.mark.anyio

POST = [("Content-Type", "application/json"), ("Accept", JSON)]
PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
CANARY = "c4nary-Zürich"


def refused(answer: Response) -> tuple[int, str]:
    """Return the status and the reason; every refusal names its request."""
    assert answer.shape == "application/json"
    assert answer.error()["data"]["requestId"] == answer.header("x-request-id")
    assert answer.message()["jsonrpc"] == "2.0"
    return answer.status, answer.error()["data"]["reason"]


@pytest.mark.parametrize(
    "content_type",
    [None, "", "text/plain", "application/jsonx", "application/x-www-form-urlencoded", "multipart/form-data"],
)
async def test_T7_body_of_another_type_is_refused(content_type: str | None, story: Story) -> None:
    headers = [("Accept", JSON), *([("Content-Type", content_type)] if content_type is not None else [])]

    async with chassis(chassis_server(story)) as port:
        assert refused(await exchange(port, raw("POST", headers, PING))) == (415, "wrong_content_type")


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "Application/JSON", "application/json ;x=y"]
)
async def test_T7_content_type_may_have_parameters_and_capitals(content_type: str, story: Story) -> None:
    async with talking(chassis_server(story), "stateless") as client:
        request = client.request_bytes("tools/list").replace(b"application/json", content_type.encode(), 1)
        assert (await exchange(client.port, request)).status == 200


@pytest.mark.parametrize("size", [100_001, 10**19])
async def test_T7_body_declared_too_large_is_refused_before_it_is_read(size: int, story: Story) -> None:
    async with chassis(chassis_server(story), settings(max_body_bytes=100_000)) as port:
        answer = await exchange(port, raw("POST", [*POST, ("Content-Length", str(size))]))

    assert refused(answer) == (413, "body_too_large")


async def test_T7_body_that_grows_too_large_in_chunks_is_refused_before_its_end(story: Story) -> None:
    async with chassis(chassis_server(story), settings(max_body_bytes=100_000)) as port, connect(port) as connection:
        await connection.send(raw("POST", [*POST, ("Transfer-Encoding", "chunked")]))
        for _ in range(11):
            await connection.send(b"2710\r\n" + b" " * 10_000 + b"\r\n")
        answer = await connection.answer()

    assert refused(answer) == (413, "body_too_large")


@pytest.mark.parametrize("era", ERAS)
async def test_T7_body_of_exactly_the_largest_size_is_served(era: Era, story: Story) -> None:
    async with talking(chassis_server(story), era, settings(max_body_bytes=50_000)) as client:
        empty = client.request_bytes("tools/call", {"name": "echo", "arguments": {"text": ""}})
        room = 50_000 - len(empty.partition(b"\r\n\r\n")[2])
        fits = await client.call("echo", {"text": "x" * room})
        exceeds = await client.call("echo", {"text": "x" * (room + 1)})

    assert fits.text() == "x" * room
    assert refused(exceeds) == (413, "body_too_large")


async def test_T7_headers_too_large_are_refused(story: Story) -> None:
    async with chassis(chassis_server(story), settings(max_header_bytes=4096)) as port:
        together = await exchange(port, raw("POST", [*POST, *((f"X-{n}", "x" * 500) for n in range(9))], PING))
        long = await exchange(port, raw("POST", [*POST, ("X-Long", "x" * 20_000)], PING))
        endless = await exchange(port, raw("POST", [*POST, ("X-Long", "x" * 20_000)]).removesuffix(b"\r\n\r\n"))

    assert refused(together) == refused(long) == (431, "headers_too_large")
    assert (endless.status, endless.header("connection")) == (400, "close")


async def test_T7_what_comes_after_the_body_is_no_header(story: Story) -> None:
    heads: list[list[tuple[bytes, bytes]]] = []

    def keeping(app: ASGIApp) -> ASGIApp:
        async def kept(scope: Scope, receive: Receive, send: Send) -> None:
            heads.append(scope.get("headers", []))
            await app(scope, receive, send)

        return kept

    trailers = b"0\r\nX-Forwarded-For: 192.0.2.1\r\nAuthorization: Bearer x\r\n\r\n"
    async with chassis(chassis_server(story), wrap=keeping) as port, connect(port) as connection:
        await connection.send(raw("POST", [*POST, ("Transfer-Encoding", "chunked")]))
        await connection.send(b"%x\r\n%b\r\n" % (len(PING), PING))
        await connection.send(trailers)
        answer = await connection.answer()

    assert refused(answer) == (400, "no_session")
    assert {b"x-forwarded-for", b"authorization"}.isdisjoint(dict(heads[-1]))


@pytest.mark.parametrize("session", ["", "x" * 129, "two words", "Zürich", "tab\there"])
@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
async def test_T7_session_id_must_be_visible_ascii_of_128_characters(method: str, session: str, story: Story) -> None:
    async with chassis(chassis_server(story)) as port:
        body = PING if method == "POST" else b""
        assert refused(await exchange(port, raw(method, [*POST, ("Mcp-Session-Id", session)], body))) == (
            400,
            "bad_session_id",
        )


@pytest.mark.parametrize("session", ["x", "x" * 128, "../../etc/passwd", "!~"])
@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
async def test_T7_session_id_that_nobody_opened_is_unknown(method: str, session: str, story: Story) -> None:
    async with chassis(chassis_server(story)) as port:
        body = PING if method == "POST" else b""
        assert refused(await exchange(port, raw(method, [*POST, ("Mcp-Session-Id", session)], body))) == (
            404,
            "unknown_session",
        )


@pytest.mark.parametrize("method", ["PUT", "PATCH", "HEAD", "TRACE", "PROPFIND"])
@pytest.mark.parametrize("sessions", ["stateful", "stateless"])
async def test_T7_other_methods_are_refused_with_those_that_are_served(
    method: str, sessions: str, story: Story
) -> None:
    async with chassis(chassis_server(story), settings(sessions=sessions)) as port:
        answer = await exchange(port, raw(method, POST), bodiless=method == "HEAD")

    assert answer.status == 405
    assert answer.header("allow") == ("POST, GET, DELETE" if sessions == "stateful" else "POST")


async def test_T7_method_that_http_does_not_know_ends_the_connection(story: Story) -> None:
    async with chassis(chassis_server(story)) as port:
        answer = await exchange(port, raw("BREW", POST))

    assert (answer.status, answer.header("connection")) == (400, "close")


def call(**replaced: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "add"}} | replaced


def nested(levels: int) -> bytes:
    """Return a call that nests that many levels."""
    inner = "[" * (levels - 2) + "]" * (levels - 2)
    return json.dumps(call()).replace('"add"', f'"add", "x": {inner}').encode()


BODIES: dict[str, tuple[object, int, str]] = {
    "nothing": (b"", -32700, "not_json"),
    "broken": (b'{"jsonrpc":', -32700, "not_json"),
    "not utf-8": (b'{"jsonrpc":"2.0","id":1,"method":"\xff"}', -32700, "not_json"),
    "utf-16": (json.dumps(call()).encode("utf-16"), -32700, "not_json"),
    "byte order mark": (b"\xef\xbb\xbf" + PING, -32700, "not_json"),
    "NaN": (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":NaN}}', -32700, "not_json"),
    "infinity": (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":-Infinity}}', -32700, "not_json"),
    "lone surrogate": (json.dumps(call(params={"name": "\ud800"})), -32700, "not_json"),
    "single quotes": (b"{'jsonrpc': '2.0'}", -32700, "not_json"),
    "nested too deep": (nested(65), -32600, "too_deep"),
    "deeper than a parser goes": (b"[" * 100_000, -32700, "not_json"),
    "batch": ([call(), call()], -32600, "batch"),
    "empty batch": ([], -32600, "batch"),
    "text": ("hello", -32600, "not_a_message"),
    "null": (None, -32600, "not_a_message"),
    "no version": ({"id": 1, "method": "ping"}, -32600, "bad_version"),
    "another version": (call(jsonrpc=CANARY), -32600, "bad_version"),
    "no method": ({"jsonrpc": "2.0", "id": 1}, -32600, "bad_method"),
    "method of another type": (call(method=5), -32600, "bad_method"),
    "empty method": (call(method=""), -32600, "bad_method"),
    "long method": (call(method="m" * 129), -32600, "bad_method"),
    "params as text": (call(params=CANARY), -32600, "bad_params"),
    "params as a list": (call(params=[CANARY]), -32600, "bad_params"),
    "null id": (call(id=None), -32600, "bad_id"),
    "id true": (call(id=True), -32600, "bad_id"),
    "id 1.5": (call(id=1.5), -32600, "bad_id"),
    "id as a list": (call(id=[CANARY]), -32600, "bad_id"),
    "long id": (call(id="i" * 129), -32600, "bad_id"),
    "inexact id": (call(id=2**53), -32600, "bad_id"),
    "long tool name": (call(params={"name": "n" * 129}), -32600, "bad_tool_name"),
    "result as text": ({"jsonrpc": "2.0", "id": 1, "result": CANARY}, -32600, "bad_answer"),
    "result of nothing": ({"jsonrpc": "2.0", "result": {}}, -32600, "bad_answer"),
    "error without message": ({"jsonrpc": "2.0", "id": 1, "error": {"code": CANARY}}, -32600, "bad_answer"),
}


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("name", BODIES)
async def test_T7_body_that_is_no_message_is_refused_with_its_fault_and_without_its_text(
    name: str, era: Era, story: Story
) -> None:
    body, code, reason = BODIES[name]
    sent = (
        body
        if isinstance(body, bytes)
        else json.dumps(body).encode()
        if name != "lone surrogate"
        else str(body).encode()
    )

    async with talking(chassis_server(story), era) as client:
        answer = await exchange(client.port, raw("POST", client.head("tools/call", {"name": "add"}), sent))

    assert refused(answer) == (400, reason)
    assert answer.error()["code"] == code
    assert CANARY not in answer.body.decode()


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("id", [0, -1, "", "i" * 128, "Zürich", 2**53 - 1, -(2**53) + 1])
async def test_T7_any_id_within_the_bounds_comes_back_as_it_was_sent(id: object, era: Era, story: Story) -> None:
    async with talking(chassis_server(story), era) as client:
        answer = await client.call("add", {"a": 1, "b": 2}, id=id)

    assert answer.message()["id"] == id
    assert type(answer.message()["id"]) is type(id)


@pytest.mark.parametrize("era", ERAS)
async def test_T7_message_of_the_deepest_nesting_is_served(era: Era, story: Story) -> None:
    async with talking(chassis_server(story), era) as client:
        body = nested(64).replace(b'"name"', json.dumps(client.params({}))[1:-1].encode() + b', "name"')
        body = body.replace(b'{, "name"', b'{"name"')
        answer = await exchange(client.port, raw("POST", client.head("tools/call", {"name": "add"}), body))

    assert "a is required" in answer.text()


@pytest.mark.parametrize("era", ERAS)
async def test_T7_of_duplicate_keys_every_layer_takes_the_last(era: Era, story: Story) -> None:
    async with talking(chassis_server(story), era) as client:
        request = client.request_bytes("tools/call", {"name": "add", "arguments": {"a": 1, "b": 2}}, accept=JSON)
        _, _, body = request.partition(b"\r\n\r\n")
        doubled = body.replace(b'"id": 1', b'"id": 7, "id": 8').replace(b'"a": 1', b'"a": 10, "a": 20')
        answer = await exchange(client.port, raw("POST", client.head("tools/call", {"name": "add"}, JSON), doubled))

    assert answer.message()["id"] == 8
    assert answer.text() == "22"
