"""What the proof of secrecy needs: a project with leaky tools, what stands around it, and what must not be said."""

from __future__ import annotations

import functools
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from tests.live.project import DEADLINE, Line, Project, folder
from tests.render.support import by_copier, succeed

MARK: Final = "kanari"
"""Every canary holds it, in letters that no encoding of a line, a URL or a span changes."""
_LEAKS: Final = Path(__file__).parent / "additions" / "leaks" / "leaks.py"

OF_THE_CLIENT: Final = ("client_name", "client_version", "protocol_version", "mcp_request_id", "session_id")
"""Fields of a line that are declared to hold a client's words, cut short; no argument is among them."""

CANARIES: Final[dict[str, str]] = {
    "plain": MARK,
    "unicode": f"Zürich-鳥-{MARK}-\U0001f424",
    "lines": f'\r\n{{"event": "{MARK}"}}\x00\x1b[31m{MARK}',
    "format": f"%s{{0}}%(name)s%d{MARK}",
    "huge": MARK * 5_000,
    "url": f"https://user:{MARK}@example.com/{MARK}?token={MARK}#{MARK}",
    "secret": f"Bearer mcp_{MARK}_0123456789abcdef",
    "path": f"/home/{MARK}/../../etc/passwd",
    "sql": f"'; DROP TABLE {MARK}; --",
    "empty at first": f"{' ' * 600}{MARK}",
}
DATA: Final[dict[str, Any]] = {MARK: [{MARK: {"deep": [MARK, 10**30, 1.5, None, {f"ключ-{MARK}": MARK}]}}]}
"""Nested, and with canaries as names."""


@functools.cache
def leaky_project() -> Project:
    """Return a project with a database, tracing and tools that leak; nobody may change it."""
    target = folder() / "project"
    shutil.copytree(by_copier((("database", "postgres"),)), target)
    declared = target / "pyproject.toml"
    text = declared.read_text(encoding="utf-8")
    declared.write_text(text.replace("mcp-chassis[postgres]", "mcp-chassis[postgres,tracing]"), encoding="utf-8")
    project = Project(target, "acme-notes")
    shutil.copy(_LEAKS, project.source / "tools")
    succeed("uv", "sync", "--quiet", "--no-dev", cwd=target)
    return project


class Elsewhere(ThreadingHTTPServer):
    """A service that tools call, and the collector of spans; it keeps all that it is sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.spans: list[bytes] = []
        self.holding = threading.Semaphore(0)
        self.release = threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that left."""


class _Handler(BaseHTTPRequestHandler):
    server: Elsewhere
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if self.path == "/v1/traces":
            self.server.spans.append(body)
            self._answer(200, b"")
            return
        self.server.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        if self.path == "/hold":
            self.server.holding.release()
            self.server.release.wait(DEADLINE)
        self._answer(500 if self.path.startswith("/fail") else 200, MARK.encode() + body)

    do_GET = do_POST  # noqa: N815

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def elsewhere() -> Iterator[Elsewhere]:
    """Run it for as long as the context lasts."""
    server = Elsewhere()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.release.set()
        server.shutdown()
        server.server_close()


def about_the_call(line: Line) -> Line:
    """Return a line without what is declared to be the client's own words."""
    return {name: value for name, value in line.items() if name not in OF_THE_CLIENT}
