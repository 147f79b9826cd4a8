"""What each change of a contract means to those who call (G2)."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from mcp_chassis.schema import Change, compare, contract_of, step_of

Json = dict[str, Any]

OPEN: Json = {"type": "object"}
CLOSED: Json = {"type": "object", "additionalProperties": False}


def holding(schema: object, **more: Any) -> Json:
    """Return the schema of an object that may hold `x`."""
    return {**CLOSED, "properties": {"x": schema}, **more}


def classed(old: Json, new: Json, part: str) -> list[Change]:
    """Return the changes from one schema of a tool to another."""
    lists = [{"tools": [{"name": "t", "inputSchema": {}, part: schema}]} for schema in (old, new)]
    return compare(*(contract_of(found) for found in lists))


NOTE: Json = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
TREE: Json = {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/Tree"}}}}

TABLE: list[tuple[str, Json, Json, str, str]] = [
    # what, before, after: what it is to those who give it, and to those who get it
    ("type widened", holding({"type": "integer"}), holding({"type": "number"}), "compatible", "breaking"),
    ("type changed", holding({"type": "integer"}), holding({"type": "string"}), "breaking", "breaking"),
    ("type added", holding({"type": "string"}), holding({"type": ["string", "null"]}), "compatible", "breaking"),
    ("type order", holding({"type": ["null", "string"]}), holding({"type": ["string", "null"]}), "none", "none"),
    ("type given", holding({}), holding({"type": "string"}), "breaking", "compatible"),
    ("enum grown", holding({"enum": ["a"]}), holding({"enum": ["a", "b"]}), "compatible", "breaking"),
    ("enum shrunk", holding({"enum": ["a", "b"]}), holding({"enum": ["b"]}), "breaking", "compatible"),
    ("enum of 1 and true", holding({"enum": [1]}), holding({"enum": [True]}), "breaking", "breaking"),
    ("enum came", holding({"type": "string"}), holding({"type": "string", "enum": ["a"]}), "breaking", "compatible"),
    ("required came", holding({}), holding({}, required=["x"]), "breaking", "compatible"),
    ("required went", holding({}, required=["x"]), holding({}), "compatible", "breaking"),
    ("minimum raised", holding({"minimum": 1}), holding({"minimum": 2}), "breaking", "compatible"),
    ("minimum lowered", holding({"minimum": 2}), holding({"minimum": 1}), "compatible", "breaking"),
    ("maximum came", holding({}), holding({"maximum": 5}), "breaking", "compatible"),
    ("maximum went", holding({"maximum": 5}), holding({}), "compatible", "breaking"),
    ("exclusive minimum", holding({"exclusiveMinimum": 0}), holding({"exclusiveMinimum": 1}), "breaking", "compatible"),
    ("exclusive maximum", holding({"exclusiveMaximum": 1}), holding({"exclusiveMaximum": 2}), "compatible", "breaking"),
    ("shorter text", holding({"maxLength": 9}), holding({"maxLength": 8}), "breaking", "compatible"),
    ("longer text", holding({"minLength": 1}), holding({"minLength": 0}), "compatible", "breaking"),
    ("fewer items", holding({"maxItems": 9}), holding({"maxItems": 8}), "breaking", "compatible"),
    ("more items needed", holding({"minItems": 1}), holding({"minItems": 2}), "breaking", "compatible"),
    ("more members needed", holding({"minProperties": 0}), holding({"minProperties": 1}), "breaking", "compatible"),
    ("more members", holding({"maxProperties": 1}), holding({"maxProperties": 2}), "compatible", "breaking"),
    ("member added", CLOSED, holding({}), "compatible", "breaking"),
    ("member added to an open one", OPEN, {**OPEN, "properties": {"x": {"type": "string"}}}, "breaking", "compatible"),
    ("member removed", holding({}), CLOSED, "breaking", "breaking"),
    ("member renamed", holding({}), {**CLOSED, "properties": {"y": {}}}, "breaking", "breaking"),
    ("closed", OPEN, CLOSED, "breaking", "compatible"),
    ("opened", CLOSED, OPEN, "compatible", "breaking"),
    ("items typed", holding({"items": {}}), holding({"items": {"type": "string"}}), "breaking", "compatible"),
    ("items widened", holding({"items": {"maximum": 1}}), holding({"items": {"maximum": 2}}), "compatible", "breaking"),
    (
        "nested",
        holding({"type": "object", "properties": {"y": {"maxLength": 5}}}),
        holding({"type": "object", "properties": {"y": {"maxLength": 4}}}),
        "breaking",
        "compatible",
    ),
    (
        "optional",
        holding({"type": "string"}),
        holding({"anyOf": [{"type": "string"}, {"type": "null"}]}),
        "compatible",
        "breaking",
    ),
    (
        "no longer optional",
        holding({"anyOf": [{"type": "string"}, {"type": "null"}]}),
        holding({"type": "string"}),
        "breaking",
        "compatible",
    ),
    (
        "through a reference",
        {**holding({"$ref": "#/$defs/Note"}), "$defs": {"Note": NOTE}},
        {**holding({"$ref": "#/$defs/Note"}), "$defs": {"Note": {**NOTE, "required": []}}},
        "compatible",
        "breaking",
    ),
    (
        "a definition's name",
        {**holding({"$ref": "#/$defs/Note"}), "$defs": {"Note": NOTE}},
        {**holding({"$ref": "#/$defs/Remark"}), "$defs": {"Remark": NOTE}},
        "compatible",
        "compatible",
    ),
    (
        "within a tree",
        {**holding({"$ref": "#/$defs/Tree"}), "$defs": {"Tree": TREE}},
        {**holding({"$ref": "#/$defs/Tree"}), "$defs": {"Tree": {**TREE, "required": ["children"]}}},
        "breaking",
        "compatible",
    ),
    (
        "within a union told apart by a field",
        {**holding({"oneOf": [{"$ref": "#/$defs/Note"}]}), "$defs": {"Note": {**NOTE, "required": []}}},
        {**holding({"oneOf": [{"$ref": "#/$defs/Note"}]}), "$defs": {"Note": NOTE}},
        "breaking",
        "breaking",
    ),
    (
        "names that a definition bounds",
        {**holding({"propertyNames": {"$ref": "#/$defs/Name"}}), "$defs": {"Name": {"enum": ["a", "b"]}}},
        {**holding({"propertyNames": {"$ref": "#/$defs/Name"}}), "$defs": {"Name": {"enum": ["a"]}}},
        "breaking",
        "breaking",
    ),
    (
        "from two levels to a tree",
        holding({"type": "array", "items": {"type": "array", "items": {"type": "string"}}}),
        {
            **holding({"$ref": "#/$defs/Tree"}),
            "$defs": {"Tree": {"type": "array", "items": {"$ref": "#/$defs/Tree"}}},
        },
        "breaking",
        "breaking",
    ),
    ("another default", holding({"default": 10}), holding({"default": 20}), "breaking", "breaking"),
    ("a first default", holding({}), holding({"default": 20}), "compatible", "breaking"),
    ("description", holding({"description": "a"}), holding({"description": "b"}), "text-only", "text-only"),
    ("title", {**CLOSED, "title": "a"}, {**CLOSED, "title": "b"}, "text-only", "text-only"),
    (
        "text of a branch",
        holding({"anyOf": [{"title": "a"}]}),
        holding({"anyOf": [{"title": "b"}]}),
        "text-only",
        "text-only",
    ),
    ("default of 1 and true", holding({"default": 1}), holding({"default": True}), "breaking", "breaking"),
    ("examples", holding({}), holding({"examples": ["a"]}), "text-only", "text-only"),
    ("pattern", holding({"pattern": "^a"}), holding({"pattern": "^a?"}), "breaking", "breaking"),
    ("format", holding({"format": "date"}), holding({}), "breaking", "breaking"),
    ("const", holding({}), holding({"const": 1}), "breaking", "breaking"),
    ("multipleOf", holding({"multipleOf": 4}), holding({"multipleOf": 2}), "breaking", "breaking"),
    ("uniqueItems", holding({"uniqueItems": True}), holding({"uniqueItems": False}), "breaking", "breaking"),
    ("oneOf", holding({"oneOf": [{}]}), holding({"oneOf": [{}, {}]}), "breaking", "breaking"),
    ("a keyword of tomorrow", holding({}), holding({"tomorrow": 1}), "breaking", "breaking"),
    (
        "a member called required",
        holding({}),
        {**holding({}), "properties": {"x": {}, "required": {}}},
        "compatible",
        "breaking",
    ),
]


@pytest.mark.parametrize(("old", "new", "given", "got"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_G2_each_change_of_a_schema_is_classed_for_who_gives_and_for_who_gets(
    old: Json, new: Json, given: str, got: str
) -> None:
    for part, expected in (("inputSchema", given), ("outputSchema", got)):
        changes = classed(old, new, part)

        assert {change.kind for change in changes} == ({expected} if expected != "none" else set()), (part, changes)
        assert (
            step_of(changes)
            == {"breaking": "major", "compatible": "minor", "text-only": "patch", "none": "none"}[expected]
        )
        assert all(change.where.startswith(f"tools/t/{part}") for change in changes)


@pytest.mark.parametrize("what", [row[0] for row in TABLE])
def test_G2_what_did_not_change_is_no_change(what: str) -> None:
    old, new = next(row[1:3] for row in TABLE if row[0] == what)

    assert classed(old, copy.deepcopy(old), "inputSchema") == []
    assert classed(new, copy.deepcopy(new), "outputSchema") == []


def test_G2_place_of_a_change_is_told_to_the_keyword() -> None:
    old = holding({"type": "array", "items": {"type": "object", "properties": {"y": {"maxLength": 5}}}})
    new = holding({"type": "array", "items": {"type": "object", "properties": {"y": {"maxLength": 4}}}})

    assert classed(old, new, "inputSchema") == [
        Change("breaking", "tools/t/inputSchema/x/items/y/maxLength", "5 became 4")
    ]


def test_G2_what_breaks_is_told_first_and_decides_the_step() -> None:
    old = {"tools": [{"name": "a", "inputSchema": {}, "description": "one"}, {"name": "b", "inputSchema": {}}]}
    new = {"tools": [{"name": "a", "inputSchema": {}, "description": "two"}, {"name": "c", "inputSchema": {}}]}

    changes = compare(contract_of(old), contract_of(new))

    assert [(change.kind, change.where, change.what) for change in changes] == [
        ("breaking", "tools/b", "removed"),
        ("compatible", "tools/c", "added"),
        ("text-only", "tools/a/description", "changed"),
    ]
    assert step_of(changes) == "major"


def tool(**more: Any) -> Json:
    """Return a tool."""
    return {"tools": [{"name": "t", "inputSchema": {}, **more}]}


def prompt(*arguments: Json) -> Json:
    """Return a prompt with these arguments."""
    return {"prompts": [{"name": "p", "arguments": list(arguments)}]}


def resource(**more: Any) -> Json:
    """Return a resource."""
    return {"resources": [{"uri": "a:b", "name": "b", **more}]}


def template(uri: str) -> Json:
    """Return a template of resources."""
    return {"resourceTemplates": [{"uriTemplate": uri, "name": "b"}]}


FREE, NEEDED = {"name": "a"}, {"name": "a", "required": True}
OTHERS: list[tuple[str, Json, Json, str]] = [
    ("hint", tool(annotations={"readOnlyHint": True}), tool(), "breaking"),
    ("output came", tool(), tool(outputSchema=OPEN), "compatible"),
    ("output went", tool(outputSchema=OPEN), tool(), "breaking"),
    ("title of a tool", tool(), tool(title="T"), "text-only"),
    ("resource added", {}, resource(), "compatible"),
    ("resource's text", resource(description="x"), resource(), "text-only"),
    ("resource's type", resource(mimeType="text/plain"), resource(mimeType="text/html"), "breaking"),
    ("template moved", template("a:{x}"), template("a:{y}"), "breaking"),
    ("argument came", prompt(), prompt(FREE), "compatible"),
    ("needed argument came", prompt(), prompt(NEEDED), "breaking"),
    ("argument needed now", prompt(FREE), prompt(NEEDED), "breaking"),
    ("argument needed no more", prompt(NEEDED), prompt(FREE), "compatible"),
    ("argument went", prompt(FREE), prompt(), "breaking"),
    ("argument's text", prompt(FREE), prompt({**FREE, "description": "x"}), "text-only"),
]


@pytest.mark.parametrize(("old", "new", "kind"), [row[1:] for row in OTHERS], ids=[row[0] for row in OTHERS])
def test_G2_tools_prompts_resources_and_templates_are_classed(old: Json, new: Json, kind: str) -> None:
    changes = compare(contract_of(old), contract_of(new))

    assert changes[0].kind == kind, changes
    assert changes[0].where.startswith(next(iter(new)))
