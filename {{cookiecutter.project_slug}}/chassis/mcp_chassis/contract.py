"""Prompts and resources: the SDK's handling, with failures told as `errors` says (E1, E2)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import UnexpectedResourceError
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, GetPromptResult, InputRequiredResult
from pydantic import AnyUrl

from mcp_chassis.errors import own_error, printable

_LONGEST_URI: Final = 2048


class ContractServer(MCPServer[Any]):
    """The SDK's server, whose prompts and resources fail by the contract."""

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
