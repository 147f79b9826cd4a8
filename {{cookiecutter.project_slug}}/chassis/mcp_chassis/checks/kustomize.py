"""What `kustomize build` makes of a folder, as far as values go: resources, components, patches, generated maps.

Each value keeps the place it comes from, which a build loses. Names, labels and images stay as they are written.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from mcp_chassis.checks.report import Finding, Outcome
from mcp_chassis.checks.sources import Block, Yaml, blocks, load, read

_ADDRESS: Final = re.compile(r"://|^git@|^github\.com/|\?ref=")
NAMES: Final = ("kustomization.yaml", "kustomization.yml", "Kustomization")
_MERGED_BY_NAME: Final = frozenset({"containers", "initContainers", "env", "volumes"})


class Builder:
    """Builds folders; afterwards knows what it read and what it could not."""

    def __init__(self) -> None:
        self.problems: list[Finding] = []
        self.read: set[Path] = set()

    def build(self, folder: Path, objects: list[Block]) -> list[Block]:
        """Add the objects of a folder to `objects`, and return them."""
        file = next((folder / name for name in NAMES if (folder / name).is_file()), folder / NAMES[0])
        for config in blocks(self.documents(file)):
            for name in config.texts("resources"):
                path = self._inside(folder, name, config.at("resources"))
                objects += self.build(path, []) if path.is_dir() else blocks(self.documents(path))
            for name in config.texts("components"):
                self.build(self._inside(folder, name, config.at("components")), objects)
            for generated in config.blocks("configMapGenerator"):
                _generate(generated, folder, objects)
            for patch in config.blocks("patches"):
                self._patch(patch, folder, objects)
        return objects

    def documents(self, path: Path) -> list[Yaml]:
        """Read a file afresh; an address is nobody's file here."""
        self.read.add(path.resolve())
        return read(path, self.problems) if path.is_file() else []

    def _inside(self, folder: Path, name: str, place: str) -> Path:
        path = Path(os.path.normpath(folder / name))
        there = any((path / one).is_file() for one in NAMES) if path.is_dir() else path.is_file()
        if not there:
            outcome: Outcome = "unseen" if _ADDRESS.search(name) else "fail"
            self.problems.append(Finding(outcome, f"{name} is no file, and no kustomization", place, required=False))
        return path

    def _patch(self, patch: Block, folder: Path, objects: list[Block]) -> None:
        inline, (file, _, line) = patch.text("patch"), patch.at("patch").rpartition(":")
        if inline:
            # A text of several lines begins on the next one.
            given = load(inline, file, self.problems, int(line) - ("\n" not in inline))
        else:
            given = self.documents(self._inside(folder, patch.text("path"), patch.at("path")))
        for document in given:
            body = document if isinstance(document, Block) else Block(patch.place)
            target, named = patch.block("target"), patch.block("target") or body.block("metadata")
            kind, name = (target or body).text("kind"), named.text("name")
            for one in list(objects):
                if kind not in ("", one.text("kind")) or name not in ("", one.text("metadata", "name")):
                    continue
                if body.text("$patch") == "delete":
                    objects.remove(one)
                merge(one, body)
                for step in document if isinstance(document, list) else []:
                    _step(one, step if isinstance(step, Block) else body)


def _step(one: Block, step: Block) -> None:
    """Apply one operation of a JSON patch."""
    *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in step.text("path").split("/")[1:]] or [""]
    parent: Yaml = one
    for part in parents:
        if isinstance(parent, list):
            parent = parent[int(part)] if part.isdecimal() and int(part) < len(parent) else None
        elif isinstance(parent, Block):
            parent = parent.get(part)
    operation = step.text("op")
    if isinstance(parent, list):
        start = int(last) if last.isdecimal() else len(parent)
        parent[start : start + (operation != "add")] = [] if operation == "remove" else [step.value("value")]
    elif isinstance(parent, Block) and operation == "remove":
        parent.pop(last, None)
    elif isinstance(parent, Block):
        parent.put(last, step.value("value"), step.at("value"))


def merge(target: Block, patch: Block) -> None:
    """Lay a strategic merge patch over an object: mappings deeply, named containers and variables one by one."""
    for key, value in patch.items():
        there = target.get(key)
        if value is None:
            target.pop(key, None)
        elif isinstance(there, Block) and isinstance(value, Block):
            merge(there, value)
        elif isinstance(there, list) and key in _MERGED_BY_NAME:
            for item in patch.blocks(key):
                known = next((one for one in target.blocks(key) if one.text("name") == item.text("name")), None)
                if known is None:
                    there.append(item)
                elif item.text("$patch") == "delete":
                    there.remove(known)
                else:
                    merge(known, item)
        else:
            target.put(key, value, patch.at(key))


def _generate(given: Block, folder: Path, objects: list[Block]) -> None:
    """Add a generated ConfigMap, or what it changes in one that is there."""
    data = Block(given.place)
    for name in given.texts("envs"):
        lines = (folder / name).read_text(encoding="utf-8").splitlines() if (folder / name).is_file() else []
        for number, line in enumerate(lines, start=1):
            key, _, value = line.partition("=")
            data.put(key.strip(), value.strip(), f"{folder / name}:{number}")
    for literal in given.texts("literals"):
        key, _, value = literal.partition("=")
        data.put(key, value.strip("\"'"), given.at("literals"))
    for known in objects:
        if (known.text("kind"), known.text("metadata", "name")) == ("ConfigMap", given.text("name")):
            merge(known.block("data"), data)
            return
    made, metadata = Block(given.place), Block(given.place)
    metadata.put("name", given.text("name"), given.place)
    made.update({"kind": "ConfigMap", "metadata": metadata, "data": data})
    objects.append(made)
