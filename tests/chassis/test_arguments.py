"""E4: an argument is accepted if and only if the published schema says so."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Annotated, Any, Literal

import pytest
from hypothesis import HealthCheck, given, note
from hypothesis import settings as effort
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from mcp_chassis import Server

pytestmark = pytest.mark.anyio


class Colour(Enum):
    """An enum of texts."""

    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    """An enum of numbers."""

    LOW = 1
    HIGH = 2


class Address(BaseModel):
    """A model inside a model."""

    street: str = Field(min_length=1)
    number: int | None = None


class Person(BaseModel):
    """A model with every kind of field."""

    name: str
    age: Annotated[int, Field(ge=0, lt=150)]
    home: Address
    tags: list[str] = []


class Circle(BaseModel):
    """One of two shapes."""

    kind: Literal["circle"]
    radius: float


class Square(BaseModel):
    """The other of two shapes."""

    kind: Literal["square"]
    side: int


Shape = Annotated[Circle | Square, Field(discriminator="kind")]


class Tree(BaseModel):
    """A model inside itself."""

    value: int
    children: list[Tree] = []


@dataclass
class Place:
    """A dataclass."""

    x: float
    y: float = 0


class Options(TypedDict, total=False):
    """A typed dictionary without required keys."""

    loud: bool
    times: int


TYPES: dict[str, Any] = {
    "int": int,
    "bounded int": Annotated[int, Field(ge=-5, le=100, multiple_of=5)],
    "float": float,
    "bounded float": Annotated[float, Field(gt=0, lt=1.5)],
    "bool": bool,
    "str": str,
    "bounded str": Annotated[str, Field(min_length=2, max_length=4)],
    "pattern": Annotated[str, Field(pattern=r"^[a-c]+$")],
    "optional": int | None,
    "int or str": int | str,
    "int or float": int | float,
    "list or str": list[int] | str,
    "literal text": Literal["a", "b"],
    "literal number": Literal[1, 2],
    "literal mixed": Literal["1", 1, None],
    "enum": Colour,
    "enum of numbers": Level,
    "list": list[int],
    "bounded list": Annotated[list[bool], Field(min_length=1, max_length=2)],
    "set": set[int],
    "tuple": tuple[int, str],
    "open tuple": tuple[float, ...],
    "dict": dict[str, float],
    "dict of lists": dict[str, list[int | None]],
    "any": Any,
    "object": dict[str, Any],
    "model": Person,
    "optional model": Address | None,
    "list of models": list[Address],
    "union of models": Shape,
    "tree": Tree,
    "dataclass": Place,
    "typed dictionary": Options,
}

TEXTS = st.sampled_from(["", "a", "abc", "red", "1", "5.0", "null", "true", "circle", "square", "Zürich"])
NUMBERS = st.integers(-10, 200) | st.sampled_from([0.0, 1.0, 2.0, -5.0, 0.5, 1.25, 1e300, 2**53, 10**25, -0.0])
NAMES = ["kind", "radius", "side", "name", "age", "home", "tags", "street", "number", "value", "children", "x", "y"]
NAMES += ["loud", "times"]
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=8,
)


def server_of(kind: Any) -> tuple[Server, dict[str, Any]]:
    """Return a server with one tool that takes `value`, and the schema it publishes."""
    server = Server("arguments")

    async def take(value: Any) -> str:
        return "taken"

    take.__annotations__["value"] = kind
    server.add_tool(take)
    tool = server._tool_manager.get_tool("take")
    assert tool is not None
    return server, tool.parameters


def like(schema: dict[str, Any], root: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return values that mostly fit `schema`: what is random alone seldom does."""
    schema = root["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    if "anyOf" in schema or "oneOf" in schema:
        return st.one_of([like(part, root) for part in schema.get("anyOf") or schema["oneOf"]])
    if "const" in schema or "enum" in schema:
        return st.sampled_from(schema.get("enum", [schema.get("const")]))
    if "prefixItems" in schema:
        return st.tuples(*(like(part, root) for part in schema["prefixItems"])).map(list)
    plain: dict[str, st.SearchStrategy[Any]] = {
        "integer": NUMBERS,
        "number": NUMBERS,
        "string": TEXTS,
        "boolean": st.booleans(),
        "null": st.none(),
        "array": st.lists(later(schema.get("items", {}), root), max_size=3),
    }
    if schema.get("type") != "object":
        return plain.get(schema.get("type", ""), VALUES)
    if "properties" not in schema:
        extra = schema.get("additionalProperties")
        inner = like(extra, root) if isinstance(extra, dict) else VALUES
        return st.dictionaries(st.sampled_from(NAMES), inner, max_size=3)
    fields = {name: later(part, root) for name, part in schema["properties"].items()}
    required = {name: part for name, part in fields.items() if name in schema.get("required", ())}
    return st.fixed_dictionaries(required, optional={n: p for n, p in fields.items() if n not in required})


def later(schema: dict[str, Any], root: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return `like` for a schema that may hold itself."""
    return st.deferred(lambda: like(schema, root))


WIDER = {"literal number", "literal mixed", "enum of numbers", "set"}
"""Types that also take what their schema does not: true for 1, and a set's duplicates. Neither loses anything."""


@pytest.mark.parametrize("name", TYPES)
def test_E4_value_is_accepted_exactly_if_the_schema_admits_it(name: str) -> None:
    server, schema = server_of(TYPES[name])
    tool = server._tool_manager.get_tool("take")
    assert tool is not None
    validator = Draft202012Validator(schema)

    @effort(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
    @given(VALUES | like(schema["properties"]["value"], schema))
    def check(value: Any) -> None:
        arguments = json.loads(json.dumps({"value": value}))
        note(f"{arguments} by {schema}")
        try:
            tool.fn_metadata.validate_arguments(arguments)
        except ValueError:
            accepted = False
        else:
            accepted = True
        admitted = validator.is_valid(arguments)
        assert accepted == admitted or (accepted and name in WIDER)

    check()
