"""What may go wrong, each with the check that must tell it: the table of docs/gates.md."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from starlette.responses import Response

from tests.gates.between import Exchange, Meddle, error, result


@dataclass(frozen=True)
class Saboteur:
    """One broken promise.

    Args:
        story: What somebody did.
        caught: The checks that tell it; no other does.
        meddle: Does it.
    """

    story: str
    caught: frozenset[str]
    meddle: Meddle

    def __str__(self) -> str:
        return self.story.replace(" ", "-")


GATE: Final[list[Saboteur]] = []
"""Against gate 1."""


def breaks(*caught: str, table: list[Saboteur] = GATE) -> Callable[[Meddle], Meddle]:
    """Add the decorated function to a table; its docstring is the story."""

    def add(meddle: Meddle) -> Meddle:
        table.append(Saboteur((meddle.__doc__ or "").strip().rstrip("."), frozenset(caught), meddle))
        return meddle

    return add


def edited(change: Callable[[Any], None]) -> Callable[[str], str]:
    """Return what changes the JSON-RPC message in an answer, be it JSON or events."""

    def edit(text: str) -> str:
        lines = []
        for line in text.splitlines():
            head, start, body = line.partition("{")
            if start:
                message = json.loads(start + body)
                change(message)
                line = head + json.dumps(message)
            lines.append(line)
        return "\n".join(lines) + "\n\n"

    return edit


@breaks("accept")
async def json_refused(x: Exchange) -> Response | None:
    """A client that takes only JSON is told 406."""
    return Response(status_code=406) if x.headers.get("accept") == "application/json" else None


@breaks("accept")
async def wrong_type(x: Exchange) -> Response | None:
    """A client that takes only events is given JSON."""
    if x.headers.get("accept") != "text/event-stream":
        return None
    x.headers["accept"] = "application/json"
    return None


@breaks("unknown_method")
async def wrong_code(x: Exchange) -> Response | None:
    """An unknown method is an internal error, -32603."""
    return error(200, -32603, x.message["id"]) if x.asks == "nobody/knows" else None


@breaks("unknown_method")
async def wrong_status(x: Exchange) -> Response | None:
    """An unknown method is HTTP 200 in the stateless era, too."""
    return error(200, -32601, x.message["id"]) if x.asks == "nobody/knows" else None


@breaks("unknown_tool")
async def unknown_tool_as_result(x: Exchange) -> Response | None:
    """An unknown tool is answered isError."""
    if x.tool != "nobody_knows_this_tool":
        return None
    return result(x.message["id"], {"content": [{"type": "text", "text": "unknown tool"}], "isError": True})


@breaks("bad_arguments")
async def echo(x: Exchange) -> Response | None:
    """A validator repeats the argument that it refuses."""
    value = x.message["params"].get("arguments", {}).get("steps") if x.tool == "ping" else None
    if not isinstance(value, str):
        return None
    text = {"type": "text", "text": f"steps: {value!r} is no number"}
    return result(x.message["id"], {"content": [text], "isError": True})


@breaks("bad_arguments")
async def coerced(x: Exchange) -> Response | None:
    """A wrong argument is ignored, and the tool runs."""
    if x.tool == "ping" and isinstance(x.message["params"]["arguments"].get("steps"), str):
        x.message["params"]["arguments"] = {}
        x.resend(x.message)
    return None


KEY: Final = "the key of somebody who may do everything; the test puts it here"
keys: Final = {KEY: ""}


@breaks("refusal", "every_request")
async def open_door(x: Exchange) -> Response | None:
    """Authentication is off."""
    x.headers.setdefault("authorization", f"Bearer {keys[KEY]}")
    return None


@breaks("every_request")
async def session_is_enough(x: Exchange) -> Response | None:
    """The credential is asked for at the handshake alone."""
    if "mcp-session-id" in x.headers:
        x.headers.setdefault("authorization", f"Bearer {keys[KEY]}")
    return None


@breaks("refusal")
async def no_challenge(x: Exchange) -> Response | None:
    """The 401 does not say where to get a credential."""
    if "authorization" in x.headers:
        return None
    answer = await x.answer()
    del answer.headers["www-authenticate"]
    return answer


@breaks("sessions")
async def immortal(x: Exchange) -> Response | None:
    """DELETE leaves the session alive."""
    return Response(status_code=200) if x.method == "DELETE" else None


@breaks("sessions")
async def sessionless(x: Exchange) -> Response | None:
    """A message without its session is answered."""
    if x.asks == "ping" and "mcp-session-id" not in x.headers and not x.stateless:
        return result(x.message["id"], {})
    return None


@breaks("strangers")
async def any_origin(x: Exchange) -> Response | None:
    """Any page may call: Origin is not looked at."""
    x.headers.pop("origin", None)
    return None


@breaks("strangers")
async def any_host(x: Exchange) -> Response | None:
    """Host is not looked at, which opens the door to DNS rebinding."""
    x.headers["host"] = "localhost"
    return None


@breaks("stateless")
async def lost_header(x: Exchange) -> Response | None:
    """A proxy drops MCP-Protocol-Version: the stateless era is gone."""
    if x.stateless:
        del x.headers["mcp-protocol-version"]
    return None


@breaks("handshake", "versions")
async def no_handshake(x: Exchange) -> Response | None:
    """initialize is not answered: every client of 2025 is locked out."""
    return error(404, -32601, x.message["id"]) if x.asks == "initialize" else None


@breaks("handshake")
async def anonymous_server(x: Exchange) -> Response | None:
    """initialize is answered without serverInfo."""
    if x.asks != "initialize" or x.message["params"]["protocolVersion"] == "1999-01-01":
        return None
    return await x.answer(edited(lambda message: message.get("result", {}).pop("serverInfo", None)))


@breaks("versions")
async def yes_to_everything(x: Exchange) -> Response | None:
    """Every version that a client asks for is agreed to."""
    if x.asks != "initialize":
        return None
    asked = x.message["params"]["protocolVersion"]
    return await x.answer(edited(lambda message: message.get("result", {}).update(protocolVersion=asked)))


@breaks("versions")
async def version_ignored(x: Exchange) -> Response | None:
    """A version that nobody knows is served as if it were one."""
    return result(x.message["id"], {}) if x.headers.get("mcp-protocol-version") == "2999-01-01" else None


@breaks("malformed")
async def batches(x: Exchange) -> Response | None:
    """A batch is taken for its first message."""
    if isinstance(x.message, list):
        return result(x.message[0]["id"], {})
    return None


@breaks("agreement")
async def two_releases(x: Exchange) -> Response | None:
    """Another release answers the stateless era."""
    if x.asks != "tools/list" or not x.stateless:
        return None

    def older(message: Any) -> None:
        message["result"]["tools"] = [tool for tool in message["result"]["tools"] if tool["name"] != "add_note"]

    return await x.answer(edited(older))


@breaks("ping")
async def broken_calls(x: Exchange) -> Response | None:
    """Every call fails."""
    if x.tool != "ping" or x.message["params"]["arguments"] or "2026" not in x.headers["mcp-protocol-version"]:
        return None
    if x.headers.get("accept") != "application/json, text/event-stream":
        return None
    return result(x.message["id"], {"content": [{"type": "text", "text": "broken"}], "isError": True})


@breaks("streaming")
async def collected(x: Exchange) -> Response | None:
    """A layer collects events and sends them at the end."""
    return await x.answer() if x.tool == "ping" and x.message["params"]["arguments"].get("interval") else None


@breaks("streaming")
async def no_progress(x: Exchange) -> Response | None:
    """Progress does not reach the client."""
    if not (x.tool == "ping" and x.message["params"]["arguments"].get("interval")):
        return None
    x.message["params"]["arguments"] = {}
    x.resend(x.message)
    return None
