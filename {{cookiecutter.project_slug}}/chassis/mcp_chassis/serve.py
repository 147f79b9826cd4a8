"""The process that serves HTTP: one socket on loopback, one worker, a clean exit (T5)."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Final

import uvicorn
from sse_starlette.sse import AppStatus

from mcp_chassis.app import build_app
from mcp_chassis.environment import ConfigurationError, Problem
from mcp_chassis.http.boundary import BoundedConnection, bounded_connection
from mcp_chassis.http.draining import Drain
from mcp_chassis.server import Server
from mcp_chassis.settings import Settings
from mcp_chassis.start import pinned, start
from mcp_chassis.telemetry import start_tracing
from mcp_chassis.telemetry.gate import catch_prints
from mcp_chassis.telemetry.logging import log

_GRACE: Final = 1
"""Seconds that connections get to end after the drain: what is left then is idle, or a client that does not read."""
_LAST_RESORT: Final = 5.0
"""Seconds past the drain's deadline after which the process ends whatever holds it."""
_COLLECT_AFTER: Final = (1_000, 50, 50)
"""Objects, and collections of the younger ones, after which the garbage collector looks."""
_LAST_LINE: Final = 1.0
"""Seconds in which it says so."""
_CONTAINER_MARKS: Final = (Path("/.dockerenv"), Path("/run/.containerenv"))
_LISTENERS: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_LOOPBACK: Final = re.compile(r"(0{16}FFFF0000)?[0-9A-F]{6}7F|0{24}01000000")
"""As those tables write them: all of 127.0.0.0/8, where Docker's name server listens, and ::1."""


def serve(server: Server) -> None:
    """Serve until a signal comes.

    Raises:
        ConfigurationError: If the environment does not make this server, or its port is taken.
    """
    settings = start(server, stream=sys.stdout)
    stop_tracing = start_tracing(server.name, server.version)
    failed = False

    def on_failure() -> None:
        nonlocal failed
        failed = process.should_exit = True

    resources = pinned(server, settings)
    app = build_app(server, settings, beside=[resources.verifying()], on_failure=on_failure)
    listener = open_listener(settings)
    config = uvicorn.Config(
        app,
        http=bounded_connection(settings),
        ws="none",
        timeout_graceful_shutdown=_GRACE,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )
    # Else every stream, calls included, would be cut half a second after the signal.
    AppStatus.enable_automatic_graceful_drain = False
    process = _Process(config, app.drain, on_start=lambda: announce(server, settings, listener))
    # Not before every problem of the configuration could still be told in words.
    catch_prints()
    process.run(sockets=[listener])
    stop_tracing()
    log.info("server_stopped")
    if failed or not process.drained:
        raise SystemExit(1)


def serve_reloading(server: Server) -> None:
    """Serve in a child process that is started again after every change of a source file below this folder."""
    # Imported here: production has no use for the watcher.
    from watchfiles import PythonFilter, run_process

    command = shlex.join([sys.executable, "-m", str(server.package), "serve"])
    run_process(".", target=command, target_type="command", watch_filter=PythonFilter())


