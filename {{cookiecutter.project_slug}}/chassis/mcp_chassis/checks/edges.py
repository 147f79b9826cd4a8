"""nginx's and Caddy's configurations as one kind of tree, drop-ins in place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import crossplane  # type: ignore[import-untyped]

_TOKEN: Final = re.compile(
    r"""(?P<gap>[ \t\r]+|\\\n|\#[^\n]*) | (?P<end>\n) | <<(?P<mark>\w+)\n.*?\n[ \t]*(?P=mark)(?=\s)
      | "(?P<quoted>(?:[^"\\]|\\.)*)" | `(?P<raw>[^`]*)` | (?P<word>[^\s"`]\S*)""",
    flags=re.VERBOSE | re.DOTALL,
)


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
