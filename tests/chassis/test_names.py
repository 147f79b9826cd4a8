"""T7: which names a request may carry, and what a page in a browser is told."""

from __future__ import annotations

import pytest

from tests.chassis.client import JSON, Client, exchange, raw
from tests.chassis.serving import chassis, settings
from tests.chassis.test_refusals import PING, POST, refused
from tests.chassis.tools import Story, chassis_server

pytestmark = pytest.mark.anyio


HOSTS = {
    "127.0.0.1:8080": True,
    "localhost": True,
    "LOCALHOST:1": True,
    "[::1]:8080": True,
    "notes.example.com": True,
    "Notes.Example.Com:443": True,
    "listed.internal:8443": True,
    "listed.internal": False,
    "notes.example.com:80": False,
    "notes.example.com.evil.example": False,
    "evil.example": False,
    "127.0.0.1.evil.example": False,
    "127.0.0.1:8080@evil.example": False,
    "localhost:8080:1": False,
}


@pytest.mark.parametrize(("host", "admitted"), HOSTS.items())
async def test_T7_host_must_name_this_server(host: str, admitted: bool, story: Story) -> None:
    async with chassis(chassis_server(story), settings(allowed_hosts="listed.internal:8443")) as port:
        answer = await exchange(port, raw("POST", POST, PING, host=host))

    assert (answer.status == 421) == (not admitted)
    if not admitted:
        assert refused(answer) == (421, "wrong_host")
        assert host not in answer.body.decode()


ORIGINS = {
    # origin: (in development, in production)
    "http://localhost:6274": (True, False),
    "https://127.0.0.1": (True, False),
    "http://[::1]:3000": (True, False),
    "https://notes.example.com": (True, True),
    "https://app.example.org": (True, True),
    "http://notes.example.com": (False, False),
    "https://notes.example.com:8443": (False, False),
    "https://evil.example": (False, False),
    "http://localhost.evil.example": (False, False),
    "null": (False, False),
    "": (False, False),
}


@pytest.mark.parametrize("environment", ["development", "production"])
@pytest.mark.parametrize("origin", ORIGINS)
async def test_T7_origin_must_be_listed_or_local_in_development(origin: str, environment: str, story: Story) -> None:
    given = settings(environment=environment, allowed_origins="https://app.example.org")
    admitted = ORIGINS[origin][environment == "production"]

    async with chassis(chassis_server(story), given) as port:
        answer = await exchange(port, raw("POST", [*POST, ("Origin", origin)], PING))

    assert (answer.status == 403) == (not admitted)
    assert answer.header("access-control-allow-origin") == (origin if admitted else None)
    if not admitted:
        assert refused(answer) == (403, "wrong_origin")


async def test_T7_a_page_learns_by_preflight_what_it_may_send(story: Story) -> None:
    asked = "content-type,mcp-protocol-version,mcp-session-id,mcp-method,mcp-name,authorization"
    wanted = [("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", asked)]

    async with chassis(chassis_server(story)) as port:
        yes = await exchange(port, raw("OPTIONS", [("Origin", "http://localhost:6274"), *wanted]))
        no = await exchange(port, raw("OPTIONS", [("Origin", "https://evil.example"), *wanted]))

    assert yes.status == 200
    assert yes.header("access-control-allow-origin") == "http://localhost:6274"
    assert set((yes.header("access-control-allow-methods") or "").split(", ")) == {"POST", "GET", "DELETE"}
    assert set(asked.split(",")) <= set((yes.header("access-control-allow-headers") or "").lower().split(","))
    assert no.status == 400
    assert no.header("access-control-allow-origin") is None


@pytest.mark.parametrize("path_of", ["answer", "refusal"])
async def test_T7_a_page_can_read_the_headers_it_needs_on_answers_and_refusals(path_of: str, story: Story) -> None:
    method = "initialize" if path_of == "answer" else "unknown"
    body = Client(0, "handshake").request_bytes(method, {}, accept=JSON).partition(b"\r\n\r\n")[2]

    async with chassis(chassis_server(story)) as port:
        answer = await exchange(port, raw("POST", [*POST, ("Origin", "http://localhost:6274")], body))

    exposed = set((answer.header("access-control-expose-headers") or "").split(", "))
    assert answer.header("access-control-allow-origin") == "http://localhost:6274"
    assert {"Mcp-Session-Id", "WWW-Authenticate", "Retry-After", "X-Request-ID"} <= exposed
