"""A change that is called compatible never refuses a call that was good: random schemas, mutated, and real values."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from mcp_chassis.schema import compare, contract_of

Json = dict[str, Any]
NAMES = ("a", "b", "c", "d")
TYPES = ("string", "integer", "number", "boolean", "null", "array", "object")
SCALARS: list[Any] = ["", "a", "abc", "abcdef", 0, 1, -3, 7, 2.5, True, False, None]


def schema(draw: random.Random, depth: int = 2) -> Any:
    """Return a random schema of the keywords that the classifier knows, and of some that it does not."""
    made: Json = {}
    if draw.random() < 0.1:
        return draw.choice([True, False, {}])
    if depth and draw.random() < 0.15:
        return {"anyOf": [schema(draw, depth - 1) for _ in range(draw.randint(1, 3))]}
    reference = {"$ref": f"#/$defs/{draw.choice(NAMES[:2])}"}
    if depth and draw.random() < 0.1:
        return reference
    if draw.random() < 0.8:
        made["type"] = draw.choice([draw.choice(TYPES), draw.sample(TYPES, 2)])
    if draw.random() < 0.15:
        made["enum"] = draw.sample(SCALARS, 3)
    for key, bound in (("minimum", 0), ("maximum", 5), ("minLength", 1), ("maxLength", 4), ("minItems", 1)):
        if draw.random() < 0.1:
            made[key] = bound + draw.randint(-1, 2) if bound else draw.randint(0, 2)
    if draw.random() < 0.05:
        made["pattern"] = "^a"
    if depth and draw.random() < 0.5:
        made["properties"] = {name: schema(draw, depth - 1) for name in draw.sample(NAMES, draw.randint(0, 3))}
        made["required"] = draw.sample(NAMES, draw.randint(0, 2))
        if draw.random() < 0.6:
            made["additionalProperties"] = draw.choice([True, False, False, schema(draw, depth - 1)])
        if draw.random() < 0.1:
            made["patternProperties"] = {"^a": draw.choice([reference, schema(draw, 0)])}
        if draw.random() < 0.05:
            made["propertyNames"] = draw.choice([reference, {"maxLength": 1}])
    if depth and draw.random() < 0.2:
        made["items"] = schema(draw, depth - 1)
    for key in ("oneOf", "prefixItems"):
        if depth and draw.random() < 0.06:
            made[key] = [reference, schema(draw, depth - 1)]
    return made


def tool_schema(draw: random.Random) -> Json:
    """Return the schema of a tool: an object, with definitions."""
    made = schema(draw)
    while not isinstance(made, dict) or "anyOf" in made or "$ref" in made:
        made = schema(draw)
    made["type"] = "object"
    made["$defs"] = {name: {"properties": {draw.choice(NAMES): schema(draw, 1)}} for name in NAMES[:2]}
    return made


def mutate(draw: random.Random, given: Any, depth: int = 0) -> Any:
    """Return `given` with one small change somewhere in it."""
    made = copy.deepcopy(given)
    if not isinstance(made, dict) or (depth and draw.random() < 0.2):
        return schema(draw, 1)
    holders = [key for key in ("properties", "$defs") if made.get(key)]
    if holders and draw.random() < 0.5:
        members = made[draw.choice(holders)]
        name = draw.choice(sorted(members))
        members[name] = mutate(draw, members[name], depth + 1)
        return made
    change = draw.randrange(8)
    if change == 0:
        made.pop(draw.choice(sorted(made.keys() - {"$defs"}) or ["x"]), None)
    elif change == 1:
        made.setdefault("properties", {})[draw.choice(NAMES)] = schema(draw, 1)
    elif change == 2 and isinstance(made.get("properties"), dict):
        made["properties"].pop(draw.choice(NAMES), None)
    elif change == 3:
        made["required"] = draw.sample(NAMES, draw.randint(0, 2))
    elif change == 4 and depth:
        return {"anyOf": [given, {"type": "null"}]}
    elif change == 5:
        made["additionalProperties"] = draw.choice([True, False])
    elif change == 6:
        made[draw.choice(["minimum", "maxLength", "minItems"])] = draw.randint(0, 4)
    else:
        made["description"] = "otherwise"
    if depth == 0:
        made["type"] = "object"
    return made


def value(draw: random.Random, depth: int = 2) -> Any:
    """Return a random value."""
    kind = draw.random()
    if depth and kind < 0.35:
        return {name: value(draw, depth - 1) for name in draw.sample(NAMES, draw.randint(0, 3))}
    if depth and kind < 0.45:
        return [value(draw, depth - 1) for _ in range(draw.randint(0, 2))]
    return draw.choice(SCALARS)


def _endless(whole: Json) -> bool:
    """Tell whether a definition leads back to itself without a member in between, which no validator survives."""
    return any("$ref" in json.dumps({**_plain(made), "properties": 0}) for made in whole["$defs"].values())


def _plain(made: Any) -> Json:
    return made if isinstance(made, dict) else {}


def kinds(old: Json, new: Json, part: str) -> set[str]:
    """Return how the change of one tool's schema is classed."""
    before, after = ({"name": "x", "inputSchema": {}, part: given} for given in (old, new))
    return {change.kind for change in compare(contract_of({"tools": [before]}), contract_of({"tools": [after]}))}


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32))
def test_G2_change_called_compatible_refuses_no_call_that_was_good(seed: int) -> None:
    draw = random.Random(seed)
    old = tool_schema(draw)
    new = mutate(draw, old)
    calls = [{name: value(draw) for name in draw.sample(NAMES, draw.randint(0, 4))} for _ in range(40)]

    given_kinds, promised_kinds = kinds(old, new, "inputSchema"), kinds(old, new, "outputSchema")

    before, after = Draft202012Validator(old), Draft202012Validator(new)
    assume(not _endless(old) and not _endless(new))
    if "breaking" not in given_kinds:
        assert [call for call in calls if before.is_valid(call) and not after.is_valid(call)] == []
    if "breaking" not in promised_kinds:
        assert [call for call in calls if after.is_valid(call) and not before.is_valid(call)] == []
    assert bool(given_kinds) == bool(promised_kinds) or old == new
