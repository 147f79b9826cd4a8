"""Whether a delay is the delay: too early by 50 ms is refused, after the whole of it is admitted (L5)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from tests.live.peers import OK, Reply, until

EARLY: Final = 0.05
"""Seconds before the end of the delay at which the answer must still be no."""
NEARLY: Final = EARLY + 0.002
"""What may be left then: both delays are whole milliseconds, rounded up."""
ATTEMPTS: Final = 12
"""Times that this machine may be too late itself to tell whether the server was right."""

Send = Callable[[], Awaitable[Reply]]


async def use_up(send: Send) -> Reply:
    """Send until it is refused, and return the refusal."""
    for _ in range(ATTEMPTS):
        if (reply := await send()).outcome != OK:
            return reply
    raise AssertionError("never refused")


async def told_the_truth(send: Send, provoke: Send) -> tuple[Reply, Reply]:
    """Return the refusal that comes 50 ms too early, and what comes when its delay is over.

    The server decided between `sent` and `received`, so waiting from `received` on is always long enough. To be
    admitted early is a lie only if the answer came before the delay was surely over; else this machine was late itself.

    Args:
        send: Sends what is refused.
        provoke: Brings a refusal of it about.
    """
    for _ in range(ATTEMPTS):
        refusal = await provoke()
        await until(refusal.received + refusal.delay - EARLY)
        early = await send()
        if early.outcome != OK or early.received < refusal.sent + refusal.delay:
            assert early.outcome == refusal.outcome, f"{refusal.delay} s were told, fewer passed: {early}"
            await until(early.received + early.delay)
            return early, await send()
    raise AssertionError(f"this machine needs more than {EARLY} s for two requests, {ATTEMPTS} times in a row")
