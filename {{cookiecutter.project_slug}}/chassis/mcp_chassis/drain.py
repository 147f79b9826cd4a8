"""The end of a server, in an order that loses no call (S3).

Not ready, nothing new, streams closed, calls answered, and only then sockets, sessions and pools.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from typing import Final

import anyio

from mcp_chassis import calls
from mcp_chassis.health import Health
from mcp_chassis.http.draining import Draining
from mcp_chassis.telemetry.logging import log

LAST_WORDS: Final = 2.0
"""Seconds past the deadline in which interrupted calls are answered; longer than cancelled work may take."""
_PAUSE: Final = 0.02


class Drain:
    """What happens between a signal and the closing of the listener.

    Args:
        health: Turns unready first, so that probes send nobody here.
        draining: The layer that refuses and counts.
        leave: Tells the other replicas not to forward sessions here any more.
        timeout: Seconds that calls in flight have.
    """

    def __init__(
        self, *, health: Health, draining: Draining, leave: Callable[[], Coroutine[None, None, int]], timeout: float
    ) -> None:
        self._health = health
        self._draining = draining
        self._leave = leave
        self.timeout = timeout

    async def run(self, hurried: Callable[[], bool], unread: Callable[[], int] = lambda: 0) -> bool:
        """Drain, and tell whether every call came to its own end.

        Args:
            hurried: Whether nobody wants to wait any longer: a second signal came.
            unread: How many clients have not yet read the end of their answers.
        """
        begun = time.monotonic()
        self._health.drain()
        waiting, streams = self._in_flight, self._draining.streams
        self._draining.begin()
        log.info("drain_started", calls=waiting, streams=streams, seconds=self.timeout)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._leave)
            await _until(lambda: not (self._in_flight or unread()) or hurried(), self.timeout)
        interrupted = 0
        if self._in_flight:
            interrupted = calls.interrupt()
            await _until(lambda: not (self._in_flight or unread()), LAST_WORDS)
        cut = self._in_flight
        sessions = await self._leave()  # those too that were in use until now
        log.info(
            "drained",
            calls=waiting,
            interrupted=interrupted,
            cut=cut,
            streams=streams,
            sessions=sessions,
            seconds=round(time.monotonic() - begun, 3),
        )
        return not interrupted and not cut

    @property
    def _in_flight(self) -> int:
        """Requests that wait for an answer, or calls still running whose clients have left."""
        return max(self._draining.requests, calls.running())


async def _until(true: Callable[[], bool], seconds: float) -> None:
    with anyio.move_on_after(seconds):
        # Counters and a signal handler make no event to wait for.
        while not true():  # noqa: ASYNC110
            await anyio.sleep(_PAUSE)
