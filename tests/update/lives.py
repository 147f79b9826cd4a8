"""What a team does to a project between two updates (M3).

Each habit changes what the project has; an older release has less, and its team did less.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.render.support import files, is_yours, succeed

TOOL: Final = '''\
"""Weather for the places that notes mention."""

from typing import Annotated

from pydantic import Field

from mcp_chassis import ToolFailure

from ..server import server
from ..settings import Settings


@server.tool(timeout=10)
async def weather(city: Annotated[str, Field(min_length=2, max_length=80)]) -> float:
    """Tell how warm it is in a city."""
    if city != "Bern":
        raise ToolFailure(f"Only {Settings.current().cities} city is known; ask for Bern.")
    return 11.5
'''
TEST: Final = '''\
"""The weather tool, called as a client calls it."""

import pytest

from mcp_chassis import Server
from mcp_chassis.testing import connect

pytestmark = pytest.mark.anyio


async def test_bern_is_known(server: Server) -> None:
    async with connect(server) as client:
        result = await client.call_tool("weather", {"city": "Bern"})

    assert result.structured_content == {"result": 11.5}
'''
SETTING: Final = '    cities: int = Field(1, ge=1, le=9, description="Cities that are known")\n'
README: Final = "# Ours now\n\nWritten anew by the team, from first to last.\n\n## Who is on call\n\nThe team.\n"
WORKFLOW: Final = """\
# The team's own.
name: nightly
on:
  schedule:
    - cron: "3 3 * * *"
jobs:
  soak:
    runs-on: our-own-runner
    steps:
      - run: echo soak
"""
JOB: Final = "soak:\n  tags: [our-own-runner]\n  script: [echo soak]\n"
OVERLAY: Final = "resources:\n  - ../production\nnamePrefix: staging-\n"
NEW_FILES: Final = {
    ".github/workflows/nightly.yaml": WORKFLOW,
    ".vscode/settings.json": "{}\n",
    "deploy/caddy/conf.d/own.caddy": "# The team's own.\n",
    "deploy/compose.override.yaml": "services:\n  server:\n    environment: {MCP_LOG_LEVEL: debug}\n",
    "deploy/kubernetes/overlays/staging-eu/kustomization.yaml": OVERLAY,
    "deploy/nginx/conf.d/kustomization.yaml": "# The team's own.\n",
    "deploy/nginx/conf.d/own.conf": "# The team's own.\n",
    "docs/decisions.md": "# Decisions\n\n1. No decisions.\n",
}
"""Where the template says that your additions go, and where it has nothing."""


@dataclass(frozen=True)
class Project:
    """A project that somebody lives in."""

    root: Path
    slug: str
    with_lock: bool = False

    @property
    def package(self) -> str:
        """The folder of the code, from the root."""
        return f"src/{self.slug.replace('-', '_')}"

    def change(self, name: str, change: Callable[[str], str]) -> None:
        """Rewrite a file, if this release seeded it."""
        if (self.root / name).is_file():
            text = (self.root / name).read_text(encoding="utf-8")
            (self.root / name).write_text(change(text), encoding="utf-8")

    def write(self, name: str, text: str) -> Path:
        """Write a file, and return its path."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def delete(self, name: str) -> None:
        """Delete a file, if this release seeded it."""
        (self.root / name).unlink(missing_ok=True)


def dependencies(project: Project) -> None:
    """Add two, one of which the chassis needs too; a bot bumps what it may. The lock follows."""
    project.change("pyproject.toml", lambda text: text.replace('version = "0.1.0"', 'version = "1.4.2"'))
    project.change("pyproject.toml", lambda text: text.replace("mypy>=2.4,<3", "mypy>=2.4.0,<3"))
    project.change("server.json", lambda text: text.replace('"0.1.0"', '"1.4.2"'))
    project.change("renovate.json", lambda text: text.replace('"3 days"', '"5 days"'))
    mode = "--no-sync" if project.with_lock else "--frozen"
    succeed("uv", "add", "--quiet", mode, "attrs>=23", "structlog>=25.4,<30", cwd=project.root)
    succeed("uv", "add", "--quiet", mode, "--dev", "iniconfig>=2", cwd=project.root)
    if project.with_lock:
        succeed("uv", "lock", "--quiet", "--upgrade-package", "idna", cwd=project.root)


def tools(project: Project) -> None:
    """Add a tool, rename another, delete the example."""
    project.write(f"{project.package}/tools/weather.py", TOOL)
    project.write("tests/test_weather.py", TEST)
    for name in ("notes", "stored_notes"):
        source = project.root / project.package / "tools" / f"{name}.py"
        if source.is_file():
            project.change(f"{project.package}/tools/{name}.py", lambda text: text + "\n\n# Renamed by the team.\n")
            source.rename(source.with_name("memos.py"))
    project.delete(f"{project.package}/tools/countdown.py")
    project.delete("tests/test_countdown.py")
    project.change("tests/test_tools.py", lambda text: text.partition("\n\nasync def test_progress_")[0])
    project.change(f"{project.package}/settings.py", lambda text: text + SETTING)
    project.change(f"{project.package}/server.py", lambda text: text.replace("Keeps short notes.", "Keeps our notes."))


def words(project: Project) -> None:
    """Rewrite the README, and add a line at both ends of what else is theirs and may be longer."""
    project.write("README.md", README)
    for name in (".gitignore", ".gitattributes", "deploy/apt-packages.txt", "deploy/base.Dockerfile", ".gitlab-ci.yml"):
        more = JOB if name == ".gitlab-ci.yml" else "# The team's last line.\n"
        project.change(name, lambda text, more=more: "# The team's first line.\n" + text + more)  # type: ignore[misc]


def deployment(project: Project) -> None:
    """Use drop-ins and overlays, add workflows, delete one of the template's."""
    for name, text in NEW_FILES.items():
        project.write(name, text)
    production = "deploy/kubernetes/overlays/production"
    for name in ("kustomization.yaml", "patches.yaml", "namespace.yaml", "image/kustomization.yaml"):
        project.change(f"{production}/{name}", lambda text: text.replace("\n", "\n# The team's second line.\n", 1))
    project.delete("deploy/nginx/conf.d/README.md")
    project.delete(".github/workflows/probe.yaml")
    project.write("scripts/release.sh", "#!/bin/sh\necho release\n").chmod(0o755)
    (project.root / project.package / "__main__.py").chmod(0o755)


def build(project: Project) -> None:
    """A team that uses everything."""
    for habit in (dependencies, tools, words, deployment):
        habit(project)


def prune(project: Project) -> None:
    """A team that deletes every second thing that is theirs, and writes around the others."""
    yours = sorted(name for name in files(project.root) if is_yours(name) and not name.endswith((".json", "t.toml")))
    for number, name in enumerate(yours):
        if number % 2:
            project.delete(name)
        else:
            project.change(name, lambda text: "# Mine first.\n" + text + "# Mine last.\n")
    project.delete(".github/workflows/update.yaml")


def check_out_with_crlf(project: Project) -> None:
    """A team whose editors want carriage returns, in everything that git calls text."""
    build(project)
    project.write(".gitattributes", "* text=auto eol=crlf\n*.sh eol=lf\n")
    succeed("git", "add", "--all", cwd=project.root)
    succeed("git", "commit", "--quiet", "--message=crlf", cwd=project.root)
    succeed("git", "rm", "--quiet", "-r", "--cached", ".", cwd=project.root)
    succeed("git", "reset", "--quiet", "--hard", cwd=project.root)


LIVES: Final[dict[str, Callable[[Project], None]]] = {"builds": build, "prunes": prune, "crlf": check_out_with_crlf}
