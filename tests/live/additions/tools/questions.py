"""What the conformance suite is asked by a server: samplings and elicitations, in the way of each era."""

from typing import Any

from mcp.server.mcpserver import Context
from mcp.shared.exceptions import MCPError
from mcp_types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    ClientCapabilities,
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequest,
    InputRequiredResult,
    InputResponse,
    ListRootsRequest,
    ListRootsResult,
    MissingRequiredClientCapabilityErrorData,
    SamplingCapability,
    SamplingMessage,
    TextContent,
)

from ..server import server

Schema = dict[str, Any]
TITLED = ("value1", "First Option"), ("value2", "Second Option"), ("value3", "Third Option")
OPTIONS = ["option1", "option2", "option3"]
CHOICES = [{"const": value, "title": title} for value, title in TITLED]


def form(*required: str, **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required)}


def ask(message: str, name: str, kind: str = "string") -> ElicitRequest:
    schema = form(name, **{name: {"type": kind}})
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def sample(text: str, max_tokens: int = 100) -> CreateMessageRequest:
    messages = [SamplingMessage(role="user", content=TextContent(type="text", text=text))]
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=messages, max_tokens=max_tokens))


def answered(context: Context, key: str) -> InputResponse | None:
    return (context.input_responses or {}).get(key)


def field(response: InputResponse | None, name: str) -> object:
    """Return what a form was filled with, or None if it was not."""
    return (response.content or {}).get(name) if isinstance(response, ElicitResult) else None


def text_of(response: CreateMessageResult) -> str:
    return response.content.text if isinstance(response.content, TextContent) else "no text"


def require(state: str | None = None, /, **requests: InputRequest) -> InputRequiredResult:
    return InputRequiredResult(input_requests=requests, request_state=state)


# --- handshake era: the server sends requests of its own ---------------------------------------------------------


@server.tool()
async def test_sampling(prompt: str, context: Context) -> str:
    """Let the client's model answer."""
    params = sample(prompt).params
    # On the stream of this call: the client may not have opened the one for everything else yet.
    result = await context.session.create_message(
        params.messages, max_tokens=params.max_tokens, related_request_id=context.request_id
    )
    return f"LLM response: {text_of(result)}"


async def elicited(context: Context, message: str, schema: Schema) -> str:
    result = await context.session.elicit_form(message, schema, related_request_id=context.request_id)
    return f"Elicitation completed: action={result.action}, content={result.content}"


@server.tool()
async def test_elicitation(message: str, context: Context) -> str:
    """Ask the user."""
    text = {"type": "string"}
    return await elicited(context, message, form("username", "email", username=text, email=text))


