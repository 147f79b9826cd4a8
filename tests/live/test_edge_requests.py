"""What passes both edges and what does not: routes, headers, sizes, log lines (D3, D4, O2, O3)."""

import json
import socket
from collections.abc import Iterator

import pytest

from tests.live.edges import POST, Edge, running
from tests.live.stub_server import DEADLINE, StubServer
from tests.support.ports import free_port

pytestmark = pytest.mark.xdist_group("edges")


@pytest.fixture(scope="module")
def stub() -> Iterator[StubServer]:
    with StubServer() as server:
        yield server


@pytest.fixture(scope="module", params=["nginx", "caddy"])
def edge(request: pytest.FixtureRequest, stub: StubServer) -> Iterator[Edge]:
    with running(request.param, stub.port) as started:
        yield started


# --- routes ------------------------------------------------------------------------------------------------------

METADATA = "/.well-known/oauth-protected-resource"
INTERNAL = ["/health", "/health/live", "/health/ready", "/metrics"]
OWN = "/edge"


@pytest.mark.parametrize("path", ["/mcp", "/mcp?a=b", METADATA, f"{METADATA}/mcp"])
def test_D3_D4_public_routes_reach_the_server_as_they_are(path: str, edge: Edge) -> None:
    answer = edge.request("GET", path)

    assert answer.status == 200
    assert json.loads(answer.body)["target"] == path


@pytest.mark.parametrize(
    "path",
    [
        *INTERNAL,
        OWN,
        *(
            "/",
            "/mcp/",
            "/mcp/x",
            "/MCP",
            "/mcp%2f",
            "/mcp%00",
            "/mcp/../metrics",
            "/mcp/..%2fmetrics",
            "//metrics",
            "//mcp",
        ),
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


@pytest.mark.parametrize("name", ["nginx", "caddy"])
def test_D5_startup_probe_asks_the_edge_alone(name: str) -> None:
    with running(name, free_port()) as edge:
        answer = edge.request("GET", OWN, internal=True)

        assert (answer.status, answer.body) == (204, b"")
        assert edge.request("GET", "/health/ready", internal=True).status == 502


@pytest.mark.parametrize("path", [*INTERNAL, METADATA, "/", "/mcp/", "//mcp", OWN])
def test_S5_replicas_reach_nothing_but_sessions(path: str, edge: Edge, stub: StubServer) -> None:
    before = len(stub.received)

    assert edge.request("GET", path, on=edge.connect(port=edge.peers)).status == 404
    assert len(stub.received) == before


def test_S5_word_of_a_replica_passes_the_listener_of_replicas_alone(edge: Edge) -> None:
    told = [("X-Peer-Assertion", "a.b.c"), ("X-Client-Subject", "mallory"), ("X-Forwarded-For", "6.6.6.6")]

    public = edge.request("POST", "/mcp", headers=told, body=b"")
    peers = edge.request("POST", "/mcp?a=b", headers=told, body=b"", on=edge.connect(port=edge.peers))

    assert public.seen("X-Peer-Assertion") == []
    assert peers.seen("X-Peer-Assertion") == ["a.b.c"]
    assert json.loads(peers.body)["target"] == "/mcp?a=b"
    assert peers.seen("X-Client-Subject") == []
    assert peers.seen("X-Forwarded-For") == ["127.0.0.1"]
    assert peers.seen("X-Request-ID") == peers.values("X-Request-ID")


# --- headers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["a", "0123-4567.ab_CD", "a" * 128])
def test_O3_well_formed_request_id_is_kept(given: str, edge: Edge) -> None:
    answer = edge.request("POST", "/mcp", headers=[("X-Request-ID", given)], body=b"")

    assert answer.seen("X-Request-ID") == answer.values("X-Request-ID") == [given]


@pytest.mark.parametrize("given", ["", "a" * 129, "a b c d e f", 'abcdefgh"', "abcdefgh,abcdefgh", "abcdefgü"])
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
    head = (
        POST + b"Connection: close\r\nTE: trailers\r\nTrailer: X-Client-Subject\r\nTransfer-Encoding: chunked\r\n\r\n"
    )

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


# --- sizes ------------------------------------------------------------------------------------------------------


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


# --- log lines ---------------------------------------------------------------------------------------------

FIELDS = {
    "timestamp",
    "event",
    "port",
    "method",
    "path",
    "status",
    "duration",
    "bytes",
    "request_id",
    "upstream_status",
}
CANARY = "canary-5f1c"


@pytest.mark.parametrize(("path", "size", "status"), [("/mcp", 20, 200), ("/other", 20, 404), ("/mcp", 1_100_000, 413)])
def test_O2_access_log_has_the_fields_and_nothing_of_the_request(path: str, size: int, status: int, edge: Edge) -> None:
    told = [("Authorization", CANARY), ("X-Api-Key", CANARY), ("User-Agent", CANARY), ("Referer", CANARY)]

    answer = edge.request("POST", f"{path}?token={CANARY}", headers=told, body=CANARY.encode().ljust(size))

    line = edge.access_line(answer.values("X-Request-ID")[0])
    assert set(line) - {"level", "logger"} == FIELDS
    assert (line["port"], line["method"], line["path"], line["status"]) == (edge.public, "POST", path, status)
    assert CANARY not in edge.output.read_text()


@pytest.mark.parametrize("name", ["nginx", "caddy"])
def test_O2_error_lines_of_a_dead_server_quote_nothing_either(name: str) -> None:
    with running(name, free_port()) as edge:
        answer = edge.request("POST", f"/mcp?token={CANARY}", headers=[("X-Api-Key", CANARY)], body=b"")
        line = edge.access_line(answer.values("X-Request-ID")[0])
        output = edge.output.read_text()

    assert answer.status == line["status"] == 502
    assert CANARY not in output


# --- once ------------------------------------------------------------------------------------------------------


def received(listener: socket.socket) -> socket.socket:
    """Return a connection of the edge to the server, once a request is on it."""
    server, _ = listener.accept()
    server.settimeout(DEADLINE)
    assert server.recv(65536).startswith(b"POST /mcp ")
    return server


@pytest.mark.parametrize("name", ["nginx", "caddy"])
@pytest.mark.parametrize("kept", [False, True], ids=["new connection", "kept connection"])
def test_S4_edge_never_sends_a_call_twice(name: str, kept: bool) -> None:
    call = POST + b"Idempotency-Key: a\r\nContent-Length: 2\r\n\r\n{}"

    with (
        running(name, port := free_port()) as edge,
        edge.connect() as client,
        socket.create_server(("127.0.0.1", port)) as listener,
    ):
        listener.settimeout(DEADLINE)
        client.sendall(call)
        server = received(listener)
        if kept:
            server.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            client.recv(65536)
            client.sendall(call)
            assert server.recv(65536).startswith(b"POST /mcp ")
        server.close()  # dies in the middle of the call
        status = client.recv(65536).split()[1]
        listener.settimeout(0)

        assert status == b"502"
        with pytest.raises(BlockingIOError):
            listener.accept()
