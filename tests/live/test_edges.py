"""Both edges as real programs in front of a stub: streams, slow clients, where they run (T1, T4, T8, D3, D4)."""

import contextlib
import json
import os
import re
import signal
import socket
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.live.edges import CONFIGS, FLUSH, POST, Edge, Headers, render, running
from tests.live.stub_server import DEADLINE, StubServer

pytestmark = pytest.mark.xdist_group("edges")

EVENTS = 8
SMOOTH = 0.8
"""Share of the time between the first and the last event as sent that is left between them as received (D3, D4)."""

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
STOP = {"nginx": signal.SIGQUIT, "caddy": signal.SIGTERM}
"""What asks for a stop without haste; nginx takes SIGTERM for haste. The image of nginx says SIGQUIT by itself."""

HASTY = {
    "nginx": {
        "client_header_timeout 10s": "client_header_timeout 1s",
        "client_body_timeout 10s": "client_body_timeout 1s",
        "send_timeout 60s": "send_timeout 1s",
    },
    "caddy": {
        "read_header 10s": "read_header 1s",
        "read_body 30s": "read_body 1s",
        "write_idle 60s": "write_idle 1s",
    },
}


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


def stream(edge: Edge, wish: dict[str, float], headers: Headers = (), *, port: int = 0) -> Stream:
    """Receive an event stream and note when each event was there to be read."""
    accept = [("Accept", "text/event-stream"), *headers]
    sent, arrived, rest = [], [], b""
    body = json.dumps(wish).encode()
    with edge.open("POST", "/mcp", headers=accept, body=body, on=edge.connect(port=port)) as response:
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


def test_D3_D4_buffering_is_off_on_mcp_alone(tmp_path: Path) -> None:
    folder = render(tmp_path)
    nginx, caddy = ((folder / config).read_text() for config in CONFIGS.values())

    locations = re.findall(r"location = (\S+) \{([^}]*)\}", nginx)
    handles = re.findall(r"handle (\S+) \{\s*import server( \{\s*flush_interval -1)?", caddy)

    # The public listener's, and the replicas'.
    assert [path for path, body in locations if "proxy_buffering off;" in body] == ["/mcp", "/mcp"]
    assert nginx.count("proxy_buffering") == 2
    assert [matcher for matcher, unbuffered in handles if unbuffered] == ["@mcp", "@mcp"]
    assert caddy.count("flush_interval") == 2
    assert len(locations) > 2
    assert len(handles) > 2


@pytest.mark.parametrize("listener", ["public", "peers"])
def test_T4_each_listener_with_sessions_streams(listener: str, edge: Edge) -> None:
    port = {"public": edge.public, "peers": edge.peers}[listener]

    received = stream(edge, {"events": EVENTS}, port=port)

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


@pytest.mark.parametrize("wish", ["silence", "delay"])
def test_T4_server_learns_at_once_that_the_client_left(wish: str, edge: Edge, stub: StubServer) -> None:
    stub.abandoned.clear()
    before = len(stub.received)
    body = json.dumps({wish: DEADLINE}).encode()

    with edge.connect() as connection:
        connection.sendall(POST + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        stub.wait_for(before + 1)
        if wish == "silence":
            assert connection.recv(1024).startswith(b"HTTP/1.1 200")

    assert stub.abandoned.wait(DEADLINE / 4)


@pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
def test_D3_D4_clients_may_speak_either_version(protocol: str, edge: Edge) -> None:
    with edge.connect([protocol]) as connection:
        assert connection.selected_alpn_protocol() == protocol
        assert connection.version() in {"TLSv1.2", "TLSv1.3"}


def test_D3_D4_server_is_spoken_to_plainly_in_http_1_1_over_kept_connections(edge: Edge, stub: StubServer) -> None:
    before = len(stub.received)

    for _ in range(3):
        assert edge.request("POST", "/mcp", headers=[("Accept-Encoding", "gzip")], body=b"").status == 200

    calls = stub.received[before:]
    assert {call.version for call in calls} == {"HTTP/1.1"}
    assert [call.values("Connection") + call.values("Accept-Encoding") for call in calls] == [[], [], []]
    assert len({call.connection for call in calls}) == 1


@pytest.mark.parametrize("name", STOP)
def test_S4_edge_that_is_told_to_stop_lets_open_streams_end(name: str, stub: StubServer) -> None:
    body = json.dumps({"events": EVENTS}).encode()

    with running(name, stub.port) as edge, edge.open("POST", "/mcp", body=body) as response:
        received = response.read1(65536)
        os.kill(edge.pid, STOP[name])
        received += response.read()

        assert received.count(b"data: ") == EVENTS
        with pytest.raises(OSError):  # noqa: PT011 - refused, reset or closed in the handshake
            edge.connect()


# --- slow clients ---------------------------------------------------------------------------------------------------


def trickle(connection: socket.socket, data: bytes) -> bool:
    """Send a byte now and then; return whether the edge had enough before the end."""
    connection.settimeout(0.1)
    for byte in data:
        with contextlib.suppress(TimeoutError):
            if connection.recv(1024) == b"":
                return True
        try:
            connection.send(bytes([byte]))
        except OSError:
            return True
    return False


def test_D3_D4_client_that_trickles_headers_is_cut(hasty: Edge) -> None:
    with hasty.connect() as connection:
        assert trickle(connection, POST + b"X-Slow: " + b"x" * 20)


def test_D3_D4_client_that_stops_reading_is_cut(hasty: Edge, stub: StubServer) -> None:
    stub.abandoned.clear()

    with hasty.connect() as connection:
        connection.sendall(POST + b"Content-Length: 14\r\n\r\n" + b'{"flood":true}')

        assert stub.abandoned.wait(DEADLINE)


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


# --- the ground -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nginx", "caddy"])
def test_D3_D4_edge_runs_unprivileged_on_a_read_only_root(name: str, stub: StubServer) -> None:
    with running(name, stub.port, read_only_root=True) as edge:
        # Larger than nginx's buffer: the body takes the way over the disk.
        answer = edge.request("POST", "/mcp", body=b"x" * 1_000_000)

    assert answer.status == 200
