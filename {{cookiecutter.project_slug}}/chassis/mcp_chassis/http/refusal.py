"""How a layer says no: an HTTP status, and a JSON-RPC error that names the request (E1)."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic_core import to_json
from starlette.types import Send

from mcp_chassis import request as requests
from mcp_chassis.errors import REFUSED
from mcp_chassis.telemetry.logging import log


class Refused(Exception):
    """A request that goes no further.

    Args:
        status: HTTP status.
        reason: Constant word for logs, such as `body_too_large`.
        message: What is wrong and what to do, for the client; nothing that the client sent.
        code: JSON-RPC error code.
        headers: Further response headers, such as `Retry-After`.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        code: int = REFUSED,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(message)
        self.status, self.reason, self.message, self.code, self.headers = (
            status,
            reason,
            message,
            code,
            headers,
        )


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
                "data": {"reason": refusal.reason, "requestId": None if request is None else request.id},
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
