"""Tools as authors write them for the official SDK, with nothing of the chassis; they came here without a change."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypedDict

import anyio
import anyio.lowlevel
from mcp.server.mcpserver import Context, Elicit, Image, Resolve
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult, TextContent
from pydantic import BaseModel, Field

from ..server import server


class Item(BaseModel):
    name: str
    price: Annotated[float, Field(ge=0)] = 1.5
    tags: list[str] = []


class Totals(TypedDict):
    count: int
    sum: float


@dataclass
class Point:
    x: int
    y: int


@server.tool()
def stock_text(word: str, times: int = 2) -> str:
    """Repeat a word."""
    return " ".join([word] * times)


@server.tool()
async def stock_number(a: int, b: Annotated[int, Field(description="The other", ge=0)]) -> int:
    """Add."""
    return a + b


@server.tool()
def stock_flag(choice: Literal["on", "off"]) -> bool:
    """Tell whether it is on."""
    return choice == "on"


@server.tool()
async def stock_nothing() -> None:
    """Return nothing."""


@server.tool()
def stock_list(stop: int) -> list[int]:
    """Count."""
    return list(range(stop))


@server.tool()
async def stock_dictionary(pairs: dict[str, int]) -> dict[str, int]:
    """Double each value."""
    return {key: 2 * value for key, value in pairs.items()}


@server.tool()
def stock_model(item: Item, discount: float | None = None) -> Item:
    """Lower a price."""
    return item.model_copy(update={"price": item.price - (discount or 0)})


@server.tool()
async def stock_models(items: list[Item]) -> list[Item]:
    """Sort."""
    return sorted(items, key=lambda item: item.name)


@server.tool()
def stock_typed_dictionary(prices: list[float]) -> Totals:
    """Sum up."""
    return Totals(count=len(prices), sum=sum(prices))


@server.tool()
async def stock_dataclass(x: int, y: int = 0) -> Point:
    """Mirror a point."""
    return Point(-x, -y)


@server.tool()
def stock_image() -> Image:
    """Draw."""
    return Image(data=b"\x89PNG", format="png")


@server.tool()
async def stock_mixed() -> list[str | Image]:
    """Draw and tell."""
    return ["a picture:", Image(data=b"\x89PNG", format="png")]


@server.tool()
async def stock_result(text: str) -> CallToolResult:
    """Build the result by hand."""
    return CallToolResult(content=[TextContent(type="text", text=text)], _meta={"by": "hand"})


@server.tool(structured_output=False)
def stock_plain(data: Any) -> dict[str, Any]:
    """Return text only."""
    return {"data": data}


@server.tool(name="stock-renamed", title="Renamed", description="Has another name.", meta={"team": "notes"})
async def renamed(ctx: Context) -> str:
    return type(ctx).__name__


@server.tool()
async def stock_context(steps: int, context: Context) -> str:
    """Report progress."""
    for step in range(steps):
        await context.report_progress(step + 1, steps, f"step {step + 1}")
        await anyio.lowlevel.checkpoint()
    return f"reported {steps}"


@server.tool()
def stock_failure(reason: str) -> str:
    """Fail as an author does."""
    raise ToolError(f"cannot: {reason}")


class Owner(BaseModel):
    name: str


async def ask_owner(ctx: Context) -> Elicit[Owner]:
    return Elicit("Whose is it?", Owner)


@server.tool()
async def stock_question(thing: str, owner: Annotated[Owner, Resolve(ask_owner)]) -> str:
    """Ask the user for what the model does not know."""
    return f"{thing} belongs to {owner.name}"
