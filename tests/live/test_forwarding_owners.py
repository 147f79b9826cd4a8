"""What the owner of a session is told, and a store that lies about owners, forgets them or is silent (S5)."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import httpx2
import jwt
import pytest

from tests.live.curl import HANDSHAKE, JSON, Conversation
from tests.live.fleet import Fleet, Keys
from tests.live.peered import SECRET, Site, at, begin, calling, pair, session_of
from tests.live.peers import OK, Peer, Reply
from tests.live.project import DEADLINE, Project
from tests.live.stub_server import StubServer

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("forwarding-owners")]

UNKNOWN: Final = "404 unknown_session"
RENEWAL: Final = 20.0
"""Seconds between two renewals of a lease."""
UNDECIDABLE: Final = "503 owner_undecidable"
FORWARDED: Final = 'mcp_forwarded_requests_total{{outcome="{}"}}'
PATIENT: Final = {"REVOCATION_WHEN_STORE_DOWN": "allow", "STATE_TIMEOUT": "0.1"}
IN_FLIGHT: Final = "mcp_requests_in_flight"
ID: Final = "session-of-a-stub"
AT_ONCE: Final = 5.0
"""Seconds: far above what a busy machine needs, far below what waiting for a dead replica would take."""


@pytest.fixture
async def http(keys: Keys) -> AsyncIterator[httpx2.AsyncClient]:
    """Return the connections of one caller."""
    async with calling(keys.headers("ann")) as found:
        yield found


@pytest.fixture(scope="module")
def shared(extended: Project, keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Fleet]]:
    """Return two replicas that nobody harms."""
    with pair(extended, keys, tmp_path_factory.mktemp("pair")) as found:
        yield found


def stranger_to(fleet: Fleet, http: httpx2.AsyncClient, session: str = ID) -> Peer:
    """Return a client whose session is none of the fleet's, at its second replica."""
    headers = {"Mcp-Session-Id": session, "MCP-Protocol-Version": HANDSHAKE.version}
    return Peer(http, Conversation(fleet.urls[1], HANDSHAKE, headers))


# --- what an owner is told ---------------------------------------------------------------------------------------


async def test_S5_owner_is_told_what_it_needs_and_no_credential(
    shared: tuple[Site, Fleet], keys: Keys, http: httpx2.AsyncClient
) -> None:
    place, fleet = shared
    peer = stranger_to(fleet, http)
    traced = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    own = {"X-Request-ID": "asked", "traceparent": traced, "Cookie": "a=b", "X-Client-Subject": "CN=root"}
    own |= {
        "Origin": fleet.urls[1].removesuffix("/mcp"),
        "X-Forwarded-For": "192.0.2.1",
        "Mcp-Name": "stock_nothing",
        "Forwarded": "for=x",
    }
    with StubServer() as stub:
        place.name_owner(ID, f"http://127.0.0.1:{stub.port}")
        headers, body = peer.conversation.message("tools/call", {"name": "stock_nothing", "arguments": {}}, accept=JSON)
        await http.post(fleet.urls[1], headers=headers | own, content=body)
        [seen] = stub.received

    names = {name.lower() for name, _ in seen.headers}
    assert names == {
        *("host", "x-request-id", "x-peer-assertion", "accept", "content-type", "mcp-protocol-version"),
        *("mcp-session-id", "mcp-name", "traceparent", "accept-encoding", "connection", "user-agent", "content-length"),
    }
    assert (seen.method, seen.target, seen.body) == ("POST", "/mcp", body)
    assert (seen.values("host"), seen.values("x-request-id")) == (["acme-notes.example.com"], ["asked"])
    assert seen.values("accept-encoding") == ["identity"]
    assert keys.headers("ann")["Authorization"].split()[1] not in str(seen)
    [assertion] = seen.values("x-peer-assertion")
    claims = jwt.decode(assertion, SECRET, ["HS256"], audience=f"http://127.0.0.1:{stub.port}", issuer="acme-notes")
    assert claims["exp"] - claims["iat"] == 10
    assert (claims["sub"], claims["tenant"], claims["scopes"], claims["way"]) == ("ann", "default", ["*"], "key")
    assert (claims["method"], claims["session"]) == ("POST", ID)


