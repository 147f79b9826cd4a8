"""What becomes of a tool on its way into a server: found, checked by its schema, supplied with its caller (S1, E4).

The SDK ignores unknown arguments, turns `"5"` into 5 and parses strings as JSON. A model that sends the wrong thing
then never learns it, so a call either fits the schema or is refused with the field and the rule.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import traceback
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import anyio
import anyio.to_thread
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.utilities.func_metadata import ArgModelBase, FuncMetadata
from mcp_types import ToolAnnotations
from pydantic import ConfigDict, Field, ValidationError
from pydantic_core import to_json

from mcp_chassis import request as requests
from mcp_chassis.environment import ConfigurationError, Problem
from mcp_chassis.request import Caller

if TYPE_CHECKING:
    from mcp_chassis.server import Server

PING = "ping"


def import_tools(package: ModuleType) -> None:
    """Import all modules of `package`, subpackages included.

    Raises:
        ConfigurationError: If one fails, or a folder would be passed over in silence.
    """
    folders = [Path(folder) for folder in package.__path__]
    problems = [
        Problem(str(_shown(path.parent, folder)), None, "holds modules and no __init__.py, so nothing would serve them")
        for folder in folders
        for path in sorted(folder.rglob("*.py"))
        if path.parent != folder and not (path.parent / "__init__.py").is_file()
    ]
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.", onerror=lambda _name: None):
        try:
            importlib.import_module(found.name)
        except ConfigurationError:
            raise
        except Exception as error:
            problems.append(_problem(error, folders[0]))
    if problems:
        raise ConfigurationError(list(dict.fromkeys(problems)))


def _problem(error: Exception, folder: Path) -> Problem:
    """Name the author's line: the last one of the failure that is theirs."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return Problem(f"{_shown(Path(error.filename), folder)}:{error.lineno}", None, f"SyntaxError: {error.msg}")
    frames = traceback.extract_tb(error.__traceback__)
    source = folder.parent
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(source)]
    last = (own or list(frames))[-1]
    return Problem(f"{_shown(Path(last.filename), folder)}:{last.lineno}", None, f"{type(error).__name__}: {error}")


def _shown(path: Path, folder: Path) -> Path:
    """Return a path as it is called inside the project."""
    source = folder.parent.parent
    return path.relative_to(source) if path.is_relative_to(source) else path


def identity_of(name: str | None, package: str | None) -> tuple[str, str, str | None]:
    """Return the name, version and summary to tell clients.

    Raises:
        ValueError: If there is neither a name nor a package to take it from.
    """
    if package is None:
        if name is None:
            raise ValueError('give the server a name, Server("notes"), or its tools, Server(tools=tools)')
        return name, "0", None
    found = metadata.metadata(package)
    return name or found["Name"], found["Version"], found["Summary"]


async def ping(
    context: Context,
    steps: Annotated[int, Field(ge=0, le=20, description="Progress events to send before the answer")] = 0,
    interval: Annotated[float, Field(ge=0, le=5, description="Seconds between two of them")] = 0.2,
) -> str:
    """Answer "pong". With steps, report progress first, so that a probe can see events arrive one by one."""
    for step in range(1, steps + 1):
        await context.report_progress(step, steps)
        await anyio.sleep(interval)
    return "pong"


def is_ours(tool: Mapping[str, Any]) -> bool:
    """Tell whether an entry of a tool list is this tool: a stranger's `ping` may do anything."""
    schema = tool.get("inputSchema")
    known = schema.get("properties") if isinstance(schema, dict) else None
    return tool.get("name") == PING and isinstance(known, dict) and {"steps", "interval"} == known.keys()


def register_ping(server: Server) -> None:
    """Give `server` its ping tool."""
    server.add_tool(ping, PING, annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False))


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
