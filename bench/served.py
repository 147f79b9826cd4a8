"""A server as its user has it: rendered from the working tree, installed, started, with callers who hold keys."""

from __future__ import annotations

import os
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.figures import Tell
from mcp_chassis.auth.keys import FileKeyring, create
from mcp_chassis.settings import Settings
from tests.live.project import Project, ServerProcess
from tests.render.support import copy_template, render_by_copier, succeed
from tests.support.limits import UNLIMITED


@dataclass(frozen=True)
class Served:
    """A running server with authentication on."""

    url: str
    keyring: FileKeyring

    def keys(self, *callers: str, scopes: Sequence[str]) -> list[str]:
        """Return a new key for each of `callers`."""
        found = []
        with self.keyring.editing() as records:
            for caller in callers:
                key, record = create(caller, scopes=tuple(scopes))
                records[record.id] = record
                found.append(key)
        return found


def render(folder: Path) -> Project:
    """Render the working tree with the default answers and install it."""
    # The settings of the person and the machine are not measured.
    (folder / "copier.yml").write_text("{}\n", encoding="utf-8")
    os.environ["COPIER_SETTINGS_PATH"] = str(folder / "copier.yml")
    root = render_by_copier(copy_template(folder / "template"), folder / "project", ())
    succeed("uv", "sync", "--quiet", "--no-dev", cwd=root)
    return Project(root, str(tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"]))


@contextmanager
def serving(tell: Tell) -> Iterator[Served]:
    """Serve with keys and the default limits; everything is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="mcp-chassis-bench-") as name:
        folder = Path(name)
        tell("rendering and installing a server")
        project = render(folder)
        keyring = FileKeyring(folder / "keys.json")
        with keyring.editing():
            pass
        # Named, because a server of the tests has limits that no test reaches.
        limits = {f"MCP_{field.upper()}": str(Settings.model_fields[field].default) for field in UNLIMITED}
        given = {"MCP_AUTH": "keys", "MCP_API_KEYS_FILE": str(folder / "keys.json"), **limits}
        with ServerProcess(project, given=given) as process:
            yield Served(process.url, keyring)
