"""How a layer says no: an HTTP status, and a JSON-RPC error that names the request (E1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic_core import to_json
from starlette.types import Send

from mcp_chassis import request as requests
from mcp_chassis.errors import REFUSED, retry_meta
from mcp_chassis.places import Full, Place, Places
from mcp_chassis.request import Caller
from mcp_chassis.telemetry.logging import log
from mcp_chassis.telemetry.metrics import REFUSALS


class Refused(Exception):
    """A request that goes no further.

    Args:
        status: HTTP status.
        reason: Constant word for logs, such as `body_too_large`.
        message: What is wrong and what to do, for the client; nothing that the client sent.
        code: JSON-RPC error code.
        headers: Further response headers.
        retry_after: Seconds after which the same request is welcome.
        estimate: Whether nobody can know that time.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        code: int = REFUSED,
        headers: Sequence[tuple[bytes, bytes]] = (),
        retry_after: float | None = None,
        estimate: bool = False,
    ) -> None:
        super().__init__(message)
        self.status, self.reason, self.message, self.code = status, reason, message, code
        self.headers = list(headers)
        self.data: dict[str, object] = {"reason": reason}
        if retry_after is not None:
            self.headers.append((b"retry-after", b"%d" % math.ceil(retry_after)))
            self.data |= retry_meta(retry_after, estimate=estimate)


async def refuse(send: Send, refusal: Refused) -> None:
    """Answer with `refusal` and write one line about it."""
    request = requests.current()
    log.warning("request_refused", http_status=refusal.status, reason=refusal.reason)
    body = to_json(
        {
            "jsonrpc": "2.0",
            "id": None if request is None or request.message is None else request.message.id,
            "error": {
                "code": refusal.code,
                "message": refusal.message,
                "data": {**refusal.data, "requestId": None if request is None else request.id},
            },
        }
    )
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        *refusal.headers,
    ]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


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
