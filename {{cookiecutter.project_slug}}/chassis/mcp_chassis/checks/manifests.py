"""`check manifests`: the invariants of a stream of Kubernetes objects, whoever made it (D5)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final, TextIO

from mcp_chassis.checks.chain import chain
from mcp_chassis.checks.cluster import Cluster
from mcp_chassis.checks.kustomize import NAMES
from mcp_chassis.checks.objects import objects
from mcp_chassis.checks.pods import pods
from mcp_chassis.checks.report import Check, Finding
from mcp_chassis.checks.sources import Yaml, blocks, load, read

manifests: Final[tuple[Check[Cluster], ...]] = (*objects, *pods, *chain)


def given(names: Iterable[str], stdin: TextIO) -> Cluster:
    """Read files, folders and, for `-`, standard input as one stream.

    Raises:
        OSError: If one is not there.
        ValueError: If a folder is not manifests yet: it is to be built.
    """
    problems: list[Finding] = []
    documents: list[Yaml] = []
    for name in names:
        path = Path(name)
        if name == "-":
            documents += load(stdin.read(), "stdin", problems)
        elif path.is_dir():
            files = [file for file in sorted(path.rglob("*")) if file.suffix in (".yaml", ".yml", ".json")]
            if any(file.name in NAMES for file in files):
                raise ValueError(f"{name} is to be built first: kustomize build {name} | … check manifests -f -")
            documents += [document for file in files for document in read(file, problems)]
        else:
            path.stat()
            documents += read(path, problems)
    return Cluster(blocks(documents), problems)
