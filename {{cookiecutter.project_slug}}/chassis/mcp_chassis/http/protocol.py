"""The HTTP/1.1 connection, with the clocks that uvicorn lacks (T7).

Uvicorn waits for ever for the first request of a connection, for the rest of its headers, and for a client to read its
answer. The edge has such clocks; these hold without one.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState


class BoundedConnection(H11Protocol):
    """A connection that cuts clients slower than its two timeouts, in seconds."""

    receive_timeout: ClassVar[float]
    send_timeout: ClassVar[float]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._clocks: dict[str, asyncio.TimerHandle] = {}

    @property
    def unread(self) -> bool:
        """Whether the end of an answer waits for its client to read."""
        cycle = vars(self).get("cycle")
        return cycle is not None and cycle.response_complete and self.transport.get_write_buffer_size() > 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start("headers", self.receive_timeout)

    def data_received(self, data: bytes) -> None:
        cycle = vars(self).get("cycle")
        if cycle is None or cycle.response_complete:
            self._start("headers", self.receive_timeout)
        super().data_received(data)
        if vars(self).get("cycle") is not cycle:
            self._stop("headers")

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start("send", self.send_timeout)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop("send")

    def connection_lost(self, exc: Exception | None) -> None:
        for name in tuple(self._clocks):
            self._stop(name)
        super().connection_lost(exc)

    def _start(self, name: str, seconds: float) -> None:
        if name not in self._clocks:
            self._clocks[name] = self.loop.call_later(seconds, self.transport.abort)

    def _stop(self, name: str) -> None:
        if name in self._clocks:
            self._clocks.pop(name).cancel()


def bounded_connection(receive_timeout: float, send_timeout: float) -> type[BoundedConnection]:
    """Return a connection class with these clocks.

    Args:
        receive_timeout: Seconds from the first byte of a connection or request to the end of its headers.
        send_timeout: Seconds that a full send buffer may stand still.
    """

    class Connection(BoundedConnection):
        pass

    Connection.receive_timeout, Connection.send_timeout = receive_timeout, send_timeout
    return Connection
