"""The JSON-RPC envelope of one POST, parsed once and bounded (T7)."""

from __future__ import annotations

from typing import Any, Final

from mcp_types import INVALID_REQUEST, PARSE_ERROR
from pydantic_core import from_json

from mcp_chassis.http.refusal import Refused
from mcp_chassis.request import Message

_DEEPEST: Final = 64
_LONGEST_TEXT: Final = 128
"""For ids, methods and tool names; the specification bounds the last at 128 (2026-07-28, tool names)."""
_LARGEST_ID: Final = 2**53 - 1
"""The largest integer that every JSON reader keeps exactly (RFC 8259, 6)."""


def parse(body: bytes) -> Message:
    """Return what decisions need of `body`.

    Raises:
        Refused: If it is not one JSON-RPC message within the bounds, with the code the SDK would use.
    """
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError:
        raise Refused(400, "not_json", "The body must be JSON in UTF-8", PARSE_ERROR) from None
    if isinstance(value, list):
        raise _malformed("batch", "Send one message per POST; the protocol has no batches since 2025-06-18")
    if not isinstance(value, dict):
        raise _malformed("not_a_message", "The body must be one JSON-RPC object")
    if _deeper(body, value):
        raise _malformed("too_deep", f"The body must nest at most {_DEEPEST} levels")
    if value.get("jsonrpc") != "2.0":
        raise _malformed("bad_version", 'jsonrpc must be "2.0"')
    if not isinstance(value.get("params"), dict | None):
        raise _malformed("bad_params", "params must be an object")
    method = _method(value)
    if method is None and not _is_answer(value):
        raise _malformed("bad_answer", "An answer must hold an id and a result object, or an error's code and message")
    return Message(method=method, id=_id(value), tool=_tool(value))


def _malformed(reason: str, message: str) -> Refused:
    return Refused(400, reason, message, INVALID_REQUEST)


def _deeper(body: bytes, value: dict[str, Any]) -> bool:
    if body.count(b"{") + body.count(b"[") <= _DEEPEST:
        return False
    level: list[Any] = [value]
    for _ in range(_DEEPEST):
        level = [child for node in level for child in _children(node)]
        if not level:
            return False
    return True


def _children(node: Any) -> list[Any]:
    inner = node.values() if isinstance(node, dict) else node
    return [child for child in inner if isinstance(child, dict | list)]


def _method(value: dict[str, Any]) -> str | None:
    method = value.get("method")
    if method is None and ("result" in value or "error" in value):
        return None
    if not isinstance(method, str) or not 0 < len(method) <= _LONGEST_TEXT:
        raise _malformed("bad_method", f"method must be text of 1 to {_LONGEST_TEXT} characters")
    return method


def _is_answer(value: dict[str, Any]) -> bool:
    """Tell whether the SDK takes `value` as an answer to it; what it refuses, it quotes."""
    if "id" not in value:
        return False
    error = value.get("error")
    if not isinstance(error, dict):
        return isinstance(value.get("result"), dict)
    return type(error.get("code")) is int and isinstance(error.get("message"), str)


def _id(value: dict[str, Any]) -> str | int | None:
    if "id" not in value:
        return None
    given = value["id"]
    if isinstance(given, str) and len(given) <= _LONGEST_TEXT:
        return given
    if isinstance(given, int) and not isinstance(given, bool) and abs(given) <= _LARGEST_ID:
        return given
    raise _malformed("bad_id", f"id must be a whole number or text of at most {_LONGEST_TEXT} characters")


def _tool(value: dict[str, Any]) -> str | None:
    if value.get("method") != "tools/call":
        return None
    params = value.get("params")
    name = params.get("name") if isinstance(params, dict) else None
    if isinstance(name, str) and len(name) > _LONGEST_TEXT:
        raise _malformed("bad_tool_name", f"A tool's name has at most {_LONGEST_TEXT} characters")
    return name if isinstance(name, str) else None
