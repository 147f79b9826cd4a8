"""docs/migrate.md, done as it is written: a server of the SDK and one of FastMCP move in (M8)."""

from __future__ import annotations

import ast
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from tests.docs.test_first_hour import shell
from tests.render.support import copy_template, environment
from tests.support.ports import free_port

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("live")]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "migrate.md"
DEADLINE = 60.0
"""Seconds until a server listens; the machine may be busy."""
BLOCK = re.compile(r"<!-- (run|start|file): (.+?) -->\n```\w+\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)
GOOD: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "parcels": [
        ("quote", {"grams": 900}),
        ("quote", {"grams": 900, "express": True}),
        ("track", {"number": "CH-1"}),
        ("last_stop", {"number": "CH-2"}),
    ],
    "trips": [
        ("hours", {"start": "Bern", "end": "Zurich"}),
        ("plan", {"cities": ["Bern", "Zurich", "Milan"]}),
        ("fare", {"start": "Bern", "end": "Zurich", "half": True}),
    ],
}


@dataclass
class Move:
    """The page, done.

    Args:
        folder: Where its blocks ran.
        ports: The free port in place of each port of the page.
        said: The output of each `run` block, and what the page shows for it.
    """

    folder: Path
    ports: dict[str, int]
    said: dict[str, tuple[str, str]] = field(default_factory=dict)

    def url(self, port: int) -> str:
        """Return where the server of a port of the page serves."""
        return f"http://127.0.0.1:{self.ports[str(port)]}/mcp"


def start(script: str, folder: Path, variables: dict[str, str], port: int) -> subprocess.Popen[bytes]:
    """Run a block in a terminal of its own, and return when it listens."""
    *before, last = script.strip().splitlines()
    process = subprocess.Popen(
        ["bash", "-ec", "\n".join([*before, f"exec env {last}"])],
        cwd=folder,
        env=environment() | variables,
        stdin=subprocess.DEVNULL,
        stdout=(folder / f"{port}.log").open("wb"),
        stderr=subprocess.STDOUT,
        process_group=0,
    )
    until = time.monotonic() + DEADLINE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return process
        except OSError:
            said = (folder / f"{port}.log").read_text(encoding="utf-8")
            assert process.poll() is None, said
            assert time.monotonic() < until, said
            time.sleep(0.05)


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Move]:
    """Do what the page says, in its order, with free ports for its own."""
    folder = tmp_path_factory.mktemp("moved")
    template = copy_template(folder / "template")
    shell("git init --quiet && git add --all && git commit --quiet --message template", template, {})
    text = PAGE.read_text(encoding="utf-8")
    move = Move(folder, {port: free_port() for port in sorted(set(re.findall(r"\b80\d\d\b", text)))})
    variables = {"TEMPLATE": str(template), "MCP_PORT": str(move.ports["8080"])}
    text = re.sub(r"\b80\d\d\b", lambda match: str(move.ports[match[0]]), text)
    processes = []
    try:
        for kind, name, content, shown in BLOCK.findall(text):
            if kind == "file":
                (folder / name).write_text(content, encoding="utf-8")
            elif kind == "run":
                move.said[name] = shell(content, folder, variables), shown
            else:
                processes.append(start(content, folder, variables, int(name.split()[1])))
        yield move
    finally:
        for process in processes:
            os.killpg(process.pid, signal.SIGTERM)
        for process in processes:
            process.wait(DEADLINE)


def masked(text: str) -> str:
    """Return a text without the ids of requests and the version of pydantic, and without blank ends."""
    return re.sub(r"\b[0-9a-f]{32}\b|(?<=pydantic\.dev/)[\d.]+", "…", text).strip()


@pytest.mark.parametrize("comparison", ["compare", "compare trips"])
def test_M8_old_and_new_server_differ_in_what_the_page_shows_and_in_nothing_else(moved: Move, comparison: str) -> None:
    said, shown = moved.said[comparison]

    assert masked(said) == masked(shown)


@pytest.mark.parametrize(("server", "ports"), [("parcels", (8001, 8080)), ("trips", (8002, 8081))])
@pytest.mark.parametrize("era", ["legacy", "auto"])
async def test_M8_good_calls_have_the_data_that_they_had_in_both_eras(
    moved: Move, server: str, ports: tuple[int, int], era: str
) -> None:
    answers = []
    for port in ports:
        async with Client(moved.url(port), mode=era) as client:
            results = [await client.call_tool(name, arguments) for name, arguments in GOOD[server]]
            answers.append([(result.is_error, result.structured_content) for result in results])

    assert answers[1] == answers[0]
    assert {failed for failed, _ in answers[1]} == {False}


@pytest.mark.parametrize(("server", "ports"), [("parcels", (8001, 8080)), ("trips", (8002, 8081))])
async def test_M8_resources_and_prompts_moved_with_the_tools(moved: Move, server: str, ports: tuple[int, int]) -> None:
    found = []
    for port in ports:
        async with Client(moved.url(port)) as client:
            (resource,) = (await client.list_resources()).resources
            (prompt,) = (await client.list_prompts()).prompts
            (content,) = (await client.read_resource(resource.uri)).contents
            filled = await client.get_prompt(
                prompt.name, {prompt.arguments[0].name: "Chur"} if prompt.arguments else {}
            )
            found.append((str(resource.uri), prompt.name, content.model_dump()["text"], filled.messages))

    assert found[1] == found[0], server


def functions(path: Path, *, decorated: bool) -> dict[str, str]:
    """Return the functions of a module as they are written, without layout."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.decorator_list = node.decorator_list if decorated else []
            found[node.name] = ast.unparse(node)
    return found


@pytest.mark.parametrize(("server", "decorated"), [("parcels", True), ("trips", False)])
def test_M8_no_function_was_changed_by_the_move(moved: Move, server: str, decorated: bool) -> None:
    old = functions(moved.folder / f"{server}.py", decorated=decorated)
    new = functions(moved.folder / f"acme-{server}/src/acme_{server}/tools/{server}.py", decorated=decorated)

    assert len(old) == 5
    assert new == old
