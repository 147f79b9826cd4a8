"""Arguments are checked against the published schema, exactly (E4).

The SDK ignores unknown arguments, turns `"5"` into 5 and parses strings as JSON. A model that sends the wrong thing
then never learns it, so a call either fits the schema or is refused with the field and the rule.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, get_args, get_type_hints

import anyio.to_thread
from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.utilities.func_metadata import ArgModelBase, FuncMetadata
from pydantic import ConfigDict, ValidationError
from pydantic_core import to_json

from mcp_chassis import request as requests
from mcp_chassis.request import Caller


class StrictArguments(FuncMetadata):
    """The SDK's argument handling with a schema that means what it says."""

    def validate_arguments(self, arguments_to_validate: dict[str, Any]) -> dict[str, Any]:
        """Return the keyword arguments for the tool.

        Validated as JSON, where a string is a date or a UUID by its schema but never a number.

        Raises:
            pydantic.ValidationError: If a field is unknown, missing or of another type.
        """
        try:
            valid = self._read(arguments_to_validate)
        except ValidationError:
            # To JSON Schema 5.0 is an integer; a strict reader wants to see 5.
            valid = self._read(_whole(arguments_to_validate))
        return valid.model_dump_one_level()

    def _read(self, arguments: dict[str, Any]) -> ArgModelBase:
        return self.arg_model.model_validate_json(to_json(arguments), strict=True)

    async def call_fn(
        self,
        fn: Callable[..., Any | Awaitable[Any]],
        fn_is_async: bool,
        arguments: dict[str, Any],
        arguments_to_pass_directly: dict[str, Any] | None = None,
    ) -> Any:
        """Run the tool; a sync one in a thread that a deadline can leave behind (E5)."""
        everything = arguments | (arguments_to_pass_directly or {})
        if fn_is_async:
            return await fn(**everything)
        return await anyio.to_thread.run_sync(partial(fn, **everything), abandon_on_cancel=True)


def _whole(value: Any) -> Any:
    """Return `value` with every float that is a whole number as an int."""
    if isinstance(value, dict):
        return {name: _whole(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def harden(tool: Tool) -> None:
    """Replace the SDK's lenient argument model of `tool` by a strict one and publish its schema."""
    lenient = tool.fn_metadata
    strict = _strict(lenient.arg_model)
    tool.fn_metadata = StrictArguments(
        arg_model=strict,
        output_schema=lenient.output_schema,
        output_model=lenient.output_model,
        wrap_output=lenient.wrap_output,
    )
    tool.parameters = strict.model_json_schema(by_alias=True)
    if Caller.__name__ in tool.parameters.get("$defs", {}):
        raise TypeError(f"{tool.name}: a model among the arguments holds a Caller, which a client must not send")


def _strict(model: type[ArgModelBase]) -> type[ArgModelBase]:
    class Strict(model):  # type: ignore[valid-type, misc]  # a base that only exists at run time
        model_config = ConfigDict(extra="forbid", allow_inf_nan=False, title=model.__name__)

    return Strict


def supply_caller(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` with its `Caller` parameter filled from the request, so that no schema shows it.

    A function without such a parameter is returned as it is.

    Raises:
        TypeError: If `Caller` is part of another type.
    """
    hints = get_type_hints(function, include_extras=True)
    names = [name for name, hint in hints.items() if name != "return" and _mentions_caller(hint)]
    for name in names:
        if hints[name] is not Caller:
            # Anything around it would let a client send a caller of its own making.
            raise TypeError(f"{function.__name__}: write the parameter as `{name}: Caller`, without anything around it")
    if not names:
        return function
    signature = inspect.signature(function, eval_str=True)
    shown = [parameter for name, parameter in signature.parameters.items() if name not in names]

    def callers() -> dict[str, Caller]:
        return dict.fromkeys(names, requests.current_caller())

    async def asynchronous(*positional: Any, **named: Any) -> Any:
        return await function(*positional, **named, **callers())

    def synchronous(*positional: Any, **named: Any) -> Any:
        return function(*positional, **named, **callers())

    filled: Callable[..., Any] = asynchronous if inspect.iscoroutinefunction(function) else synchronous
    filled.__name__, filled.__doc__, filled.__module__ = function.__name__, function.__doc__, function.__module__
    filled.__annotations__ = {name: hint for name, hint in hints.items() if name not in names}
    vars(filled)["__signature__"] = signature.replace(parameters=shown)
    return filled


def _mentions_caller(hint: object) -> bool:
    return hint is Caller or any(_mentions_caller(part) for part in get_args(hint))
