"""Ports for the processes that tests start."""

from __future__ import annotations

import secrets
import socket
from contextlib import suppress
from itertools import count
from typing import Final

_PORTS: Final = count(12_000 + secrets.randbelow(18_000))
"""Below those that the system gives to outgoing connections, so that nobody takes one between two uses; test processes
side by side begin at different ones."""


def free_port() -> int:
    """Return a port that nobody had a moment ago, and that is not given twice."""
    for port in _PORTS:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError
