"""A TLS server that gives out resources and misbehaves on demand, its authority, and a CONNECT proxy."""

from __future__ import annotations

import ipaddress
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DEADLINE: Final = 30.0
NAMES: Final = ("files.example.com", "mirror.example.com", "files.internal", "localhost", "127.0.0.1", "::1")
DAY: Final = timedelta(days=1)

Answer = Callable[[socket.socket, threading.Event], None]
"""Writes to a connection; the event says that the test is over."""


class Authority:
    """Signs the certificates of servers.

    Args:
        folder: Where they are kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Authority of the tests")])
        self.file = folder / "authority.pem"
        """What `SSL_CERT_FILE` names."""
        basic = x509.BasicConstraints(ca=True, path_length=0)
        own = self._begun(self._key, self._name).add_extension(basic, critical=True).sign(self._key, hashes.SHA256())
        self.file.write_bytes(own.public_bytes(serialization.Encoding.PEM))

    def _begun(self, key: ec.EllipticCurvePrivateKey, subject: x509.Name) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        certificate = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name)
        certificate = certificate.public_key(key.public_key()).serial_number(x509.random_serial_number())
        return certificate.not_valid_before(now - DAY).not_valid_after(now + DAY)

    def server(self, names: Sequence[str]) -> ssl.SSLContext:
        """Return what a server with a certificate for these names speaks."""
        key = ec.generate_private_key(ec.SECP256R1())
        found = [_general(name) for name in names]
        certificate = self._begun(key, x509.Name([])).add_extension(x509.SubjectAlternativeName(found), critical=True)
        file = self._folder / f"{names[0]}.pem"
        file.write_bytes(
            certificate.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


class _Threads(socketserver.ThreadingTCPServer):
    daemon_threads = True
    address_family = socket.AF_INET6
    allow_reuse_address = True
    request_queue_size = 50

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class Listener:
    """Something that listens on both loopback addresses."""

    def __init__(self) -> None:
        self.over = threading.Event()
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with suppress(OSError):
                    outer.talk(self.request)

        self._server = _Threads(("::", 0), Handler)
        self.port = int(self._server.server_address[1])

    def talk(self, connection: socket.socket) -> None:
        """Serve one connection."""
        raise NotImplementedError

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Serve until the context ends."""
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.over.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join(DEADLINE)


class Origin(Listener):
    """Gives out what it was told to, by path.

    Args:
        context: Its certificate; None speaks no TLS.
    """

    def __init__(self, context: ssl.SSLContext | None) -> None:
        super().__init__()
        self._context = context
        self.answers: dict[str, Answer] = {}
        self.heads: list[str] = []
        """The request line and the headers of each request."""

    def url(self, path: str, host: str = "localhost") -> str:
        """Return a URL of this server."""
        return f"https://{host}:{self.port}{path}"

    def put(self, path: str, body: bytes, **how: str) -> None:
        """Give out `body` under a path from now on."""
        self.answers[path] = reply(body, **how)

    def talk(self, connection: socket.socket) -> None:
        stream = connection if self._context is None else self._context.wrap_socket(connection, server_side=True)
        with stream:
            stream.settimeout(DEADLINE)
            head = b""
            while b"\r\n\r\n" not in head and head[:1] in b"G" and (more := stream.recv(65_536)):
                head += more
            if not head.startswith(b"GET "):
                stream.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                return
            self.heads.append(head.decode("latin-1"))
            path = head.split(b" ")[1].decode("latin-1")
            self.answers.get(path, reply(b"", status="404 Not Found"))(stream, self.over)


class Proxy(Listener):
    """A CONNECT proxy that brings every connection to one port.

    Args:
        port: Of the origin.
        refusing: Whether it says no.
    """

    def __init__(self, port: int, *, refusing: bool = False) -> None:
        super().__init__()
        self._port = port
        self._refusing = refusing
        self.asked: list[str] = []
        """What clients wanted to be connected to."""
        self.heads: list[str] = []

    @property
    def url(self) -> str:
        """What `HTTPS_PROXY` names."""
        return f"http://127.0.0.1:{self.port}"

    def talk(self, connection: socket.socket) -> None:
        head = connection.recv(65_536).decode("latin-1")
        self.heads.append(head)
        self.asked.append(head.split(" ")[1])
        if self._refusing:
            connection.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            return
        with socket.create_connection(("127.0.0.1", self._port), DEADLINE) as onward:
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            there = threading.Thread(target=_pass, args=(connection, onward), daemon=True)
            there.start()
            _pass(onward, connection)


def _pass(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def reply(
    body: bytes,
    *,
    status: str = "200 OK",
    kind: str = "application/json",
    length: str | None = None,
    more: str = "",
) -> Answer:
    """Return what answers with `body`; `more` are further header lines."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length or len(body)}\r\n{more}"

    def answer(stream: socket.socket, _over: threading.Event) -> None:
        stream.sendall(f"{head}Connection: close\r\n\r\n".encode("latin-1") + body)

    return answer


def redirect(target: str, status: str = "302 Found") -> Answer:
    """Return what sends a client elsewhere."""
    return reply(b"", status=status, more=f"Location: {target}\r\n")


def raw(text: bytes, *, stall: bool = False) -> Answer:
    """Return what writes bytes as they are, and then hangs up or falls silent."""

    def answer(stream: socket.socket, over: threading.Event) -> None:
        stream.sendall(text)
        if stall:
            over.wait(DEADLINE)

    return answer


def dripping(head: bytes, drop: bytes) -> Answer:
    """Return what writes a drop again and again, and never ends."""

    def answer(stream: socket.socket, over: threading.Event) -> None:
        stream.sendall(head)
        while not over.wait(0.02):
            stream.sendall(drop)

    return answer


def flooding(stream: socket.socket, over: threading.Event) -> None:
    """Answer with a body that has no end."""
    stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not over.is_set():
        stream.sendall(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
