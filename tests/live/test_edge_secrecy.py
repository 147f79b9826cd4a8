"""Nothing of a request is said by an edge, whatever goes wrong with it (O2)."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from cryptography.x509.oid import NameOID

from tests.live.authority import Authority
from tests.live.edges import CONFIGS, POST, Edge, running
from tests.live.stub_server import DEADLINE, StubServer
from tests.live.test_edge_configs import examples
from tests.live.test_edges import HASTY
from tests.support.ports import free_port

pytestmark = pytest.mark.xdist_group("edges")

CANARY = "canary-93b4"
TOLD = [("Authorization", f"Bearer {CANARY}"), ("Cookie", CANARY), ("X-Api-Key", CANARY), (f"X-{CANARY}", "1")]
TARGET = f"/mcp?token={CANARY}"
HEAD = f"Host: localhost\r\nAuthorization: {CANARY}\r\nReferer: https://{CANARY}/\r\n".encode()
SUBJECT = [(NameOID.COMMON_NAME, CANARY)]
LARGE = CANARY.encode() * 200_000
"""More than an edge takes."""


@pytest.fixture(scope="module")
def stub() -> Iterator[StubServer]:
    with StubServer() as server:
        yield server


@pytest.fixture(params=CONFIGS)
def edge(request: pytest.FixtureRequest, stub: StubServer) -> Iterator[Edge]:
    """An edge that gives slow clients one second instead of many."""
    with running(request.param, stub.port, edits=HASTY[request.param]) as started:
        yield started


def raw(request: bytes) -> Callable[[Edge], object]:
    """Send bytes over TLS, and read whatever comes back."""
    return lambda edge: edge.exchange(request)


def plain(data: bytes) -> Callable[[Edge], object]:
    """Send bytes without TLS to the TLS port."""

    def send(edge: Edge) -> None:
        with socket.create_connection(("127.0.0.1", edge.public), DEADLINE) as connection:
            connection.sendall(data)
            while connection.recv(65536):
                pass

    return send


def strange_name(edge: Edge) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", edge.public), DEADLINE) as connection,
        context.wrap_socket(connection, server_hostname=f"{CANARY}.example.com") as tls,
    ):
        tls.sendall(b"GET " + TARGET.encode() + b" HTTP/1.0\r\nHost: " + CANARY.encode() + b"\r\n\r\n")
        while tls.recv(65536):
            pass


def over_http2(edge: Edge) -> None:
    command = ["curl", "--silent", "--http2", "--cacert", str(edge.certificate), "--max-time", "10", "--noproxy", "*"]
    headers = [part for name, value in TOLD for part in ("--header", f"{name}: {value}")]
    for path, body in ((TARGET, CANARY.encode()), (f"/other?{CANARY}", b""), (TARGET, LARGE)):
        url = f"https://localhost:{edge.public}{path}"
        subprocess.run(
            [*command, *headers, "--data-binary", "@-", url],
            input=body,
            capture_output=True,
            timeout=DEADLINE,
            check=False,
        )


def abandoned(edge: Edge) -> None:
    with edge.open("POST", TARGET, headers=TOLD, body=b'{"events": 1000, "x": "%b"}' % CANARY.encode()) as response:
        response.read1(1)


MISHAPS: dict[str, Callable[[Edge], object]] = {
    "none": lambda edge: edge.request("POST", TARGET, headers=TOLD, body=CANARY.encode()),
    "a query in the path": lambda edge: edge.request("POST", f"/mcp%3Ftoken={CANARY}", headers=TOLD, body=b""),
    "another route": lambda edge: edge.request("GET", f"/other?{CANARY}", headers=TOLD),
    "a body too large": lambda edge: edge.request("POST", TARGET, headers=TOLD, body=LARGE),
    "a chunked body too large": raw(
        b"POST %b HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
        % (TARGET.encode(), HEAD, len(LARGE), LARGE)
    ),
    "a body too slow": raw(b"POST %b HTTP/1.1\r\n%bContent-Length: 99\r\n\r\ncanary" % (TARGET.encode(), HEAD)),
    "headers too slow": raw(b"POST %b HTTP/1.1\r\n%bX-Slow: " % (TARGET.encode(), HEAD)),
    "headers too large": raw(b"POST %b HTTP/1.1\r\n%bX-A: %b\r\n\r\n" % (TARGET.encode(), HEAD, LARGE[:70_000])),
    "a target too large": raw(b"GET /mcp?%b HTTP/1.1\r\n%b\r\n" % (LARGE[:70_000], HEAD)),
    "no version": raw(b"GET %b HTTP/9.%b\r\n%b\r\n" % (TARGET.encode(), CANARY.encode(), HEAD)),
    "no HTTP": raw(b"%b\r\n\r\n" % CANARY.encode()),
    "a header with a null": raw(b"GET %b HTTP/1.1\r\n%bX-A: \0%b\r\n\r\n" % (TARGET.encode(), HEAD, CANARY.encode())),
    "a header name with a blank": raw(b"GET /mcp HTTP/1.1\r\n%b%b x: 1\r\n\r\n" % (HEAD, CANARY.encode())),
    "a length that is none": raw(b"POST /mcp HTTP/1.1\r\n%bContent-Length: %b\r\n\r\n" % (HEAD, CANARY.encode())),
    "a chunk that is none": raw(
        b"POST /mcp HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n%b\r\n" % (HEAD, CANARY.encode())
    ),
    "an encoding that is none": raw(POST + HEAD + b"Transfer-Encoding: %b\r\n\r\n" % CANARY.encode()),
    "an expectation": raw(POST + HEAD + b"Expect: %b\r\nContent-Length: 1\r\n\r\nx" % CANARY.encode()),
    "two hosts": raw(b"GET /mcp HTTP/1.1\r\nHost: %b\r\nHost: b\r\nConnection: close\r\n\r\n" % CANARY.encode()),
    "a host that is none": raw(b"GET /mcp HTTP/1.1\r\nHost: %b/@\r\nConnection: close\r\n\r\n" % CANARY.encode()),
    "an address as target": raw(
        b"GET https://u:%b@localhost/mcp?%b HTTP/1.1\r\n%bConnection: close\r\n\r\n"
        % (CANARY.encode(), CANARY.encode(), HEAD)
    ),
    "a tunnel": raw(b"CONNECT %b:443 HTTP/1.1\r\n%bConnection: close\r\n\r\n" % (CANARY.encode(), HEAD)),
    "no TLS": plain(b"GET %b HTTP/1.0\r\n%b\r\n" % (TARGET.encode(), HEAD)),
    "bad TLS": plain(b"\x16\x03\x01\x00\x20" + CANARY.encode().ljust(32)),
    "a strange name in TLS": strange_name,
    "HTTP/2": over_http2,
    "a client that leaves": abandoned,
}


NONSENSE = [
    b"",
    CANARY.encode() + b"\r\n\r\n",
    b"HTTP/1.1 %b\r\n\r\n" % CANARY.encode(),
    b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % CANARY.encode(),
    b"HTTP/1.1 200 OK\r\nContent-Length: %b\r\n\r\n" % CANARY.encode(),
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%b\r\n" % CANARY.encode(),
]
"""Answers that are none."""


def assert_silent(edge: Edge) -> None:
    """Assert that the edge has said nothing, once all it had to say is said, and that its lines are JSON."""
    answer = edge.request("GET", "/mcp")
    edge.access_line(answer.values("X-Request-ID")[0])
    said = edge.output.read_text()
    assert CANARY not in said
    assert [json.loads(line)["event"] for line in said.splitlines() if line.startswith("{")]


def test_O2_whatever_goes_wrong_with_a_request_nothing_of_it_is_said(edge: Edge) -> None:
    for mishap in MISHAPS.values():
        with contextlib.suppress(OSError):
            mishap(edge)

    assert_silent(edge)
    lines = [json.loads(line) for line in edge.output.read_text().splitlines() if "request_id" in line]
    assert {line["status"] for line in lines} >= {200, 404, 413}


@pytest.mark.parametrize("name", CONFIGS)
def test_O2_server_that_is_gone_or_talks_nonsense_is_not_quoted(name: str) -> None:
    port = free_port()
    with running(name, port) as edge, ExitStack() as stack:
        gone = edge.request("POST", TARGET, headers=TOLD, body=CANARY.encode())
        listener = stack.enter_context(socket.create_server(("127.0.0.1", port)))
        for number, nonsense in enumerate(NONSENSE):
            connection = stack.enter_context(edge.connect())
            head = HEAD + b"X-Request-ID: nonsense-%d\r\nContent-Length: 0\r\n\r\n" % number
            connection.sendall(b"POST %b HTTP/1.1\r\n%b" % (TARGET.encode(), head))
            server, _ = listener.accept()
            server.recv(65536)
            server.sendall(nonsense)
            server.close()
            edge.access_line(f"nonsense-{number}")

        assert gone.status == 502
        assert CANARY not in edge.output.read_text()


def test_O2_full_disk_of_nginx_is_not_told_with_the_request(stub: StubServer) -> None:
    with running("nginx", stub.port) as edge:
        # What a full disk looks like to it: a body that cannot be written.
        shutil.rmtree(edge.folder / "scratch" / "nginx-client-body")
        answer = edge.request("POST", TARGET, headers=TOLD, body=b"x" * 900_000)
        line = edge.access_line(answer.values("X-Request-ID")[0])

        assert (answer.status, line["status"]) == (500, 500)
        assert_silent(edge)


@pytest.mark.parametrize("name", CONFIGS)
def test_O2_certificates_are_not_told(name: str, stub: StubServer, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    strangers = [None, Authority(tmp_path, "others").issue(SUBJECT), authority.issue(SUBJECT)]

    with running(name, stub.port, drop_ins=examples(name, "clients"), client_ca=authority.file) as edge:
        for identity in strangers:
            with contextlib.suppress(OSError):
                edge.request("POST", TARGET, headers=TOLD, body=b"", on=edge.connect(identity=identity))
        answer = edge.request("GET", "/mcp", on=edge.connect(identity=authority.issue(SUBJECT)))
        edge.access_line(answer.values("X-Request-ID")[0])

        assert CANARY not in edge.output.read_text()
