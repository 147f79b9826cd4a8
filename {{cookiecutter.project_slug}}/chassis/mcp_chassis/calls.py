"""The call boundary: whatever a tool does, its caller gets one answer of one contract (E1, E2, E5)."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Final

from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from mcp.shared.exceptions import MCPError, NoBackChannelError
from mcp_types import INVALID_REQUEST, METHOD_NOT_FOUND, CallToolResult, InputRequiredResult
from pydantic import ValidationError

from mcp_chassis import request as requests
from mcp_chassis.deadline import DeadlinePassed, within
from mcp_chassis.errors import NotNow, failure, is_cancellation, own_error, retry_meta, violations, writable
from mcp_chassis.request import Status
from mcp_chassis.telemetry.logging import log
from mcp_chassis.telemetry.tracing import span

_CLIENT_REFUSED: Final = frozenset({METHOD_NOT_FOUND, INVALID_REQUEST})
"""What a client answers to a question it does not know; a tool never means its own caller by these."""

Result = CallToolResult | InputRequiredResult


async def answered(name: str, seconds: float, call: Coroutine[Any, Any, Result]) -> Result:
    """Run one call under its deadline and turn every outcome into an answer.

    Args:
        name: The tool.
        seconds: How long it may take.
        call: The SDK's call of it.

    Raises:
        MCPError: If the tool itself answers with a protocol error.
    """
    try:
        with span("tool", tool=name):
            return writable(await within(seconds, call))
    except DeadlinePassed:
        longest = f"{seconds:g} s, the longest it may take"
        return refused("timeout", f"{name} was stopped after {longest}; ask for less", "timeout")
    except MCPError as error:
        if not isinstance(error, NoBackChannelError) and error.code not in _CLIENT_REFUSED:
            raise
        text = f"{name} has to ask the user, and this client cannot be asked; call it from one that can"
        return refused("failed", text, "cannot_ask")
    except UnexpectedToolError as error:
        return _crashed(name, error)
    except ToolError as error:
        return _failed(error)
    except BaseException as error:
        # sys.exit() in a tool ends its call, not the server; so does waiting for something that was cancelled.
        if is_cancellation(error):
            raise
        return _crashed(name, error)


def refused(status: Status, text: str, code: str, **more: object) -> CallToolResult:
    """Return the answer to a call that gave no result, and note it for the call's log line; `more` goes to `_meta`."""
    request = requests.current()
    if request is not None:
        request.status, request.error_code = status, code
    return failure(text, code, None if request is None else request.id, **more)


def _failed(error: ToolError) -> CallToolResult:
    cause = error.__cause__
    if isinstance(cause, ValidationError):
        return refused("rejected", f"Invalid arguments: {violations(cause)}", "invalid_arguments")
    told = cause if cause is not None else error
    if isinstance(told, NotNow):
        return refused("failed", str(told), told.code, **retry_meta(told.seconds, estimate=True))
    return refused("failed", str(told), "tool_failure")


def _crashed(name: str, error: BaseException) -> CallToolResult:
    log.crash(own_error(error))
    request = requests.current()
    quote = f"; quote request {request.id} when you report it" if request is not None else ""
    return refused("crashed", f"{name} failed unexpectedly{quote}", "internal_error")