def open_listener(settings: Settings) -> socket.socket:
    """Bind the one socket of this server.

    Raises:
        ConfigurationError: If the port cannot be had.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # Named, because asyncio switches Nagle off for a socket only if it knows that this is TCP: 40 ms an answer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        rule = f"cannot be opened on {settings.host} ({error.strerror}): stop what holds it, or choose another port"
        raise ConfigurationError([Problem("MCP_PORT", str(settings.port), rule)]) from None
    return listener


def announce(server: Server, settings: Settings, listener: socket.socket) -> None:
    """Write the line that tells what runs, and what would surprise the person who started it."""
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{port}/mcp"
    log.info(
        "server_started",
        environment=settings.environment,
        auth=",".join(settings.auth),
        store=settings.store_shown,
        url=url,
        tools=server.tool_names(),
        connect=f"claude mcp add --transport http {server.name} {url}{_credential(settings)}",
    )
    if "none" in settings.auth:
        log.warning("authentication_off", hint="everybody who reaches this port may call every tool")
    if in_container() and not edge_listens():
        log.warning(
            "container_without_edge",
            hint=f"a published port (-p) reaches nothing here: the server listens on {host} inside the container. "
            "Let an edge share its network namespace (deploy/nginx or deploy/caddy; docker run --network container:…)",
        )


def _credential(settings: Settings) -> str:
    """Return how the connecting command shows a key; tokens a client gets by itself."""
    return ' --header "Authorization: Bearer $KEY"' if "keys" in settings.auth else ""


def in_container() -> bool:
    """Tell whether this process runs in a container."""
    return "KUBERNETES_SERVICE_HOST" in os.environ or any(mark.exists() for mark in _CONTAINER_MARKS)


def edge_listens() -> bool:
    """Tell whether anything in this network namespace listens where other machines can reach it."""
    for table in _LISTENERS:
        if not table.exists():
            continue
        for line in table.read_text(encoding="ascii").splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            address = local.partition(":")[0]
            if state == "0A" and not _LOOPBACK.fullmatch(address):
                return True
    return False


class _Process(uvicorn.Server):
    """Uvicorn that tells when it listens, and that drains before it closes anything (S3)."""

    def __init__(self, config: uvicorn.Config, drain: Drain, *, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start = on_start
        self._drain = drain
        self._last_resort = _LastResort()
        self._signals = 0
        self.drained = True
        """False once calls were ended before their time."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the lifespan and the listener, then say so."""
        await super().startup(sockets)
        # What start-up made stays; each full collection that walks through it stops all callers for about 80 ms.
        gc.collect()
        gc.freeze()
        # A look through all sessions takes long and finds little; one through the newest objects must stay short.
        gc.set_threshold(*_COLLECT_AFTER)
        self._on_start()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGTERM and SIGINT without raising them again afterwards."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain while the listener is open: the edge answers a closed port with 502. Then close everything."""
        connections = self.server_state.connections
        self.drained = await self._drain.run(
            hurried=lambda: self._signals > 1,
            unread=lambda: sum(isinstance(found, BoundedConnection) and found.unread for found in connections),
        )
        AppStatus.should_exit = True
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the drain; a second signal ends the calls in flight, a third one waits for nothing."""
        self._signals += 1
        self.should_exit = True
        self.force_exit = self._signals > 2
        if self._signals == 1:
            # Begun here, because a tool that blocks the event loop keeps everything else from running.
            self._last_resort.after(self._drain.timeout + _LAST_RESORT)
        elif self._signals == 2:
            self._last_resort.after(_LAST_RESORT)


class _LastResort:
    """What ends this process if nothing else does: a tool's thread, or cleaning up, may never end.

    Its thread is there from the start: a signal handler that starts one may meet a lock of its own, or a full process.
    """

    def __init__(self) -> None:
        self._orders: SimpleQueue[float] = SimpleQueue()
        threading.Thread(target=self._wait, daemon=True).start()

    def after(self, seconds: float) -> None:
        """End this process then, if it still runs; an earlier end that was ordered stays."""
        self._orders.put(seconds)

    def _wait(self) -> None:
        seconds = self._orders.get()
        end = time.monotonic() + seconds
        with contextlib.suppress(Empty):
            while True:
                ordered = self._orders.get(timeout=max(0.0, end - time.monotonic()))
                if time.monotonic() + ordered < end:
                    seconds, end = ordered, time.monotonic() + ordered
        try:
            # By a thread of its own: a log that nobody reads blocks whoever writes to it.
            line = threading.Thread(target=lambda: log.error("stop_forced", seconds=seconds), daemon=True)
            line.start()
            line.join(_LAST_LINE)
        finally:
            os._exit(1)
