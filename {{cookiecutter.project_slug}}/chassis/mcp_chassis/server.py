"""The server that tools register with, and the boundary that every call crosses.

It is the SDK's `MCPServer`: a stock `@server.tool()` function runs unchanged (M8). It adds a strict schema, a deadline,
one contract for errors, and the caller.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from copy import copy
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from mcp.server._otel import OpenTelemetryMiddleware
from mcp.server.caching import CacheHint
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel import Server as LowLevelServer
from mcp.server.mcpserver import Context, MCPServer
from mcp.shared._stream_protocols import ReadStream, WriteStream
from mcp.shared.exceptions import MCPError
from mcp.shared.message import SessionMessage
from mcp_types import (
    INVALID_PARAMS,
    CallToolResult,
    Icon,
    InputRequiredResult,
    Tool,
    ToolAnnotations,
)
from mcp_types.methods import SPEC_CLIENT_METHODS, SPEC_CLIENT_NOTIFICATION_METHODS

from mcp_chassis import request as requests
from mcp_chassis.calls import ContractServer, answered, refused
from mcp_chassis.environment import ConfigurationError, Problem, ServerSettings
from mcp_chassis.errors import printable
from mcp_chassis.health import Check, CheckOptions
from mcp_chassis.limiter import Limiter, ToolRules, misnamed, rules_of
from mcp_chassis.messages import Messages
from mcp_chassis.places import Turnstile
from mcp_chassis.policy import Declared, ToolPolicy, check_name, policy_of, too_long
from mcp_chassis.registration import harden, identity_of, import_tools, register_ping, supply_caller
from mcp_chassis.request import Caller
from mcp_chassis.settings import Settings
from mcp_chassis.state.store import Store
from mcp_chassis.telemetry.gate import install_gate

if TYPE_CHECKING:
    from mcp_chassis.database import Database

_Function = TypeVar("_Function", bound=Callable[..., Any])
_METHODS_OF_THE_SPECIFICATION = SPEC_CLIENT_METHODS | SPEC_CLIENT_NOTIFICATION_METHODS
_NO_DATABASE = "needs the answer postgres and its libraries: copier update --data database=postgres, and `refresh`"
_CACHED = ("server/discover", "tools/list", "prompts/list", "resources/list", "resources/templates/list")


class Server(ContractServer):
    """An MCP server on the chassis.

    Args:
        name: What clients see; without one, the distribution that holds `tools`, with its version and summary.
        instructions: What a model should know about this server before it picks a tool.
        settings: Your own settings; their problems are reported together with the chassis's.
        tools: A package whose modules register tools; all of them are imported at start.
        lifespan: What to open before the first call and close after the last.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        title: str | None = None,
        instructions: str | None = None,
        settings: type[ServerSettings] | None = None,
        tools: ModuleType | None = None,
        lifespan: Callable[[MCPServer[Any]], AbstractAsyncContextManager[Any]] | None = None,
    ) -> None:
        install_gate()
        self.package = None if tools is None else tools.__name__.partition(".")[0]
        shown, version, summary = identity_of(name, self.package)
        super().__init__(
            shown,
            title=title,
            description=summary,
            instructions=instructions,
            version=version,
            lifespan=lifespan,
        )
        self.own_settings = () if settings is None else (settings,)
        self._tools_package = tools
        self._policies: dict[str, ToolPolicy] = {}
        self._list_by_scope = True
        self._longest_call = math.inf
        self._turnstile: Turnstile | None = None
        self.checks: list[Check] = []
        self._database: Database | None = None
        # The SDK's spans carry the caller's text in their names and exception texts in their events (O2).
        inner = [layer for layer in self.middleware if not isinstance(layer, OpenTelemetryMiddleware)]
        self.middleware[:] = [Messages(self.has_tool, self._has_method), *inner]
        register_ping(self)

    def has_tool(self, name: str) -> bool:
        """Tell whether `name` is a tool of this server; any other name is the caller's text."""
        return self._tool_manager.get_tool(name) is not None

    def _has_method(self, method: str) -> bool:
        handlers = self._lowlevel_server
        return (
            method in _METHODS_OF_THE_SPECIFICATION
            or handlers.get_request_handler(method) is not None
            or handlers.get_notification_handler(method) is not None
        )

    def scopes_of(self, tool: str) -> frozenset[str]:
        """Return what a caller must hold to call `tool`."""
        return self._policies[tool].scopes if tool in self._policies else frozenset()

    def all_scopes(self) -> frozenset[str]:
        """Return every scope that some tool needs."""
        return frozenset[str]().union(*(policy.scopes for policy in self._policies.values()))

    async def list_tools(self) -> list[Tool]:
        """Return the tools that the caller may call, or all of them where lists are not filtered."""
        tools = await super().list_tools()
        caller = requests.current_caller()
        if not self._list_by_scope or caller.probing:  # a monitor compares the whole contract, and may call none of it
            return tools
        return [tool for tool in tools if not caller.missing(self.scopes_of(tool.name))]

    def tool_names(self) -> list[str]:
        """Return the names of all tools, sorted."""
        return sorted(tool.name for tool in self._tool_manager.list_tools())

    def add_tool(
        self,
        fn: Callable[..., Any],
        name: str | None = None,
        title: str | None = None,
        description: str | None = None,
        annotations: ToolAnnotations | None = None,
        icons: list[Icon] | None = None,
        meta: dict[str, Any] | None = None,
        structured_output: bool | None = None,
        **declared: Unpack[Declared],
    ) -> None:
        """Register `fn`: the SDK's parameters, and those of `ToolPolicy`.

        Raises:
            ValueError: If the name is taken or a number of the policy is not above 0.
        """
        shown = name or fn.__name__
        check_name(shown, taken=self.has_tool(shown))
        policy = policy_of(shown, declared)
        super().add_tool(supply_caller(fn), shown, title, description, annotations, icons, meta, structured_output)
        harden(self._tool_manager.list_tools()[-1])
        self._policies[shown] = policy

    def tool(
        self,
        name: str | None = None,
        title: str | None = None,
        description: str | None = None,
        annotations: ToolAnnotations | None = None,
        icons: list[Icon] | None = None,
        meta: dict[str, Any] | None = None,
        structured_output: bool | None = None,
        **declared: Unpack[Declared],
    ) -> Callable[[_Function], _Function]:
        """Register the decorated function as a tool; the parameters are those of `add_tool`.

        Raises:
            TypeError: If it is used without parentheses.
        """
        if callable(name):
            raise TypeError("write @server.tool() with parentheses")

        def register(function: _Function) -> _Function:
            self.add_tool(function, name, title, description, annotations, icons, meta, structured_output, **declared)
            return function

        return register

    def declared_timeouts(self) -> dict[str, float]:
        """Return the seconds that tools declare as their longest call (T8)."""
        if self._tools_package is not None:
            import_tools(self._tools_package)
        return {name: policy.timeout for name, policy in self._policies.items() if policy.timeout is not None}

    def prepare(self, settings: Settings) -> None:
        """Import the tools and take over `settings`; a transport does it before it opens.

        Raises:
            ConfigurationError: If a tool may take longer than the whole server's longest call (T8).
        """
        if self._tools_package is not None:
            import_tools(self._tools_package)
        self._longest_call = settings.tool_timeout
        problems = too_long(self._policies, settings.tool_timeout) + misnamed(self._policies, settings)
        if self._database is not None and settings.environment == "production" and settings.database_url is None:
            problems.append(Problem("MCP_DATABASE_URL", None, "is required in production: this server has a database"))
        if problems:
            raise ConfigurationError(problems)
        if settings.request_state_keys is not None:
            self.share_request_state(settings.request_state_keys.get_secret_value().split())
        if self._database is not None:
            self._database.migrate()
        self._list_by_scope = settings.list_by_scope
        ttl_ms = round(settings.list_ttl * 1000)
        self._lowlevel_server.cache_hints.update(dict.fromkeys(_CACHED, CacheHint(ttl_ms=ttl_ms, scope="public")))
        if self._list_by_scope and self.all_scopes():
            # A list that depends on who asks must not be shown to another (T9).
            self._lowlevel_server.cache_hints["tools/list"] = CacheHint(ttl_ms=ttl_ms, scope="private")

    def limit(self, settings: Settings, store: Store) -> Limiter:
        """Limit calls from now on, and return what decides; in-process tests do without."""
        rules = rules_of(settings, self._policies)
        limiter = Limiter(store, rules)
        self._turnstile = Turnstile(limiter, rules)
        return limiter

    def limits(self, settings: Settings) -> Mapping[str, ToolRules]:
        """Return the limits of each tool that are in force."""
        return rules_of(settings, self._policies).tools

    def check(self, name: str, ask: Callable[[], Awaitable[object]], **how: Unpack[CheckOptions]) -> None:
        """Ask `ask` in the background whether a dependency answers; `/health` tells (O4).

        Args:
            name: What the dependency is called.
            ask: Raises, or returns False, if it does not answer.
            how: `required`, `interval`, `timeout`, `slow` of `health.Check`.
        """
        self.checks.append(Check(name, ask, **how))

    @property
    def has_database(self) -> bool:
        """Whether tools asked for a database."""
        if self._tools_package is not None:
            import_tools(self._tools_package)
        return self._database is not None

    def database(self) -> Database:
        """Return the database of `MCP_DATABASE_URL`, checked by `/health` and closed at the end; needs an extra."""
        try:
            from mcp_chassis.database import Database
        except ModuleNotFoundError as error:
            raise ConfigurationError([Problem("server.database()", None, _NO_DATABASE)]) from error
        if self._database is None:
            self._database = Database()
            self.check("database", self._database.ask)
        return self._database

    async def close(self) -> None:
        """Give back what tools hold open."""
        if self._database is not None:
            await self._database.close()

    async def serve_streams(
        self, read: ReadStream[SessionMessage | Exception], write: WriteStream[SessionMessage]
    ) -> None:
        """Serve one connection over a pair of streams until the reading side ends."""
        await self._lowlevel_server.run(read, write, self._lowlevel_server.create_initialization_options())

    def speaking_for(self, caller: Caller) -> LowLevelServer[Any]:
        """Return the inside of this server for one connection without HTTP that speaks for `caller`."""

        async def bind(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
            token = requests.local_caller.set(caller)
            try:
                return await call_next(ctx)
            finally:
                requests.local_caller.reset(token)

        bound = copy(self._lowlevel_server)
        bound.middleware = [bind, *self._lowlevel_server.middleware]
        return bound

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Run one tool under its deadline and turn every outcome into the contract of `errors`.

        Raises:
            MCPError: If there is no such tool, or the tool itself answers with a protocol error.
        """
        if not self.has_tool(name):
            raise MCPError(INVALID_PARAMS, f"Unknown tool: {printable(name)}")
        if requests.current_caller().missing(needed := self.scopes_of(name)):
            # HTTP was refused before with 403; this is the answer where there is no status (stdio).
            return refused("rejected", f"{name} needs the scope {' '.join(sorted(needed))}", "insufficient_scope")
        timeout = self._policies[name].timeout or self._longest_call
        call = super().call_tool

        def run() -> Awaitable[CallToolResult | InputRequiredResult]:
            return answered(name, timeout, call(name, arguments, context))

        return await (run() if self._turnstile is None else self._turnstile.passed(name, run))
