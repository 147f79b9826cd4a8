"""A place for what a request opens, or the refusal that says whose share is used up (L2)."""

from __future__ import annotations

from typing import Literal

from mcp_chassis.http.refusal import Refused
from mcp_chassis.limits.places import Full, Place, Places
from mcp_chassis.request import Caller
from mcp_chassis.telemetry.metrics import REFUSALS


def place_for(
    caller: Caller, places: Places, what: Literal["sessions", "streams", "calls"], retry_after: float
) -> Place:
    """Return a place.

    Args:
        caller: For whom.
        places: Where.
        what: What is opened.
        retry_after: Seconds told to who comes too late; nobody knows when a place will be free.

    Raises:
        Refused: 429 if the caller holds all that one may, 503 if all are taken.
    """
    try:
        return places.take(caller.identity)
    except Full as full:
        REFUSALS.labels(what).inc()
        status, reason = (429, f"too_many_{what}_of_caller") if full.own else (503, f"too_many_{what}")
        text = f"{'You have too many' if full.own else 'All'} {what} {'open' if full.own else 'are taken'}"
        hint = f"{text}; end one, or try again in about {retry_after:g} s"
        raise Refused(status, reason, hint, retry_after=retry_after, estimate=True) from None
