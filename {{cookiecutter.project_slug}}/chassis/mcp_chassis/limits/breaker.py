"""A circuit breaker for each dependency: what keeps failing is left alone for a while (L7).

Ours, because the libraries we know count failures in a row: a service that fails every second call stays closed there.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Final, Literal

from mcp_chassis.errors import NotNow
from mcp_chassis.telemetry.logging import log
from mcp_chassis.telemetry.metrics import BREAKER_STATE

State = Literal["closed", "half_open", "open"]
_NUMBERS: Final[dict[State, int]] = {"closed": 0, "half_open": 1, "open": 2}
_MOST_OUTCOMES: Final = 1000
states: Final[dict[str, State]] = {}
"""Of every breaker of this process, by service."""


class Breaker:
    """Closed until too large a share of the recent calls failed, then open; then one call may try.

    Args:
        service: Whose breaker it is.
        ratio: Share of failures that opens it.
        minimum: Calls in the window before the share means anything.
        window: Seconds.
        pause: Seconds it stays open.
    """

    def __init__(
        self, service: str, *, ratio: float = 0.5, minimum: int = 10, window: float = 30, pause: float = 10
    ) -> None:
        self._service = service
        self._ratio, self._minimum, self._window, self._pause = ratio, minimum, window, pause
        self._outcomes: deque[tuple[float, bool]] = deque(maxlen=_MOST_OUTCOMES)
        self._opened_at = 0.0
        self._period = 0
        self.state: State = "closed"
        self._show()

    def enter(self) -> int:
        """Let a call begin, and return what it gives back when it ends.

        Raises:
            NotNow: If it is open, or half open and another call is trying.
        """
        if self.state == "closed":
            return self._period
        left = self._opened_at + self._pause - time.monotonic()
        if left > 0:
            raise NotNow(f"{self._service} is failing and is left alone for now", max(left, 1.0), "breaker_open")
        # A trial that never ends must not keep it half open for ever: the next may try after another pause.
        self._opened_at = time.monotonic()
        self._become("half_open")
        return self._period

    def leave(self, period: int, *, failed: bool) -> None:
        """Note how the call ended that began in `period`; of a service's past it tells nothing any more."""
        if period != self._period:
            return
        now = time.monotonic()
        if self.state == "half_open":
            self._outcomes.clear()
            self._opened_at = now
            self._become("open" if failed else "closed")
            return
        self._outcomes.append((now, failed))
        while self._outcomes[0][0] < now - self._window:
            self._outcomes.popleft()
        failures = sum(bad for _, bad in self._outcomes)
        enough = len(self._outcomes) >= self._minimum
        if enough and failures >= self._ratio * len(self._outcomes):
            self._opened_at = now
            self._become("open")

    def abandon(self, period: int) -> None:
        """Note that the call was cancelled: that says nothing about the service."""
        if period == self._period and self.state == "half_open":
            self._become("open")

    def _become(self, state: State) -> None:
        self.state = state
        self._period += 1
        self._show()
        log.warning("breaker_changed", service=self._service, state=state)

    def _show(self) -> None:
        states[self._service] = self.state
        BREAKER_STATE.labels(self._service).set(_NUMBERS[self.state])
