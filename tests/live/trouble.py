"""Trouble on demand: clients that call again and again, services that fail, servers that are killed."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any, Final

import httpx2

from tests.live.curl import STATELESS, Conversation
from tests.live.project import DEADLINE, Project, ServerProcess
from tests.support.ports import free_port

PAUSE: Final = 0.1
"""Seconds between two calls of one client."""

Arguments = Mapping[str, Any]


@dataclass(frozen=True)
class Habit:
    """What a client calls again and again.

    Args:
        tool: The tool.
        bad: Arguments that make trouble.
        good: Those of better days; without any it falls silent then.
    """

    tool: str
    bad: Arguments
    good: Arguments | None = None


class Clients:
    """Clients of one server, a thread each; they are well-behaved until told otherwise."""

    def __init__(self, url: str) -> None:
        self._conversation = Conversation(url, STATELESS)
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self.bad = False

    def start(self, habit: Habit) -> None:
        """Let another client come."""
        self._threads.append(threading.Thread(target=self._run, args=(habit,), daemon=True))
        self._threads[-1].start()

    def _run(self, habit: Habit) -> None:
        with httpx2.Client(timeout=DEADLINE, trust_env=False) as http:
            while not self._over.wait(PAUSE):
                arguments = habit.bad if self.bad else habit.good
                if arguments is not None:
                    self._call(http, habit.tool, arguments)

    def _call(self, http: httpx2.Client, tool: str, arguments: Arguments) -> None:
        given = {"name": tool, "arguments": dict(arguments), "_meta": {"progressToken": "p"}}
        headers, body = self._conversation.message("tools/call", given)
        # A server that was killed answers nothing.
        with suppress(httpx2.TransportError):
            http.post(self._conversation.url, content=body, headers=headers)

    def leave(self) -> None:
        """Let all of them go."""
        self._over.set()
        for thread in self._threads:
            thread.join(DEADLINE)


class Peer(ThreadingHTTPServer):
    """Two services that tools depend on: told to fail, one fails always, one every third time."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.bad = False
        self.calls = count()

    @property
    def url(self) -> str:
        """Where they listen."""
        return f"http://127.0.0.1:{self.server_port}"


class _Answers(BaseHTTPRequestHandler):
    server: Peer

    def do_POST(self) -> None:
        fails = self.server.bad and (self.path == "/partner" or next(self.server.calls) % 3 == 0)
        self.send_response(500 if fails else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


@contextmanager
def peer() -> Iterator[Peer]:
    """Run the services."""
    with Peer() as services:
        thread = threading.Thread(target=services.serve_forever, daemon=True)
        thread.start()
        yield services
        services.shutdown()
        thread.join(DEADLINE)


class Replica:
    """A server on a port that stays its own when it is killed and started again.

    Args:
        project: Whose server.
        given: Variables.
        mute: Whether nothing can be written to its output.
    """

    def __init__(self, project: Project, given: Mapping[str, str] | None = None, *, mute: bool = False) -> None:
        self.target = f"127.0.0.1:{free_port()}"
        self.url = f"http://{self.target}/mcp"
        self._project = project
        self._given = {"MCP_PORT": self.target.partition(":")[2], **(given or {})}
        self._command = ("sh", "-c", 'exec "$@" >/dev/full', "sh", str(project.command)) if mute else None
        self.process = self._started()

    def _started(self) -> ServerProcess:
        return ServerProcess(self._project, given=self._given, command=self._command)

    def answers(self) -> bool:
        """Tell whether its numbers can be read."""
        try:
            return bool(self.numbers())
        except httpx2.TransportError:
            return False

    def numbers(self) -> str:
        """Return what it says about itself."""
        return httpx2.get(f"http://{self.target}/metrics", trust_env=False).raise_for_status().text

    def stop(self) -> None:
        """End it."""
        with self.process:
            pass

    def start_again(self) -> None:
        """Start it where it was."""
        self.process = self._started()
