"""An internet in one process: names with the addresses we say, and public addresses that lead to loopback."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

PUBLIC: Final = "93.184.216.34"
ANOTHER: Final = "93.184.216.35"
PUBLIC6: Final = "2606:2800:21f::1"
REFUSED: Final = 0
"""A port that stands for an address where nobody listens."""


@dataclass
class Internet:
    """What names and addresses mean while a test runs."""

    names: dict[str, list[list[str]]] = field(default_factory=dict)
    """The addresses that each look-up of a name gives; the last ones stay."""
    ports: dict[str, int] = field(default_factory=dict)
    """The loopback port behind each public address."""
    looked_up: list[str] = field(default_factory=list)
    dialled: list[str] = field(default_factory=list)

    def place(self, name: str, port: int, *addresses: str) -> None:
        """Let a name have addresses, all of which lead to a port of this machine."""
        self.names[name] = [list(addresses)]
        self.ports |= dict.fromkeys(addresses, port)


@pytest.fixture
def internet(monkeypatch: pytest.MonkeyPatch) -> Internet:
    """Return an internet where nothing is yet."""
    found = Internet()
    look_up = socket.getaddrinfo
    connect = asyncio.selector_events.BaseSelectorEventLoop.sock_connect

    def getaddrinfo(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else str(host)
        found.looked_up.append(name)
        answers = found.names.get(name)
        if answers is None:
            return look_up(host, port, *args, **options)
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        return [_entry(address, int(port)) for address in addresses]

    async def sock_connect(loop: Any, sock: socket.socket, address: Any) -> None:
        found.dialled.append(address[0])
        port = found.ports.get(address[0])
        if port == REFUSED:
            raise ConnectionRefusedError
        here = "::1" if sock.family == socket.AF_INET6 else "127.0.0.1"
        await connect(loop, sock, address if port is None else (here, port, *address[2:]))

    monkeypatch.setattr("socket.getaddrinfo", getaddrinfo)
    monkeypatch.setattr("asyncio.selector_events.BaseSelectorEventLoop.sock_connect", sock_connect)
    return found


def _entry(address: str, port: int) -> tuple[Any, ...]:
    if ":" in address:
        return socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0)
    return socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)
