"""Both edges as real programs in front of a stub: streaming, routes, ids, limits, logs (T1, T4, D3, D4, O2)."""

import contextlib
import json
import os
import socket
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.live.edges import Edge, Headers, free_port, running
from tests.live.stub_server import DEADLINE, StubServer

EVENTS = 8
SMOOTH = 0.8
"""Share of the time between the first and the last event as sent that is left between them as received (D3, D4)."""

FLUSH = "flush_interval -1"
BUFFERING = {
    "nginx buffers": ("nginx", {"proxy_buffering off;": "proxy_buffering on;"}),
    "nginx buffers and compresses": (
        "nginx",
        {"proxy_buffering off;": "", "gzip off;": "gzip on; gzip_types *; gzip_min_length 0;"},
    ),
    "caddy buffers": ("caddy", {FLUSH: "response_buffers 1MiB"}),
}
COMPRESSING = {
    "nginx": ("team.http.conf", "gzip on; gzip_types *; gzip_min_length 0; proxy_buffering on;"),
    "caddy": ("team.public.caddy", "encode gzip"),
}
HASTY = {
    "nginx": {"client_header_timeout 10s": "client_header_timeout 1s", "client_body_timeout 10s": "client_body_timeout 1s"}
    | {"send_timeout 60s": "send_timeout 1s"},
    "caddy": {"read_header 10s": "read_header 1s", "read_body_idle 10s": "read_body_idle 1s"}
    | {"write_idle 60s": "write_idle 1s"},
}
POST = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def stub() -> Iterator[StubServer]:
    with StubServer() as server:
        yield server


@pytest.fixture(scope="module", params=["nginx", "caddy"])
def edge(request: pytest.FixtureRequest, stub: StubServer) -> Iterator[Edge]:
    with running(request.param, stub.port) as started:
        yield started


@pytest.fixture(scope="module", params=["nginx", "caddy"])
def hasty(request: pytest.FixtureRequest, stub: StubServer) -> Iterator[Edge]:
    """An edge that gives slow clients one second instead of many."""
    with running(request.param, stub.port, edits=HASTY[request.param]) as started:
        yield started


@dataclass(frozen=True)
class Stream:
    status: int
    version: int
    headers: dict[str, str]
    sent: list[float]
    arrived: list[float]

    @property
    def spread(self) -> float:
        return (self.arrived[-1] - self.arrived[0]) / (self.sent[-1] - self.sent[0])


def stream(edge: Edge, wish: dict[str, float], headers: Headers = ()) -> Stream:
    """Receive an event stream and note when each event was there to be read."""
    accept = [("Accept", "text/event-stream"), *headers]
    sent, arrived, rest = [], [], b""
    with edge.open("POST", "/mcp", headers=accept, body=json.dumps(wish).encode()) as response:
        gzip = zlib.decompressobj(wbits=31) if response.getheader("Content-Encoding") == "gzip" else None
        while part := response.read1(65536):
            now = time.monotonic()
            *events, rest = (rest + (gzip.decompress(part) if gzip else part)).split(b"\n\n")
            arrived += [now] * len(events)
            sent += [float(event.removeprefix(b"data: ")) for event in events]
        names = {name.lower(): value for name, value in response.getheaders()}
        return Stream(response.status, response.version, names, sent, arrived)


# --- streaming ---------------------------------------------------------------------------------------------------


def test_T4_events_arrive_one_by_one_through_the_edge(edge: Edge) -> None:
    received = stream(edge, {"events": EVENTS})

    assert len(received.arrived) == EVENTS
    assert received.spread >= SMOOTH


@pytest.mark.parametrize("fault", BUFFERING)
def test_T4_measurement_notices_an_edge_that_buffers(fault: str, stub: StubServer) -> None:
    name, edits = BUFFERING[fault]

    with running(name, stub.port, edits=edits) as edge:
        received = stream(edge, {"events": EVENTS}, [("Accept-Encoding", "gzip")])

    assert len(received.arrived) == EVENTS
    assert received.spread < SMOOTH


@pytest.mark.parametrize("name", COMPRESSING)
def test_T4_drop_ins_that_compress_and_buffer_leave_the_stream_alone(name: str, stub: StubServer) -> None:
    file_name, text = COMPRESSING[name]

    with running(name, stub.port, drop_ins={file_name: text}) as edge:
        received = stream(edge, {"events": EVENTS}, [("Accept-Encoding", "gzip")])

    assert "content-encoding" not in received.headers
    assert received.spread >= SMOOTH


def test_T1_stream_keeps_its_head_through_the_edge(edge: Edge) -> None:
    received = stream(edge, {"events": 1})

    assert (received.status, received.version) == (200, 11)
    assert received.headers["content-type"] == "text/event-stream"
    assert received.headers["cache-control"] == "no-cache"
    assert received.headers["connection"] == "keep-alive"
    assert "content-length" not in received.headers


def test_T8_limits_for_slow_clients_do_not_cut_a_silent_stream(hasty: Edge) -> None:
    received = stream(hasty, {"silence": 2.5})

    assert len(received.arrived) == 2


@pytest.mark.parametrize("wish", [{"silence": DEADLINE}, {"delay": DEADLINE}])
def test_T4_server_learns_at_once_that_the_client_left(wish: dict[str, float], edge: Edge, stub: StubServer) -> None:
    stub.abandoned.clear()
    before = len(stub.received)
    body = json.dumps(wish).encode()

    with edge.connect() as connection:
        connection.sendall(POST + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        stub.wait_for(before + 1)

    assert stub.abandoned.wait(DEADLINE / 4)


@pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
def test_D3_D4_clients_may_speak_either_version(protocol: str, edge: Edge) -> None:
    with edge.connect([protocol]) as connection:
        assert connection.selected_alpn_protocol() == protocol
        assert connection.version() in {"TLSv1.2", "TLSv1.3"}


def test_D3_D4_server_is_spoken_to_in_http_1_1_over_kept_connections(edge: Edge, stub: StubServer) -> None:
    before = len(stub.received)

    for _ in range(3):
        assert edge.request("POST", "/mcp", body=b"").status == 200

    calls = stub.received[before:]
    assert {call.version for call in calls} == {"HTTP/1.1"}
    assert len({call.connection for call in calls}) == 1


# --- routes ------------------------------------------------------------------------------------------------------

METADATA = "/.well-known/oauth-protected-resource"
INTERNAL = ["/health", "/health/live", "/health/ready", "/metrics"]


@pytest.mark.parametrize("path", ["/mcp", "/mcp?a=b", METADATA, f"{METADATA}/mcp"])
def test_D3_D4_public_routes_reach_the_server_as_they_are(path: str, edge: Edge) -> None:
    answer = edge.request("GET", path)

    assert answer.status == 200
    assert json.loads(answer.body)["target"] == path


@pytest.mark.parametrize(
    "path",
    [
        *INTERNAL,
        *("/", "/mcp/", "/mcp/x", "/MCP", "/mcp%2f", "/mcp%00", "/mcp/../metrics", "/mcp/..%2fmetrics", "//metrics"),
        *("/mcp%3f/../metrics", "/mcp;/../metrics", f"{METADATA}/", f"{METADATA}/other", "/.well-known/"),
    ],
)
def test_D3_D4_everything_else_is_not_found_and_never_reaches_the_server(
    path: str, edge: Edge, stub: StubServer
) -> None:
    before = len(stub.received)

    answer = edge.request("GET", path)

    assert answer.status in {400, 404}
    assert len(stub.received) == before


@pytest.mark.parametrize("path", INTERNAL)
def test_D3_D4_internal_listener_serves_probes_and_metrics(path: str, edge: Edge) -> None:
    answer = edge.request("GET", path, internal=True)

    assert answer.status == 200
    assert json.loads(answer.body)["target"] == path
    assert answer.seen("X-Forwarded-Proto") == ["http"]


@pytest.mark.parametrize("path", ["/mcp", METADATA, "/", "/health/", "/metrics/x"])
def test_D3_D4_internal_listener_serves_nothing_else(path: str, edge: Edge) -> None:
    assert edge.request("GET", path, internal=True).status == 404


# --- headers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["abcdefgh", "0123-4567.ab_CD", "a" * 128])
def test_O3_well_formed_request_id_is_kept(given: str, edge: Edge) -> None:
    answer = edge.request("POST", "/mcp", headers=[("X-Request-ID", given)], body=b"")

    assert answer.seen("X-Request-ID") == answer.values("X-Request-ID") == [given]


@pytest.mark.parametrize("given", ["", "short", "a" * 129, "a b c d e f", 'abcdefgh"', "abcdefgh,abcdefgh", "abcdefgü"])
def test_O3_any_other_request_id_is_replaced(given: str, edge: Edge) -> None:
    answer = edge.request("POST", "/mcp", headers=[("X-Request-ID", given)], body=b"")

    minted = answer.values("X-Request-ID")
    assert answer.seen("X-Request-ID") == minted
    assert minted[0] != given
    assert 32 <= len(minted[0]) <= 36


def test_O3_each_request_gets_its_own_id_on_refusals_too(edge: Edge) -> None:
    answers = [edge.request("GET", path) for path in ("/mcp", "/mcp", "/metrics", "/metrics")]

    assert [len(answer.values("X-Request-ID")) for answer in answers] == [1, 1, 1, 1]
    assert len({answer.values("X-Request-ID")[0] for answer in answers}) == 4


@pytest.mark.parametrize("name", ["X-Client-Subject", "X-Peer-Assertion", "X-Forwarded-Host", "X-Forwarded-Port"])
@pytest.mark.parametrize("internal", [False, True])
def test_D3_D4_headers_that_only_an_edge_may_set_are_dropped(name: str, internal: bool, edge: Edge) -> None:
    path = "/health" if internal else "/mcp"
    spoofed = [(name, "mallory"), (name.lower(), "mallory"), ("X-Real-IP", "6.6.6.6"), ("Forwarded", "for=6.6.6.6")]

    answer = edge.request("GET", path, headers=spoofed, internal=internal)

    assert answer.seen(name) + answer.seen("X-Real-IP") + answer.seen("Forwarded") == []


@pytest.mark.parametrize("hop", ["close", "X-Forwarded-For, X-Forwarded-Proto, X-Request-ID, close"])
def test_D3_D4_client_address_is_the_tcp_peer(hop: str, edge: Edge) -> None:
    spoofed = [("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-Proto", "gopher"), ("Connection", hop)]

    answer = edge.request("POST", "/mcp", headers=spoofed, body=b"")

    assert answer.seen("X-Forwarded-For") == ["127.0.0.1"]
    assert answer.seen("X-Forwarded-Proto") == ["https"]
    assert answer.seen("X-Request-ID") == answer.values("X-Request-ID")


def test_D3_D4_host_reaches_the_server_with_its_port(edge: Edge) -> None:
    answer = edge.request("POST", "/mcp", headers=[("Host", "notes.example.com:8443")], body=b"")

    assert answer.seen("Host") == ["notes.example.com:8443"]


def test_D3_D4_trailers_are_no_way_around(edge: Edge, stub: StubServer) -> None:
    before = len(stub.received)
    head = POST + b"Connection: close\r\nTE: trailers\r\nTrailer: X-Client-Subject\r\nTransfer-Encoding: chunked\r\n\r\n"

    edge.exchange(head + b"1\r\nx\r\n0\r\nX-Client-Subject: mallory\r\n\r\n")

    assert stub.received[before].body == "x"
    assert stub.received[before].values("X-Client-Subject") == []


def test_D3_header_of_a_team_does_not_switch_the_others_off(stub: StubServer) -> None:
    drop_in = {"team.public.conf": "proxy_set_header X-Team notes; client_max_body_size 4m;"}

    with running("nginx", stub.port, drop_ins=drop_in) as edge:
        answer = edge.request("POST", "/mcp", headers=[("X-Client-Subject", "mallory")], body=b"x" * 2_000_000)

    assert answer.status == 200
    assert answer.seen("X-Team") == ["notes"]
    assert answer.seen("X-Client-Subject") == []


# --- limits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("size", "status"), [(1024 * 1024, 200), (1024 * 1024 + 1, 413)])
def test_D3_D4_body_is_limited_to_what_the_server_takes(
    size: int, status: int, chunked: bool, edge: Edge, stub: StubServer
) -> None:
    body = b"x" * size
    before = len(stub.received)

    if chunked:
        framed = b"%x\r\n%b\r\n0\r\n\r\n" % (size, body)
        answer = edge.request("POST", "/mcp", headers=[("Transfer-Encoding", "chunked")], body=framed)
    else:
        answer = edge.request("POST", "/mcp", body=body)

    assert answer.status == status
    assert len(stub.received) - before == (1 if status == 200 else 0)


@pytest.mark.parametrize(("size", "refused"), [(7_000, False), (64_000, True)])
def test_D3_D4_headers_are_limited(size: int, refused: bool, edge: Edge) -> None:
    answer = edge.request("POST", "/mcp", headers=[("X-Large", "x" * size)], body=b"")

    assert answer.status in ({400, 431} if refused else {200})


def trickle(connection: socket.socket, data: bytes) -> None:
    """Send a byte now and then until the edge has had enough."""
    connection.settimeout(0.1)
    for byte in data:
        with contextlib.suppress(TimeoutError):
            if connection.recv(1024) == b"":
                return
        connection.send(bytes([byte]))
    raise TimeoutError("the edge waited for the whole trickle")


def test_D3_D4_client_that_trickles_headers_is_cut(hasty: Edge) -> None:
    started = time.monotonic()

    with hasty.connect() as connection, contextlib.suppress(ConnectionError):
        trickle(connection, POST + b"X-Slow: " + b"x" * 100)

    assert 0.5 < time.monotonic() - started < 5


def test_D3_D4_client_that_stalls_in_the_body_is_cut_and_never_reaches_the_server(
    hasty: Edge, stub: StubServer
) -> None:
    before = len(stub.received)
    started = time.monotonic()

    with contextlib.suppress(ConnectionError):
        hasty.exchange(POST + b"Content-Length: 100\r\n\r\nx")

    assert 0.5 < time.monotonic() - started < 5
    assert len(stub.received) == before


def test_D3_D4_client_that_stays_silent_before_tls_is_cut(hasty: Edge) -> None:
    started = time.monotonic()

    with socket.create_connection(("127.0.0.1", hasty.public), DEADLINE) as connection:
        assert connection.recv(1) == b""

    assert 0.5 < time.monotonic() - started < 5


# --- logs and ground ---------------------------------------------------------------------------------------------

FIELDS = {"timestamp", "event", "method", "path", "status", "duration", "bytes", "request_id", "upstream_status"}
CANARY = "canary-5f1c"


@pytest.mark.parametrize(("path", "size", "status"), [("/mcp", 1, 200), ("/other", 1, 404), ("/mcp", 1_100_000, 413)])
def test_O2_access_log_has_the_fields_and_nothing_of_the_request(
    path: str, size: int, status: int, edge: Edge
) -> None:
    told = [("Authorization", CANARY), ("X-Api-Key", CANARY), ("User-Agent", CANARY), ("Referer", CANARY)]

    answer = edge.request("POST", f"{path}?token={CANARY}", headers=told, body=CANARY.encode() * size)

    line = edge.access_line(answer.values("X-Request-ID")[0])
    assert set(line) - {"level", "logger"} == FIELDS
    assert (line["method"], line["path"], line["status"]) == ("POST", path, status)
    assert CANARY not in edge.output.read_text()


@pytest.mark.parametrize("name", ["nginx", "caddy"])
def test_O2_error_lines_of_a_dead_server_quote_nothing_either(name: str) -> None:
    with running(name, free_port()) as edge:
        answer = edge.request("POST", f"/mcp?token={CANARY}", headers=[("X-Api-Key", CANARY)], body=b"")
        line = edge.access_line(answer.values("X-Request-ID")[0])
        output = edge.output.read_text()

    assert answer.status == line["status"] == 502
    assert CANARY not in output


@pytest.mark.parametrize("name", ["nginx", "caddy"])
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a root file system read-only")
def test_D3_D4_edge_runs_unprivileged_on_a_read_only_root(name: str, stub: StubServer) -> None:
    with running(name, stub.port, read_only_root=True) as edge:
        # Larger than nginx's buffer: the body takes the way over the disk.
        answer = edge.request("POST", "/mcp", body=b"x" * 1_000_000)

    assert answer.status == 200
