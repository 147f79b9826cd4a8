"""The files that checks read, each value with its file and line: YAML, nginx's and Caddy's configurations."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import crossplane  # type: ignore[import-untyped]
import yaml

from mcp_chassis.checks import Finding

Yaml: TypeAlias = "Block | list[Yaml] | str | int | float | bool | None"

_UNITS: Final = {"": 1, "ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "M": 2_592_000, "y": 3.2e7}
_LENGTH: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|[smhdwMy]|)\s*")
_TOKEN: Final = re.compile(
    r"""(?P<gap>[ \t\r]+|\\\n|\#[^\n]*) | (?P<end>\n) | <<(?P<mark>\w+)\n.*?\n[ \t]*(?P=mark)(?=\s)
      | "(?P<quoted>(?:[^"\\]|\\.)*)" | `(?P<raw>[^`]*)` | (?P<word>[^\s"`]\S*)""",
    flags=re.VERBOSE | re.DOTALL,
)


class Block(dict[str, Yaml]):
    """A mapping; asking it for what is not there, or has another shape, gives nothing instead of an error."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self.place = place
        self.places: dict[str, str] = {}

    def put(self, key: str, value: Yaml, place: str) -> None:
        """Set a key that stands at `place`."""
        self[key] = value
        self.places[key] = place

    def value(self, *keys: str) -> Yaml:
        """Return what a path leads to, or None."""
        last = self.block(*keys[:-1])
        return last.get(keys[-1])

    def at(self, *keys: str) -> str:
        """Return the place of the last key of a path that is there."""
        last = self.block(*keys[:-1])
        return last.places.get(keys[-1], last.place) if keys else self.place

    def block(self, *keys: str) -> Block:
        """Return the mapping that a path leads to, or an empty one at the nearest place."""
        found = self
        for key in keys:
            inner = found.get(key)
            found = inner if isinstance(inner, Block) else Block(found.places.get(key, found.place))
        return found

    def blocks(self, *keys: str) -> list[Block]:
        """Return the mappings in the list that a path leads to."""
        found = self.value(*keys)
        return [item for item in found if isinstance(item, Block)] if isinstance(found, list) else []

    def texts(self, *keys: str) -> list[str]:
        """Return the plain values in the list that a path leads to."""
        found = self.value(*keys)
        return [str(item) for item in found if not isinstance(item, Block | list)] if isinstance(found, list) else []

    def text(self, *keys: str) -> str:
        """Return the plain value that a path leads to as text, or nothing."""
        found = self.value(*keys)
        return "" if found is None or isinstance(found, Block | list) else str(found)


class _Loader(yaml.SafeLoader):
    """Keeps places, and the keys that one mapping holds twice."""

    def __init__(self, text: str, name: str, offset: int) -> None:
        super().__init__(text)
        self.file, self.offset = name, offset
        self.twice: list[Finding] = []

    def place(self, mark: yaml.Mark) -> str:
        """Return `file:line`."""
        return f"{self.file}:{mark.line + 1 + self.offset}"

    def mapping(self, node: yaml.MappingNode) -> Block:
        """Build one mapping."""
        counts = Counter(key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge")
        self.twice += [
            Finding("fail", f"{key.value} stands twice in one mapping", self.place(key.start_mark))
            for key, _ in node.value
            if counts[key.value] > 1
        ]
        self.flatten_mapping(node)
        block = Block(self.place(node.start_mark))
        for key, value in node.value:
            name = str(self.construct_object(key, deep=True))
            block.put(name, self.construct_object(value, deep=True), self.place(key.start_mark))
        return block

    def tagged(self, _tag: str, node: yaml.Node) -> Yaml:
        """Build what carries a tag of some program's own, as compose's `!reset`, as if it had none."""
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node)
        if isinstance(node, yaml.SequenceNode):
            return self.construct_sequence(node, deep=True)
        return str(node.value)


_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.mapping)
_Loader.add_multi_constructor("!", _Loader.tagged)


def load(text: str, name: str, problems: list[Finding], offset: int = 0) -> list[Yaml]:
    """Return the documents of a YAML text, and add what is wrong with it as a text to `problems`.

    Args:
        text: The text.
        name: The file it is from.
        problems: Grows by one for what cannot be parsed, and for each key that stands twice.
        offset: Lines of the file above the text.
    """
    documents: list[Yaml] = []
    loader: _Loader | None = None
    try:
        loader = _Loader(text, name, offset)
        while loader.check_data():  # type: ignore[no-untyped-call]
            documents.append(loader.get_data())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        words = getattr(error, "problem", None) or str(error).splitlines()[0]
        problems.append(Finding("fail", f"not YAML: {words}", loader.place(mark) if mark and loader else name))
    problems += loader.twice if loader else []
    return [item for item in documents if item is not None]


def read(path: Path, problems: list[Finding]) -> list[Yaml]:
    """Return the documents of a YAML file; see `load`."""
    try:
        return load(path.read_text(encoding="utf-8-sig"), str(path), problems)
    except (OSError, UnicodeDecodeError) as error:
        problems.append(Finding("fail", f"cannot be read: {error}", str(path)))
        return []


def blocks(documents: list[Yaml]) -> list[Block]:
    """Return the mappings among documents, and in place of a Kubernetes `List` its items."""
    found = [item for item in documents if isinstance(item, Block)]
    return [one for item in found for one in (item.blocks("items") if item.text("kind") == "List" else [item])]


def seconds(text: str) -> float | None:
    """Read `300`, `300s`, `5m`, `2m10s` or `500ms` as seconds; None is no length of time."""
    parts = _LENGTH.findall(text)
    if not parts or _LENGTH.sub("", text) != "":
        return None
    return float(sum(float(number) * _UNITS[unit] for number, unit in parts))


class Unparsable(Exception):
    """A configuration that its program would refuse: what is wrong, and `file:line`."""


@dataclass(frozen=True, slots=True)
class Directive:
    """One directive, with what stands in its braces."""

    name: str
    arguments: tuple[str, ...]
    place: str
    inside: tuple[Directive, ...] = ()


def nginx(path: Path) -> tuple[Directive, ...]:
    """Read a configuration and all that it includes.

    Raises:
        Unparsable: If nginx would not take it.
    """
    parsed: Any = crossplane.parse(str(path), combine=True)
    for error in parsed["errors"]:
        raise Unparsable(error["error"].partition(" in ")[0], f"{error['file']}:{error['line'] or 1}")
    return _directives(parsed["config"][0]["parsed"])


def _directives(parsed: Any) -> tuple[Directive, ...]:
    return tuple(
        Directive(
            item["directive"], tuple(item["args"]), f"{item['file']}:{item['line']}", _directives(item.get("block", ()))
        )
        for item in parsed
    )


def caddy(path: Path) -> tuple[Directive, ...]:
    """Read a Caddyfile and the files that it imports; a snippet stays where it is defined.

    Raises:
        Unparsable: If its quotes or braces do not match.
    """
    return _caddy(_tokens(path), path)


def _tokens(path: Path) -> Iterator[tuple[str, str]]:
    """Yield words, braces and ends of lines, each with its place."""
    text = path.read_text(encoding="utf-8")
    position, line = 0, 1
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            raise Unparsable("a quotation mark without its end", f"{path}:{line}")
        if not found["gap"]:
            word = next((found[kind] for kind in ("end", "quoted", "raw", "word") if found[kind] is not None), "")
            yield word, f"{path}:{line}"
        line += found[0].count("\n")
        position = found.end()
    yield "\n", f"{path}:{line}"


def _caddy(tokens: Iterator[tuple[str, str]], path: Path, opened: str = "") -> tuple[Directive, ...]:
    found: list[Directive] = []
    words: list[str] = []
    place = ""
    for word, where in tokens:
        if word == "}":
            if not opened:
                raise Unparsable("a } without its {", where)
            return tuple(found)
        if word == "{":
            name, *arguments = words or [""]
            found.append(Directive(name, tuple(arguments), place if words else where, _caddy(tokens, path, where)))
            words = []
        elif word != "\n":
            place = place if words else where
            words.append(word)
        elif words:
            found += _plain(words, place, path)
            words = []
    if opened:
        raise Unparsable("a { without its }", opened)
    return tuple(found)


def _plain(words: list[str], place: str, path: Path) -> Iterator[Directive]:
    imported = sorted(path.parent.glob(words[1])) if words[0] == "import" and len(words) > 1 else []
    if not imported:
        yield Directive(words[0], tuple(words[1:]), place)
    for file in imported:
        yield from caddy(file)