@server.tool()
async def test_elicitation_sep1034_defaults(context: Context) -> str:
    """Ask the user, with an answer already filled in."""
    schema = form(
        name={"type": "string", "default": "John Doe"},
        age={"type": "integer", "default": 30},
        score={"type": "number", "default": 95.5},
        status={"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        verified={"type": "boolean", "default": True},
    )
    return await elicited(context, "Please check these", schema)


@server.tool()
async def test_elicitation_sep1330_enums(context: Context) -> str:
    """Ask the user to choose, in each of the five ways."""
    schema = form(
        untitledSingle={"type": "string", "enum": OPTIONS},
        titledSingle={"type": "string", "oneOf": CHOICES},
        legacyEnum={"type": "string", "enum": ["opt1", "opt2"], "enumNames": ["Option One", "Option Two"]},
        untitledMulti={"type": "array", "items": {"type": "string", "enum": OPTIONS}},
        titledMulti={"type": "array", "items": {"anyOf": CHOICES}},
    )
    return await elicited(context, "Please choose", schema)


# --- stateless era: the server answers with its questions --------------------------------------------------------


@server.tool()
async def test_input_required_result_elicitation(context: Context) -> str | InputRequiredResult:
    """Ask for a name and greet."""
    name = field(answered(context, "user_name"), "name")
    return f"Hello, {name}!" if isinstance(name, str) else require(user_name=ask("What is your name?", "name"))


@server.tool()
async def test_input_required_result_sampling(context: Context) -> str | InputRequiredResult:
    """Let the client's model answer."""
    response = answered(context, "capital_question")
    if isinstance(response, CreateMessageResult):
        return text_of(response)
    return require(capital_question=sample("What is the capital of France?"))


@server.tool()
async def test_input_required_result_list_roots(context: Context) -> str | InputRequiredResult:
    """Name the client's roots."""
    response = answered(context, "client_roots")
    if isinstance(response, ListRootsResult):
        return ", ".join(str(root.uri) for root in response.roots)
    return require(client_roots=ListRootsRequest())


@server.tool()
async def test_input_required_result_request_state(context: Context) -> str | InputRequiredResult:
    """Confirm that the state came back."""
    confirmed = field(answered(context, "confirm"), "ok")
    if confirmed is not None and context.request_state == "confirming":
        return "state-ok"
    return require("confirming", confirm=ask("Please confirm", "ok", "boolean"))


@server.tool()
async def test_input_required_result_tampered_state(context: Context) -> str | InputRequiredResult:
    """Confirm, with a state that nobody else can make."""
    return await test_input_required_result_request_state(context)


@server.tool()
async def test_input_required_result_multiple_inputs(context: Context) -> str | InputRequiredResult:
    """Ask three things at once."""
    keys = {"user_name", "greeting", "client_roots"}
    if keys <= set(context.input_responses or {}):
        return "all three answered"
    return require(
        "asked",
        user_name=ask("What is your name?", "name"),
        greeting=sample("Generate a greeting", 50),
        client_roots=ListRootsRequest(),
    )


@server.tool()
async def test_input_required_result_multi_round(context: Context) -> str | InputRequiredResult:
    """Ask twice, one thing after the other."""
    name, color = field(answered(context, "step1"), "name"), field(answered(context, "step2"), "color")
    if context.request_state is not None and context.request_state.startswith("named ") and color is not None:
        return f"{context.request_state.removeprefix('named ')} likes {color}"
    if context.request_state == "asked" and name is not None:
        return require(f"named {name}", step2=ask("Step 2: What is your favorite color?", "color"))
    return require("asked", step1=ask("Step 1: What is your name?", "name"))


@server.tool()
async def test_input_required_result_capabilities(context: Context) -> str | InputRequiredResult:
    """Ask only what the client can answer."""
    able = context.client_capabilities or ClientCapabilities()
    requests: dict[str, InputRequest] = {}
    if able.elicitation is not None:
        requests["name"] = ask("What is your name?", "name")
    if able.sampling is not None:
        requests["greeting"] = sample("Generate a greeting")
    return require(None, **requests) if requests else "nothing to ask"


@server.tool()
async def test_streaming_elicitation(context: Context) -> str | InputRequiredResult:
    """Report progress, then ask."""
    await context.report_progress(1, 2)
    return require(user_name=ask("What is your name?", "name"))


@server.tool()
async def test_missing_capability(context: Context) -> str:
    """Need a model of the client's."""
    if context.client_capabilities is not None and context.client_capabilities.sampling is not None:
        return "the client can sample"
    needed = MissingRequiredClientCapabilityErrorData(
        required_capabilities=ClientCapabilities(sampling=SamplingCapability())
    )
    data = needed.model_dump(by_alias=True, mode="json", exclude_none=True)
    raise MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, "This tool needs the client's model", data)


@server.prompt()
async def test_input_required_result_prompt(context: Context) -> str | InputRequiredResult:
    """Ask for context before the prompt is written."""
    given = field(answered(context, "user_context"), "context")
    if isinstance(given, str):
        return f"Use this context: {given}"
    return require(user_context=ask("What context should the prompt use?", "context"))
