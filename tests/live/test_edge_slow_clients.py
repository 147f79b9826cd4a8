"""Many clients that do nothing, and one that works, on each edge (D3, D4, T7)."""

from __future__ import annotations

import contextlib
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.live.edges import CONFIGS, POST, Edge, running
from tests.live.stub_server import StubServer
from tests.live.test_edges import EVENTS, SMOOTH, stream

pytestmark = pytest.mark.xdist_group("edges")

IDLE = 500
PATIENT = {
    "nginx": {
        "client_header_timeout 10s": "client_header_timeout 600s",
        "client_body_timeout 10s": "client_body_timeout 600s",
    },
    "caddy": {"read_header 10s": "read_header 600s", "read_body 30s": "read_body 600s"},
}
"""Limits that cut none of them while the test looks: harder for the edge than its own."""

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""What an HTTP/2 client says first, with empty settings."""
UNFINISHED = {
    "headers": (["http/1.1"], POST + b"X-Slow: "),
    "body": (["http/1.1"], POST + b"Content-Length: 1000\r\n\r\nx"),
    "http/2": (["h2"], PREFACE),
}


@pytest.fixture(autouse=True)
def _many_files() -> Iterator[None]:
    """Let this process have a connection for each of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard > 0 else soft, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def idle(edge: Edge, stack: ExitStack) -> list[socket.socket]:
    """Open connections that stop at every stage: before TLS, in the headers, in the body, in HTTP/2."""
    opened: list[socket.socket] = []
    while len(opened) < IDLE:
        opened.append(stack.enter_context(socket.create_connection(("127.0.0.1", edge.public))))
        for protocols, beginning in UNFINISHED.values():
            connection = stack.enter_context(edge.connect(protocols))
            connection.sendall(beginning)
            opened.append(connection)
    return opened


def held(connections: list[socket.socket]) -> int:
    """Return how many of them the edge still holds."""
    count = 0
    for connection in connections:
        connection.setblocking(False)
        try:
            # HTTP/2 begins with settings of the edge.
            while connection.recv(65536):
                pass
        except BlockingIOError:
            count += 1
        except OSError as error:
            count += "did not complete" in str(error)  # how TLS says that it would block
    return count


@pytest.mark.parametrize("name", CONFIGS)
def test_D3_D4_idle_clients_do_not_stop_a_good_one(name: str) -> None:
    with StubServer() as stub, running(name, stub.port, edits=PATIENT[name]) as edge, ExitStack() as stack:
        connections = idle(edge, stack)

        received = stream(edge, {"events": EVENTS})
        after = held(connections)

    assert after == len(connections) >= IDLE
    assert len(received.arrived) == EVENTS
    assert received.spread >= SMOOTH
    assert len(stub.received) == 1


def test_D3_measurement_notices_an_edge_with_too_few_places() -> None:
    edits = PATIENT["nginx"] | {"worker_connections 4096": "worker_connections 64"}

    with StubServer() as stub, running("nginx", stub.port, edits=edits) as edge, ExitStack() as stack:
        connections: list[socket.socket] = []
        with contextlib.suppress(OSError):
            connections = idle(edge, stack)

        assert held(connections) < IDLE
