"""The contract of a server as a file, and what a change of it means to those who call (G2).

Format 1: tools, prompts and resource templates by name, resources by URI; of each what a caller relies on, without
`_meta`, icons and sizes; keys, `required` and `type` lists sorted; the chassis's own ping left out; JSON in UTF-8,
indented by two. The digest is SHA-256 over that text, newline at its end included.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypedDict

from mcp_chassis.narrowing import MISSING, TEXTS, Json, Narrowing, same, silent
from mcp_chassis.registration import is_ours

FORMAT: Final = 1
Kind = Literal["breaking", "compatible", "text-only"]
Step = Literal["major", "minor", "patch", "none"]

_STEPS: Final[dict[Kind, Step]] = {"breaking": "major", "compatible": "minor", "text-only": "patch"}
_VOLATILE: Final = frozenset({"_meta", "icons", "size"})
_SORTED: Final = frozenset({"required", "type"})


class Contract(TypedDict):
    """What a server offers, by what it is called with."""

    format: int
    tools: dict[str, Json]
    prompts: dict[str, Json]
    resources: dict[str, Json]
    resourceTemplates: dict[str, Json]


_IDENTITY: Final = {"tools": "name", "prompts": "name", "resources": "uri", "resourceTemplates": "uriTemplate"}
PARTS: Final = tuple(_IDENTITY)


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between two contracts.

    Args:
        kind: What it means to who relies on the older one.
        where: Which part.
        what: What changed.
    """

    kind: Kind
    where: str
    what: str


def contract_of(lists: Mapping[str, Sequence[Json]]) -> Contract:
    """Return the contract that the lists of a server make, by `tools`, `prompts`, `resources`, `resourceTemplates`."""
    parts = {
        part: {
            str(item[key]): _canonical({name: value for name, value in item.items() if name not in _VOLATILE})
            for item in lists.get(part, ())
            if not (part == "tools" and is_ours(item))
        }
        for part, key in _IDENTITY.items()
    }
    return Contract(
        format=FORMAT,
        tools=parts["tools"],
        prompts=parts["prompts"],
        resources=parts["resources"],
        resourceTemplates=parts["resourceTemplates"],
    )


def text_of(contract: Contract) -> str:
    """Return the contract as it is kept, and as its digest is taken."""
    return json.dumps(contract, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def digest_of(text: str) -> str:
    """Return the SHA-256 of a contract's text, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _canonical(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _canonical(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        if key in _SORTED and all(isinstance(item, str) for item in value):
            return sorted(value)
        return [_canonical(item) for item in value]
    return value


def compare(old: Contract, new: Contract) -> list[Change]:
    """Return every change from `old` to `new`, what breaks callers first."""
    changes: list[Change] = []
    for part in _IDENTITY:
        before, after = old[part], new[part]  # type: ignore[literal-required]  # the keys of a Contract
        changes += [Change("breaking", f"{part}/{name}", "removed") for name in before if name not in after]
        changes += [Change("compatible", f"{part}/{name}", "added") for name in after if name not in before]
        for name in sorted(before.keys() & after.keys()):
            changes += _entry_changes(f"{part}/{name}", before[name], after[name])
    return sorted(changes, key=lambda change: list(_STEPS).index(change.kind))


def step_of(changes: Sequence[Change]) -> Step:
    """Return the step of a version that `changes` ask for (semver.org, 2.0.0)."""
    return _STEPS[min((change.kind for change in changes), key=list(_STEPS).index)] if changes else "none"


def _entry_changes(where: str, old: Json, new: Json) -> Iterator[Change]:
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key, MISSING), new.get(key, MISSING)
        if same(before, after):
            continue
        place = f"{where}/{key}"
        if key in TEXTS:
            yield Change("text-only", place, _told(before, after))
        elif key in ("inputSchema", "outputSchema") and isinstance(before, dict) and isinstance(after, dict):
            yield from _schema_changes(place, before, after, given=key == "inputSchema")
        elif key == "outputSchema" and before is MISSING:
            yield Change("compatible", place, "added")
        elif key == "arguments" and isinstance(before, list) and isinstance(after, list):
            yield from _argument_changes(place, before, after)
        else:
            yield Change("breaking", place, _told(before, after))


def _argument_changes(where: str, old: Sequence[Json], new: Sequence[Json]) -> Iterator[Change]:
    """Yield the changes of a prompt's arguments, which have no schema."""
    before, after = ({item["name"]: item for item in items} for items in (old, new))
    for name in sorted(before.keys() | after.keys()):
        place = f"{where}/{name}"
        was, needed = (side.get(name, {}).get("required", False) for side in (before, after))
        kind: Kind = "breaking" if needed else "compatible"
        if name not in after:
            yield Change("breaking", place, "removed")
        elif name not in before:
            yield Change(kind, place, "added" + (", required" if needed else ""))
        elif was != needed:
            yield Change(kind, place, f"{'' if needed else 'no longer '}required")
        elif not same(before[name], after[name]):
            yield Change("text-only", place, "described otherwise")


def _schema_changes(where: str, old: Json, new: Json, *, given: bool) -> Iterator[Change]:
    """Yield the changes of a schema.

    Args:
        where: Whose.
        old: Before.
        new: After.
        given: Whether callers give it (what was valid must stay valid) or get it (what comes must have been valid).
    """
    found = [Change("breaking", place, what) for place, what in Narrowing(given, old, new).reasons(where)]
    if found:
        yield from found
    elif not same(silent(old), silent(new)):
        yield Change("compatible", where, "accepts more" if given else "promises more")
    before, after = dict(_said(where, old)), dict(_said(where, new))
    # What came or went with a member is told with the member.
    places = before.keys() | after.keys() if same(silent(old), silent(new)) else before.keys() & after.keys()
    for place in sorted(places):
        if not same(before.get(place), after.get(place)):
            yield Change("text-only", place, "described otherwise")


def _said(where: str, value: Any, *, names: bool = False) -> Iterator[tuple[str, object]]:
    """Yield each text of a schema and its place."""
    if not isinstance(value, dict | list):
        return
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        if key in TEXTS and not names:
            yield f"{where}/{key}", inner
        else:
            yield from _said(f"{where}/{key}", inner, names=not names and key in ("properties", "$defs"))


def _told(before: object, after: object) -> str:
    return "added" if before is MISSING else "removed" if after is MISSING else "changed"
