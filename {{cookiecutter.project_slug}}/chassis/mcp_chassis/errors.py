"""The two channels of failure (E1): a result with `isError`, and a JSON-RPC error.

A tool's failure is a result that the model reads; a broken message is a JSON-RPC error that the client reads.
No text of an exception that the author did not write for the client reaches either channel (E3).
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult, TextContent
from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

_TYPE_WORDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    SecretStr: "text",
    Path: "a path",
}
_BOUNDS: Final[dict[type, tuple[str, str]]] = {
    Ge: ("from", "ge"),
    Gt: ("above", "gt"),
    Le: ("to", "le"),
    Lt: ("below", "lt"),
}
REFUSED: Final = -32010
"""JSON-RPC code of our own refusals.

The specification keeps -32020 to -32099 for itself and official clients use -32000 for a closed connection.
"""
_Result = TypeVar("_Result")
_SHOWN_VIOLATIONS: Final = 5
_SHOWN_NAME: Final = 64
_OUR_WORDS: Final[dict[str, str]] = {
    "missing": "is required",
    "extra_forbidden": "is not an argument of this tool",
    "none_required": "must be null",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "dataclass_type": "must be an object",
    "unexpected_keyword_argument": "is not a field here",
    "date_from_datetime_parsing": "must be a date like 2026-01-31",
    "date_parsing": "must be a date like 2026-01-31",
    "datetime_from_date_parsing": "must be a date and time like 2026-01-31T12:00:00Z",
    "datetime_parsing": "must be a date and time like 2026-01-31T12:00:00Z",
    "timezone_aware": "must say its time zone, like 2026-01-31T12:00:00Z",
    "time_parsing": "must be a time like 12:00:00",
    "time_delta_parsing": "must be a duration like PT90S",
    "uuid_parsing": "must be a UUID",
    "url_parsing": "must be a URL like https://example.com",
    "url_scheme": "must be a URL of another scheme",
    "decimal_parsing": "must be a decimal number",
    "union_tag_invalid": "must name one of the kinds in the schema",
    "union_tag_not_found": "must name its kind",
}
_PYDANTIC_WORDS_WITHOUT_INPUT: Final = frozenset(
    {
        *("bool_type", "bool_parsing", "bytes_type", "bytes_too_long", "bytes_too_short"),
        *("date_type", "datetime_type", "time_type", "time_delta_type", "decimal_type", "uuid_type", "url_type"),
        *("dict_type", "list_type", "tuple_type", "set_type", "frozen_set_type", "too_long", "too_short"),
        *("enum", "literal_error", "float_type", "int_type", "int_from_float", "finite_number", "multiple_of"),
        *("greater_than", "greater_than_equal", "less_than", "less_than_equal"),
        *("string_type", "string_too_long", "string_too_short", "string_pattern_mismatch"),
        *("decimal_max_digits", "decimal_max_places", "decimal_whole_digits", "date_from_datetime_inexact"),
    }
)
"""Error types whose message holds the rule alone; the others may quote the caller's value."""


def _plain_types(annotation: Any) -> list[Any]:
    """Return the types of an annotation without `Annotated` and `None`."""
    if get_origin(annotation) is Literal or not get_args(annotation):
        return [annotation]
    if hasattr(annotation, "__metadata__"):
        return _plain_types(get_args(annotation)[0])
    if get_origin(annotation) is tuple:
        return [tuple]
    return [plain for part in get_args(annotation) if part is not type(None) for plain in _plain_types(part)]


def is_secret(field: FieldInfo) -> bool:
    """Tell whether the value of `field` must never be shown."""
    return SecretStr in _plain_types(field.annotation)


def type_words(field: FieldInfo) -> str:
    """Say what a value must be: `a whole number from 1 to 9`."""
    plain = _plain_types(field.annotation)[0]
    if get_origin(plain) is Literal:
        return " or ".join(str(choice) for choice in get_args(plain))
    if plain is tuple:
        return "a list, separated by commas"
    known = _TYPE_WORDS.get(plain) or getattr(plain, "words", getattr(plain, "__name__", "text"))
    words = [str(known)]
    for bound in field.metadata:
        if type(bound) in _BOUNDS:
            word, name = _BOUNDS[type(bound)]
            words.append(f"{word} {getattr(bound, name)}")
    return " ".join(words)


