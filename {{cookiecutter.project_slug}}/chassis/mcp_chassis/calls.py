"""The call boundary: whatever a tool does, its caller gets one answer of one contract (E1, E2, E5)."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, Final, NoReturn, TypeVar

import anyio
from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedResourceError, UnexpectedToolError
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.server.subscriptions import ListenHandler
from mcp.shared.exceptions import MCPError, NoBackChannelError
from mcp_types import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    CallToolResult,
    GetPromptResult,
    InputRequiredResult,
)
from pydantic import AnyUrl, ValidationError

from mcp_chassis import request as requests
from mcp_chassis.errors import NotNow, failure, is_cancellation, own_error, printable, retry_meta, violations, writable
from mcp_chassis.request import Message, Status
from mcp_chassis.telemetry import span
from mcp_chassis.telemetry.logging import log

_Result = TypeVar("_Result")

_GRACE: Final = 1.0
"""Seconds that cancelled work may take to clean up; then it is left behind, and its caller is answered."""

_left_behind: set[asyncio.Task[Any]] = set()
"""The event loop keeps weak references only."""
_running: set[asyncio.Future[type[Exception] | None]] = set()
"""One for each work under a deadline; its result says why it ends before its time, or None."""
_LONGEST_URI: Final = 2048
_CLIENT_REFUSED: Final = frozenset({METHOD_NOT_FOUND, INVALID_REQUEST})
"""What a client answers to a question it does not know; a tool never means its own caller by these."""
_LISTS: Final = frozenset(
    {"tools/list", "prompts/list", "resources/list", "resources/templates/list", "server/discover"}
)
_OURS: Final = ("mcp", "mcp_chassis")
Result = CallToolResult | InputRequiredResult


def running() -> int:
    """Return how many calls run."""
    return len(_running)


def interrupt() -> int:
    """End every call that runs, and return how many: the process stops, and each caller gets an answer (S3)."""
    for end in _running:
        _end(end, Interrupted)
    return len(_running)


class DeadlinePassed(Exception):
    """The work took longer than it may."""


class Interrupted(Exception):
    """The process ends before the work."""


async def within(seconds: float, work: Coroutine[Any, Any, _Result]) -> _Result:
    """Return what `work` returns in that time; it runs in a task of its own, so that it can be left behind.

    Raises:
        DeadlinePassed: If the time is over.
        Interrupted: If the process ends before.
        BaseException: Whatever `work` raised, a cancellation of its own making included.
    """
    loop = asyncio.get_running_loop()
    end: asyncio.Future[type[Exception] | None] = loop.create_future()
    task = loop.create_task(_outcome(work))
    # One future and one timer: asyncio.wait() makes both, and sets, for what is known beforehand.
    task.add_done_callback(lambda _: _end(end, None))
    deadline = loop.call_later(seconds, _end, end, DeadlinePassed)
    _running.add(end)
    try:
        early = await end
        if early is not None and not task.done():
            raise early
    finally:
        deadline.cancel()
        try:
            if not task.done():
                await _stop(task)
        finally:
            _running.discard(end)
    result: _Result
    result, error = task.result()
    if error is not None:
        raise error
    return result


def _end(end: asyncio.Future[type[Exception] | None], early: type[Exception] | None) -> None:
    if not end.done():
        end.set_result(early)


async def _outcome(work: Coroutine[Any, Any, _Result]) -> tuple[Any, BaseException | None]:
    """Return what came of `work`: a task must not raise SystemExit, the event loop would end with it."""
    try:
        return await work, None
    except BaseException as error:
        return None, error


async def _stop(task: asyncio.Task[Any]) -> None:
    task.cancel()
    _left_behind.add(task)
    task.add_done_callback(_left_behind.discard)
    loop, again = asyncio.get_running_loop(), None
    end = loop.time() + _GRACE
    with anyio.CancelScope(shield=True):
        while not task.done() and loop.time() < end:
            try:
                await asyncio.wait({task}, timeout=end - loop.time())
            except asyncio.CancelledError as error:
                again = error  # asyncio's own passes a shield; its sender waits for the cleaning up, too
    if again is not None:
        raise again


class ContractServer(MCPServer[Any]):
    """The SDK's server, whose prompts and resources fail by the contract, and which shares and stops with others."""

    def share_request_state(self, keys: Sequence[str]) -> None:
        """Seal `requestState` with keys that other replicas have too: the SDK's own is of this process (S7)."""
        sealing = RequestStateBoundary(RequestStateSecurity(keys=keys), default_audience=self.name)
        self.middleware[:] = [
            sealing if isinstance(layer, RequestStateBoundary) else layer for layer in self.middleware
        ]

    def end_subscriptions(self) -> None:
        """Let every open subscription send its last message."""
        entry = self._lowlevel_server.get_request_handler("subscriptions/listen")
        if entry is not None and isinstance(entry.handler, ListenHandler):
            entry.handler.close()

    def answer_only(self, message: Message) -> bool:
        """Tell whether nothing but its answer can come of a message: to notify or ask takes the SDK's context."""
        parts: list[object] = [*self.middleware, type(self).call_tool]
        if not all(part.__module__.partition(".")[0] in _OURS for part in parts):
            return False  # yours may notify
        if message.tool is None:
            return message.method in _LISTS
        tool = self._tool_manager.get_tool(message.tool)
        return tool is None or (tool.context_kwarg is None and not tool.resolved_params)

    def run(self, *_: object, **__: object) -> NoReturn:
        """Refuse: the SDK's own ways to serve go around every layer of the chassis.

        Raises:
            TypeError: Always.
        """
        raise TypeError("run() would serve without the chassis; start the project's command: serve, or stdio")

    def custom_route(self, *_: object, **__: object) -> NoReturn:
        """Refuse: nothing would serve it, and nobody would notice.

        Raises:
            TypeError: Always.
        """
        raise TypeError("custom_route() is not served here; for health use server.check(), else a service beside")

    async def get_prompt(
        self, name: str, arguments: dict[str, Any] | None = None, context: Context[Any, Any] | None = None
    ) -> GetPromptResult | InputRequiredResult:
        """Render one prompt.

        Raises:
            MCPError: If there is no such prompt, or an argument is missing: the caller's mistake, not a crash.
            Exception: Whatever its function raised.
        """
        prompt = self._prompt_manager.get_prompt(name)
        if prompt is None:
            raise MCPError(INVALID_PARAMS, f"Unknown prompt: {printable(name)}")
        for argument in prompt.arguments or ():
            if argument.required and argument.name not in (arguments or {}):
                raise MCPError(INVALID_PARAMS, f"Invalid params: {argument.name} is required")
        try:
            return await super().get_prompt(name, arguments, context)
        except ValueError as error:
            # The SDK wraps what the function raised twice; its own complaints have one cause.
            wrapped = error.__cause__
            raise (wrapped and wrapped.__cause__) or wrapped or error from None

    async def read_resource(
        self, uri: AnyUrl | str, context: Context[Any, Any] | None = None
    ) -> Iterable[ReadResourceContents] | InputRequiredResult:
        """Read one resource.

        Raises:
            MCPError: If the URI is too long to be one.
            ResourceError: If there is no such resource, or its author says that it cannot be read.
            Exception: Whatever its function raised.
        """
        if len(str(uri)) > _LONGEST_URI:
            raise MCPError(INVALID_PARAMS, f"Invalid params: uri must have at most {_LONGEST_URI} characters")
        try:
            return await super().read_resource(uri, context)
        except UnexpectedResourceError as error:
            raise own_error(error) from None


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
    except Interrupted:
        text = f"{name} was stopped because the server restarts; it may have done a part of its work"
        return refused("cancelled", text, "interrupted")
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
