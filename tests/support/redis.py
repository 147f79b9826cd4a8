"""A real Redis on its own port and folder: started, frozen, killed and started again by tests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.ports import free_port

_START_SECONDS = 10.0
_FAKE_CLOCK = "/usr/$LIB/faketime/libfaketime.so.1:libc.so.6"
"""Of Debian's package faketime. The C library follows, because faketime and Redis's jemalloc wait for each other."""


class Redis:
    """One `redis-server` process, which keeps nothing on disk.

    Args:
        folder: Where it runs; its log is written there.
        password: What clients must know, if anything.
        clock: The time it shall see and how fast that passes, in faketime's words, UTC.
    """

    def __init__(self, folder: Path, password: str | None = None, clock: str | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._password = password
        self._clock = {} if clock is None else {"TZ": "UTC", "LD_PRELOAD": _FAKE_CLOCK, "FAKETIME": clock}
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens, as `MCP_STATE_URL` wants it."""
        credential = "" if self._password is None else f":{self._password}@"
        return f"redis://{credential}127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start, and return when it answers."""
        given = {"bind": "127.0.0.1", "port": str(self.port), "dir": str(self._folder), "save": "", "appendonly": "no"}
        given |= {} if self._password is None else {"requirepass": self._password}
        configuration = self._folder / "redis.conf"
        lines = [f"{name} {value or chr(34) * 2}\n" for name, value in given.items()]
        configuration.write_text("".join(lines), encoding="utf-8")
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["redis-server", str(configuration)], stdout=log, stderr=log, env=os.environ | self._clock
            )
        end = time.monotonic() + _START_SECONDS
        while b"PONG" not in self.ask(b"PING") and b"NOAUTH" not in self.ask(b"PING"):
            assert self._process.poll() is None, (self._folder / "log").read_text(encoding="utf-8")
            assert time.monotonic() < end, "redis-server does not answer"
            time.sleep(0.01)

    def ask(self, command: bytes) -> bytes:
        """Send one inline command and return the first bytes of the answer; nothing if nobody listens."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                if self._password is not None and command != b"PING":
                    connection.sendall(b"AUTH %s\r\n" % self._password.encode())
                    connection.recv(64)
                connection.sendall(command + b"\r\n")
                return connection.recv(1 << 20)
        except OSError:
            return b""

    def names(self) -> list[str]:
        """Return the names of all keys."""
        lines = self.ask(b"KEYS *").decode().split("\r\n")
        return sorted(line for line in lines[1:] if line and not line.startswith("$"))

    def freeze(self) -> None:
        """Let it hang: connections stay open, nothing is answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
        self._process = None

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)


@contextmanager
def running(folder: Path, password: str | None = None, clock: str | None = None) -> Iterator[Redis]:
    """Run a Redis for as long as the context lasts."""
    redis = Redis(folder, password, clock)
    redis.start()
    try:
        yield redis
    finally:
        redis.kill()