async def test_S5_cookie_of_one_caller_does_not_travel_with_the_next(
    shared: tuple[Site, Fleet], http: httpx2.AsyncClient
) -> None:
    place, fleet = shared
    peer, seen = stranger_to(fleet, http, "cookies"), []

    async def set_cookie(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            seen.append(head)
            writer.write(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b; Path=/\r\nContent-Length: 0\r\n\r\n")

    server = await asyncio.start_server(set_cookie, "127.0.0.1", 0)
    async with server:
        place.name_owner("cookies", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        assert [(await peer.end()).answer.status for _ in range(2)] == [200, 200]

    assert [b"\r\ncookie:" in head.lower() for head in seen] == [False, False]


# --- what the store says -----------------------------------------------------------------------------------------


async def test_S5_request_is_forwarded_once_and_never_again(
    shared: tuple[Site, Fleet], http: httpx2.AsyncClient
) -> None:
    place, fleet = shared
    before = [fleet.metric(FORWARDED.format("answered")), fleet.count("request_forwarded")]
    # The store says that the first replica holds it, which knows nothing of it; asked there, that it is here
    place.name_owner("looping", fleet.urls[0].removesuffix("/mcp"))
    peer = stranger_to(fleet, http, "looping")

    found = [await peer.call("stock_nothing"), await peer.end(), await at(peer, fleet.urls[0]).call("stock_nothing")]

    assert [reply.outcome for reply in found] == [UNKNOWN] * 3
    hops = [fleet.metric(FORWARDED.format("answered")), fleet.count("request_forwarded")]
    # Two through the second replica, one hop each; the third was refused where it came in
    assert [after - earlier for after, earlier in zip(hops, before, strict=True)] == [2, 2]


async def test_S5_request_that_was_forwarded_goes_no_further(
    shared: tuple[Site, Fleet], http: httpx2.AsyncClient
) -> None:
    place, fleet = shared
    here, peer = fleet.urls[0].removesuffix("/mcp"), at(stranger_to(fleet, http, "hop"), fleet.urls[0])
    headers, body = peer.conversation.message("tools/call", {"name": "stock_nothing", "arguments": {}})
    now = int(time.time())
    claims = {
        **{"iss": "acme-notes", "aud": here, "iat": now, "exp": now + 10, "jti": "only-once", "sub": "ann"},
        **{"tenant": "default", "scopes": ["*"], "way": "key", "revocations": [], "method": "POST", "session": "hop"},
        **{"body": hashlib.sha256(body.encode()).hexdigest()},
    }
    headers |= {"X-Peer-Assertion": jwt.encode(claims, SECRET, "HS256")}
    with StubServer() as stub:
        # It changed hands on the way
        place.name_owner("hop", f"http://127.0.0.1:{stub.port}")
        told = await http.post(fleet.urls[0], headers=headers, content=body)
        received = stub.received

    assert (told.status_code, told.json()["error"]["data"]["reason"]) == (404, "unknown_session")
    assert received == []


STRANGE: Final = (
    "ftp://127.0.0.1:{port}",
    "https://127.0.0.1:{port}",
    "http://127.0.0.1:{port}/admin?x=",
    "http://127.0.0.1:{port}#",
    "http://ann:secret@127.0.0.1:{port}",
    "http://127.0.0.1",
    "http://[::1",
    "http://a b:{port}",
    "//127.0.0.1:{port}",
    "127.0.0.1:{port}",
    "HTTP://127.0.0.1:{port}",
    "http://127.0.0.1:99999",
    "unix:///tmp/socket",
    "x",
    "",
)


async def test_S5_store_cannot_send_requests_where_no_replica_is(
    shared: tuple[Site, Fleet], http: httpx2.AsyncClient
) -> None:
    place, fleet = shared
    peer, told = stranger_to(fleet, http, "strange"), []
    with StubServer() as stub:
        for value in STRANGE:
            place.name_owner("strange", value.format(port=stub.port))
            told.append((await peer.call("stock_nothing")).outcome)
        received = stub.received

    assert told == [UNKNOWN] * len(STRANGE)
    assert received == []
    assert fleet.count("crashed") == 0


async def test_S5_session_is_claimed_with_a_lease_and_claimed_again_when_the_store_forgot(
    shared: tuple[Site, Fleet], http: httpx2.AsyncClient
) -> None:
    place, fleet = shared
    here = await begin(http, fleet.urls[0])
    session, owner = session_of(here), fleet.urls[0].removesuffix("/mcp")
    lease = int(place.redis.ask(f"TTL {place.owner_key(session)}".encode()).strip(b":\r\n"))

    assert (place.owner(session), 55 <= lease <= 60) == (owner, True)
    begun = time.monotonic()
    # More often than a lease is renewed
    for _ in range(4):
        assert place.redis.ask(b"FLUSHALL") == b"+OK\r\n"
        while place.owner(session) != owner:
            assert time.monotonic() - begun < RENEWAL
            await asyncio.sleep(0.02)
    assert (await at(here, fleet.urls[1]).call("stock_nothing")).outcome == OK


async def test_S5_while_the_store_is_away_nobody_is_told_that_a_session_is_gone(
    extended: Project, keys: Keys, http: httpx2.AsyncClient, tmp_path: Path
) -> None:
    with pair(extended, keys, tmp_path, **PATIENT) as (place, fleet):
        here = await begin(http, fleet.urls[0])
        there = at(here, fleet.urls[1])
        assert (await there.call("stock_nothing")).outcome == OK

        place.redis.kill()
        silent = [await peer.call("stock_nothing") for peer in (there, here)]
        # This one is told of as soon as the store is back
        late = await begin(http, fleet.urls[0])
        place.redis.start()
        told = [reply async for reply in until_served([there, at(late, fleet.urls[1])])]

    assert [reply.outcome for reply in silent] == [UNDECIDABLE, OK]
    assert silent[0].answer.headers["retry-after"] == "1"
    # It comes back empty: until each replica has told it again, nothing is certain, and nobody loses a session
    assert {reply.outcome for reply in told} <= {UNDECIDABLE, OK}


async def until_served(peers: list[Peer]) -> AsyncIterator[Reply]:
    """Call until each peer is served, and yield what was told until then."""
    end = time.monotonic() + DEADLINE
    for peer in peers:
        while True:
            reply = await peer.call("stock_nothing")
            yield reply
            if reply.outcome == OK:
                break
            assert time.monotonic() < end, reply
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("status", [502, 504])
async def test_E1_edge_that_answers_for_a_dead_owner_is_a_lost_call_in_json(
    status: int, shared: tuple[Site, Fleet], http: httpx2.AsyncClient
) -> None:
    place, fleet = shared

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        page = b"<html>Bad Gateway</html>"
        writer.write(b"HTTP/1.1 %d No\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % (status, len(page)))
        writer.write(page)

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        place.name_owner("edge", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        reply = await stranger_to(fleet, http, "edge").call("stock_nothing", id=9)

    assert (reply.outcome, reply.answer.type) == ("502 owner_lost", JSON)
    assert reply.answer.message["id"] == 9