def default_words(field: FieldInfo) -> str | None:
    """Say what an absent value stands for; None where there is nothing to say or it must not be shown."""
    if field.is_required():
        return None
    default = field.get_default(call_default_factory=True)
    if isinstance(default, SecretStr):
        # A default stands in the source for everybody to read; only given values are secret.
        return default.get_secret_value()
    if default is None or default is PydanticUndefined or default == ():
        return None
    if isinstance(default, tuple):
        return ",".join(str(part) for part in default)
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


class ToolFailure(ToolError):
    """A failure the caller should read about; raise it from a tool.

    The text goes to that caller as it is and to no log, so write what is wrong and what to do:
    `raise ToolFailure("the note is archived; restore it first")`.
    """


class NotNow(ToolFailure):
    """A failure that will pass; its caller is told when to come back (L5).

    Args:
        text: What is the matter, without the delay: it is added.
        seconds: The delay.
        code: Its `errorCode`.
    """

    def __init__(self, text: str, seconds: float, code: str) -> None:
        super().__init__(f"{text}: {wait_words(seconds)}")
        self.seconds, self.code = seconds, code


def printable(text: object, limit: int = _SHOWN_NAME) -> str:
    """Return caller's text cut to `limit` characters, with a question mark for each unprintable one."""
    return "".join(character if character.isprintable() else "?" for character in str(text)[:limit])


def failure(text: str, code: str, request_id: str | None, **more: object) -> CallToolResult:
    """Return the `isError` result that says `text`.

    `_meta` carries the machine's half. `structuredContent` stays out: clients check it against the output schema.
    """
    meta: dict[str, Any] = {"errorCode": code, **more}
    if request_id is not None:
        meta["requestId"] = request_id
    # A lone surrogate in an author's text must not cost the caller the answer.
    shown = text.encode(errors="replace").decode()
    return CallToolResult(content=[TextContent(type="text", text=shown)], is_error=True, _meta=meta)


def retry_meta(seconds: float, *, estimate: bool = False) -> dict[str, object]:
    """Return the machine's half of "not now" (L5): whole milliseconds, and whether they are only an estimate."""
    found: dict[str, object] = {"retryAfterMs": math.ceil(seconds * 1000)}
    return found | {"estimate": True} if estimate else found


def wait_words(seconds: float) -> str:
    """Return the model's half: `wait 1.25 s, then retry once`."""
    return f"wait {math.ceil(seconds * 1000) / 1000:.3f}".rstrip("0").rstrip(".") + " s, then retry once"


def writable(result: _Result) -> _Result:
    """Return `result` if JSON can carry it in both eras; NaN, infinity and lone surrogates it cannot.

    Raises:
        ValueError: If it cannot.
    """
    if isinstance(result, CallToolResult):
        texts = [part.text for part in result.content if isinstance(part, TextContent)]
        json.dumps([texts, result.structured_content], allow_nan=False, ensure_ascii=False).encode()
    return result


def is_cancellation(error: BaseException) -> bool:
    """Tell whether `error` cancels this task; one that leaks from something it waited for does not."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and (task is None or task.cancelling() > 0)


def own_error(error: BaseException) -> BaseException:
    """Return what an author's code raised, out of what the SDK wrapped around it."""
    while type(error).__module__.startswith("mcp.") and error.__cause__ is not None:
        error = error.__cause__
    return error


def violations(error: ValidationError) -> str:
    """Say which fields break which rules, never what their values were (E4)."""
    found = error.errors(include_url=False, include_input=False)
    lines = [f"{_place(item['loc'])} {_rule(item['type'], item['msg'])}" for item in found[:_SHOWN_VIOLATIONS]]
    if len(found) > _SHOWN_VIOLATIONS:
        lines.append(f"and {len(found) - _SHOWN_VIOLATIONS} more")
    return "; ".join(lines)


def _place(location: tuple[int | str, ...]) -> str:
    return printable(".".join(str(part) for part in location)) or "the arguments"


def _rule(kind: str, message: str) -> str:
    if kind in _OUR_WORDS:
        return _OUR_WORDS[kind]
    if kind in _PYDANTIC_WORDS_WITHOUT_INPUT:
        _, _, rule = message.partition(" should ")
        return f"must {rule}" if rule else message
    return "is not valid"


def declared_type(error: BaseException | type) -> type:
    """Return the exception's type, or the nearest base that a module holds: the name of another may be an argument."""
    mro = (error if isinstance(error, type) else type(error)).__mro__
    return next(kind for kind in mro if _in_its_module(kind))


def _in_its_module(kind: type) -> bool:
    found: object = sys.modules.get(kind.__module__)
    for name in kind.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is kind
