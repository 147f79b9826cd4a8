"""What the conformance suite reads: tools, resources and prompts that answer at once, and the handlers around them."""

import json
from base64 import b64decode
from typing import Annotated, Any

import anyio
from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import Audio, Context, Image, UserMessage
from mcp_types import (
    CompleteRequestParams,
    CompleteResult,
    Completion,
    EmbeddedResource,
    EmptyResult,
    SetLevelRequestParams,
    SubscribeRequestParams,
    TextResourceContents,
    UnsubscribeRequestParams,
)
from pydantic import Field

from mcp_chassis import ToolFailure

from ..server import server

PIXEL = b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC")
SILENCE = b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x80\x3e\0\0\2\0\x10\0data\0\0\0\0"
PAUSE = 0.05
CITIES = ("paris", "park", "party")

DIALECT: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}
"""Every keyword that the scenario `json-schema-2020-12` wants to see again."""

subscribed: set[str] = set()


def embedded(uri: str, text: str, mime_type: str = "text/plain") -> EmbeddedResource:
    return EmbeddedResource(type="resource", resource=TextResourceContents(uri=uri, mime_type=mime_type, text=text))


@server.tool()
async def test_simple_text() -> str:
    """Answer with text."""
    return "This is a simple text response for testing."


@server.tool()
async def test_image_content() -> Image:
    """Answer with an image."""
    return Image(data=PIXEL, format="png")


@server.tool()
async def test_audio_content() -> Audio:
    """Answer with a sound."""
    return Audio(data=SILENCE, format="wav")


@server.tool()
async def test_embedded_resource() -> EmbeddedResource:
    """Answer with a resource."""
    return embedded("test://embedded-resource", "This is an embedded resource content.")


@server.tool()
async def test_multiple_content_types() -> list[str | Image | EmbeddedResource]:
    """Answer with text, an image and a resource."""
    text = json.dumps({"test": "data", "value": 123})
    resource = embedded("test://mixed-content-resource", text, "application/json")
    return ["Multiple content types test:", Image(data=PIXEL, format="png"), resource]


@server.tool()
async def test_tool_with_logging(context: Context) -> str:
    """Tell the client about three steps."""
    for message in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await context.session.send_log_message("info", message, related_request_id=context.request_id)
        await anyio.sleep(PAUSE)
    return "three messages sent"


@server.tool()
async def test_logging_tool(context: Context) -> str:
    """Tell the client something, if it asked for logs."""
    await context.session.send_log_message("info", "only for who asks", related_request_id=context.request_id)
    return "logged"


@server.tool()
async def test_tool_with_progress(context: Context) -> str:
    """Report progress in three steps."""
    for progress in (0, 50, 100):
        await context.report_progress(progress, 100)
        await anyio.sleep(PAUSE)
    return "done"


@server.tool()
async def test_error_handling() -> str:
    """Fail."""
    raise ToolFailure("This tool intentionally returns an error for testing")


@server.tool()
async def test_reconnection(context: Context) -> str:
    """Close the stream in the middle of the call."""
    await context.close_sse_stream()
    await anyio.sleep(PAUSE)
    return "answered after the stream was closed"


@server.tool()
async def test_custom_headers(
    region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})],
) -> str:
    """Take an argument that clients mirror into a header."""
    return region


@server.tool()
async def json_schema_2020_12_tool() -> str:
    """Carry a schema with keywords that pydantic does not write."""
    return "never called"


def publish_dialect() -> None:
    """Replace the published schema of the tool above."""
    tool = server._tool_manager.get_tool("json_schema_2020_12_tool")
    if tool is None:
        raise LookupError("json_schema_2020_12_tool is not registered")
    tool.parameters = DIALECT


publish_dialect()


@server.tool()
async def test_trigger_tool_change(context: Context) -> str:
    """Tell subscribers that the tools changed."""
    await context.notify_tools_changed()
    return "told"


@server.tool()
async def test_trigger_prompt_change(context: Context) -> str:
    """Tell subscribers that the prompts changed."""
    await context.notify_prompts_changed()
    return "told"


@server.resource("test://static-text", mime_type="text/plain")
async def static_text() -> str:
    """A text."""
    return "This is the content of the static text resource."


@server.resource("test://static-binary", mime_type="image/png")
async def static_binary() -> bytes:
    """An image."""
    return PIXEL


@server.resource("test://watched-resource", mime_type="text/plain")
async def watched() -> str:
    """Something to subscribe to."""
    return "watched"


@server.resource("test://template/{id}/data", mime_type="application/json")
async def template(id: str) -> str:
    """Data of one id."""
    return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})


@server.prompt()
async def test_simple_prompt() -> str:
    """Say something."""
    return "This is a simple prompt for testing."


@server.prompt()
async def test_prompt_with_arguments(
    arg1: Annotated[str, Field(description="First test argument")],
    arg2: Annotated[str, Field(description="Second test argument")],
) -> str:
    """Say two things."""
    return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"


@server.prompt()
async def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:  # noqa: N803
    """Show a resource."""
    resource = embedded(resourceUri, "Embedded resource content for testing.")
    return [UserMessage(resource), UserMessage("Please process the embedded resource above.")]


@server.prompt()
async def test_prompt_with_image() -> list[UserMessage]:
    """Show an image."""
    return [UserMessage(Image(data=PIXEL, format="png")), UserMessage("Please analyze the image above.")]


async def complete(_ctx: ServerRequestContext[Any], params: CompleteRequestParams) -> CompleteResult:
    """Suggest cities."""
    values = [city for city in CITIES if city.startswith(params.argument.value)]
    return CompleteResult(completion=Completion(values=values, total=len(values), has_more=False))


async def set_level(_ctx: ServerRequestContext[Any], _params: SetLevelRequestParams) -> EmptyResult:
    """Accept any level: which lines are sent is not what is tested."""
    return EmptyResult()


async def subscribe(_ctx: ServerRequestContext[Any], params: SubscribeRequestParams) -> EmptyResult:
    """Remember the subscription."""
    subscribed.add(params.uri)
    return EmptyResult()


async def unsubscribe(_ctx: ServerRequestContext[Any], params: UnsubscribeRequestParams) -> EmptyResult:
    """Forget it."""
    subscribed.discard(params.uri)
    return EmptyResult()


server._lowlevel_server.add_request_handler("completion/complete", CompleteRequestParams, complete)
server._lowlevel_server.add_request_handler("logging/setLevel", SetLevelRequestParams, set_level)
server._lowlevel_server.add_request_handler("resources/subscribe", SubscribeRequestParams, subscribe)
server._lowlevel_server.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, unsubscribe)
