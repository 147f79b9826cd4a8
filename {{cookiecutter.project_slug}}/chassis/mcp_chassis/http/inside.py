"""Requests that a layer sends to the layers below it in a client's name, through ASGI as any other."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Scope


async def send_inside(app: ASGIApp, scope: Scope, body: bytes = b"") -> None:
    """Send one request and drop its answer.

    Args:
        app: The layers below.
        scope: The request.
        body: Its body.
    """
    pending: list[Message] = [
        {"type": "http.disconnect"},
        {"type": "http.request", "body": body, "more_body": False},
    ]

    async def receive() -> Message:
        return pending.pop() if len(pending) > 1 else pending[0]

    async def drop(_message: Message) -> None:
        return None

    await app(scope, receive, drop)
