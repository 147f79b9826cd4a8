"""Why a value that one JSON Schema admits may be refused by another (JSON Schema 2020-12).

It knows `type`, `enum`, `required`, bounds, `properties`, `items` and `anyOf`. A keyword restricts a value by itself,
save the few that look at neighbours; whatever else differs counts as a reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

TEXTS: Final = frozenset({"title", "description", "examples", "$comment"})
"""What a schema says to people and models alone: it decides nothing, and it is prompt surface all the same."""
_LOWER: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_OPEN: Final = ("additionalProperties", "items")
_BESIDE: Final = TEXTS | {"anyOf", "default", "$defs"}
_KNOWN: Final = frozenset(
    {"type", "enum", "required", "properties", "anyOf", "default", "$defs", "$ref", *_LOWER, *_UPPER, *_OPEN, *TEXTS}
)
MISSING: Final = object()
"""What stands for a keyword that is not there."""

Json = dict[str, Any]


def silent(value: Any, *, names: bool = False) -> Any:
    """Return a schema without its texts; below `properties` and `$defs` keys are names, not keywords."""
    if isinstance(value, dict):
        return {
            key: silent(inner, names=not names and key in ("properties", "$defs"))
            for key, inner in value.items()
            if names or key not in TEXTS
        }
    return [silent(item) for item in value] if isinstance(value, list) else value


class Narrowing:
    """Why a value that was right may be wrong now; each keyword by itself, and what it does not know is a reason.

    Args:
        given: Whether callers give the value; for what they get, the roles of old and new are changed.
        old: The whole older schema.
        new: The whole newer one.
    """

    def __init__(self, given: bool, old: Json, new: Json) -> None:
        self._given = given
        self._wide, self._narrow = (old, new) if given else (new, old)
        self._open: set[tuple[str, ...]] = set()
        self._alike = same(*(silent(side.get("$defs", {}), names=True) for side in (old, new)))

    def reasons(self, where: str) -> Iterator[tuple[str, str]]:
        """Yield a place and what was narrowed there."""
        yield from self._compare(where, self._wide, self._narrow)

    def _compare(self, where: str, wide: Any, narrow: Any) -> Iterator[tuple[str, str]]:
        wide, narrow = _as_object(wide), _as_object(narrow)
        if "$ref" in wide or "$ref" in narrow:
            yield from self._references(where, wide, narrow)
            return
        if "anyOf" in wide or "anyOf" in narrow:
            yield from self._branches(where, wide, narrow)
            return
        yield from _types(where, wide, narrow)
        yield from _values(where, wide, narrow)
        yield from _bounds(where, wide, narrow)
        yield from self._members(where, wide, narrow)
        yield from self._rest(where, wide, narrow)
        yield from _defaults(where, wide, narrow)
        for key in sorted((wide.keys() | narrow.keys()) - _KNOWN):
            # The same words may refer to what is not the same any more.
            referring = not self._alike and _refers(wide.get(key))
            if referring or not same(wide.get(key, MISSING), narrow.get(key, MISSING)):
                yield f"{where}/{key}", "changed"

    def _references(self, where: str, wide: Json, narrow: Json) -> Iterator[tuple[str, str]]:
        pair = tuple(str(side.get("$ref") or json.dumps(side, sort_keys=True)) for side in (wide, narrow))
        if pair in self._open:
            return  # already being compared further out
        one, other = _resolved(wide, self._wide), _resolved(narrow, self._narrow)
        if one is None or other is None:
            if not same([wide, self._wide.get("$defs")], [narrow, self._narrow.get("$defs")]):
                yield where, "refers elsewhere"
            return
        self._open.add(pair)
        try:
            yield from self._compare(where, one, other)
        finally:
            self._open.discard(pair)  # also when a branch was left half compared

    def _branches(self, where: str, wide: Json, narrow: Json) -> Iterator[tuple[str, str]]:
        beside = [{key: value for key, value in side.items() if key not in _BESIDE} for side in (wide, narrow)]
        if "anyOf" in wide and "anyOf" in narrow:
            yield from self._compare(where, *beside)
        elif any(company for side, company in zip((wide, narrow), beside, strict=True) if "anyOf" in side):
            yield where, "changed beside anyOf"
            return
        yield from _defaults(where, wide, narrow)
        choices = narrow.get("anyOf", [narrow])
        for branch in wide.get("anyOf", [wide]):
            if all(next(self._compare(where, branch, choice), None) for choice in choices):
                yield where, f"{'no longer accepts' if self._given else 'may now be'} {_shown(branch)}"

    def _members(self, where: str, wide: Json, narrow: Json) -> Iterator[tuple[str, str]]:
        before, after = wide.get("properties", {}), narrow.get("properties", {})
        for name in sorted(narrow.get("required", ())):
            if name not in wide.get("required", ()):
                yield f"{where}/{name}", "is required now" if self._given else "may be missing now"
        closed = wide.get("additionalProperties") is False and "patternProperties" not in wide
        for name in sorted(before.keys() | after.keys()):
            if name not in after:
                if self._given or not _admits(narrow):
                    yield f"{where}/{name}", "removed" if self._given else "added to a closed object"
            elif name in before:
                yield from self._compare(f"{where}/{name}", before[name], after[name])
            elif not self._given:
                yield f"{where}/{name}", "removed"
            elif not closed:
                yield f"{where}/{name}", "added where any value was accepted"

    def _rest(self, where: str, wide: Json, narrow: Json) -> Iterator[tuple[str, str]]:
        """Compare what holds for members that are not named."""
        for key in _OPEN:
            one, other = wide.get(key, True), narrow.get(key, True)
            if one is False or other is True or (same(one, other) and not _refers(one)):
                continue
            if other is False or one is True:
                yield f"{where}/{key}", "bounded now"
            else:
                yield from self._compare(f"{where}/{key}", one, other)


def _admits(schema: Json) -> bool:
    """Tell whether an object may have members that the schema does not name."""
    return schema.get("additionalProperties", True) is True and "patternProperties" not in schema


def _as_object(schema: Any) -> Json:
    return schema if isinstance(schema, dict) else {} if schema else {"not": {}}


def _resolved(schema: Json, whole: Json) -> Json | None:
    """Return what a local reference means, with the texts beside it; None if it is none or has company."""
    reference = schema.get("$ref")
    if reference is None:
        return schema
    prefix, _, name = reference.rpartition("/")
    definitions = whole.get("$defs", {})
    if prefix != "#/$defs" or name not in definitions or set(schema) - {"$ref", "default", *TEXTS}:
        return None
    target = _as_object(definitions[name])
    return {**target, "default": schema["default"]} if "default" in schema else target


def _refers(value: Any) -> bool:
    if isinstance(value, dict):
        return "$ref" in value or any(_refers(inner) for inner in value.values())
    return isinstance(value, list) and any(_refers(item) for item in value)


def _types(where: str, wide: Json, narrow: Json) -> Iterator[tuple[str, str]]:
    before, after = _type_set(wide), _type_set(narrow)
    if after is None:
        return
    lost = {"any"} if before is None else before - after - ({"integer"} if "number" in after else set())
    if lost:
        yield f"{where}/type", f"{' | '.join(sorted(lost))} became {' | '.join(sorted(after))}"


def _type_set(schema: Json) -> set[str] | None:
    given = schema.get("type")
    return None if given is None else {given} if isinstance(given, str) else set(given)


def _defaults(where: str, wide: Json, narrow: Json) -> Iterator[tuple[str, str]]:
    """A default that comes where there was none speaks of nobody's calls; another one changes what they mean."""
    if "default" in wide and not same(wide["default"], narrow.get("default", MISSING)):
        yield f"{where}/default", "changed"


def _values(where: str, wide: Json, narrow: Json) -> Iterator[tuple[str, str]]:
    if "enum" not in narrow:
        return
    lost = [value for value in wide.get("enum", ()) if not any(same(value, other) for other in narrow["enum"])]
    if lost or "enum" not in wide:
        yield f"{where}/enum", f"lost {', '.join(map(json.dumps, lost)) or 'every other value'}"


def same(one: object, other: object) -> bool:
    """Compare as JSON does: 1 and true are two values."""
    if MISSING in (one, other):
        return one is other
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _bounds(where: str, wide: Json, narrow: Json) -> Iterator[tuple[str, str]]:
    for key in (*_LOWER, *_UPPER):
        after = narrow.get(key)
        before = wide.get(key)
        tighter = after is not None and (before is None or (after > before if key in _LOWER else after < before))
        if tighter:
            yield f"{where}/{key}", f"{'none' if before is None else before} became {after}"


def _shown(schema: Any) -> str:
    text = json.dumps(silent(schema), sort_keys=True)
    return text if len(text) <= 60 else f"{text[:57]}..."
