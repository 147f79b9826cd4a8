"""A rendered server starts with verified resources or not at all, and serves on whatever the origin does (C1)."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp_types import CallToolResult

from mcp_chassis.fetching import Fetched
from mcp_chassis.pins import LOCK, Pin, digest, write_lock
from mcp_chassis.resources import Copies
from tests.live.curl import STATELESS, converse
from tests.live.project import Project, ServerProcess, environment, folder, make_real
from tests.live.prometheus import until
from tests.render.support import succeed
from tests.resources.origin import NAMES, Authority, Origin, raw

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("live-processes")]

PAGE = (Path(__file__).parents[2] / "docs" / "resources.md").read_text(encoding="utf-8")
FILES: dict[str, str] = dict(re.findall(r"<!-- file: (.+?) -->\n```python\n(.*?)```", PAGE, re.DOTALL))
TOOL = "src/acme_notes/tools/colours.py"
EXAMPLE = "https://files.example.com/v1.2/colours.json"
FILE = "/v1.2/colours.json"
GOOD, BAD = b'{"colours": ["red"]}', b'{"colours": ["rot"]}'
PIN = Pin.of(Fetched(GOOD, whole=True, media_type="application/json"))


@pytest.fixture(scope="module")
def project(_apart: None) -> Project:
    """Return a project with the tool of the page, and one that loads what nobody pinned."""
    made = make_real(folder() / "project")
    text = FILES[TOOL].replace(f'"{EXAMPLE}"', 'os.environ["COLOURS"]').replace("import json", "import json\nimport os")
    text += "\n\n@server.tool()\nasync def stray() -> str:\n    '''Load what nobody pinned.'''\n"
    text += "    return (await resources.load(COLOURS + '/s3cret')).decode()\n"
    (made.root / TOOL).write_text(text, encoding="utf-8")
    return made


@dataclass
class Place:
    """A folder with a lock, copies, and the environment of a server there."""

    project: Project
    origin: Origin
    root: Path
    given: dict[str, str]

    @property
    def copies(self) -> Path:
        """Where copies are kept."""
        return self.root / "copies"

    def has_copy(self) -> None:
        """Let an earlier start have kept its copy."""
        Copies(self.copies).keep(PIN, GOOD)

    def serve(self, given: Mapping[str, str] | None = None) -> ServerProcess:
        """Start a server."""
        return ServerProcess(self.project, given={**self.given, **(given or {})}, cwd=self.root)

    def run(self, *arguments: str, **given: str) -> subprocess.CompletedProcess[str]:
        """Run the command to its end."""
        return self.project.run(*arguments, given={**self.given, **given}, cwd=self.root)


@pytest.fixture
def origin(authority: Authority) -> Iterator[Origin]:
    """Run an origin that has what is pinned."""
    found = Origin(authority.server(NAMES))
    found.put(FILE, GOOD)
    with found.listening():
        yield found


@pytest.fixture
def place(project: Project, origin: Origin, authority: Authority, tmp_path: Path) -> Place:
    """Return a place whose lock pins the colours."""
    write_lock({origin.url(FILE): PIN}, tmp_path / LOCK)
    given = {
        "COLOURS": origin.url(FILE),
        "MCP_RESOURCE_HOSTS": "localhost",
        "MCP_RESOURCE_CACHE": str(tmp_path / "copies"),
        "MCP_RESOURCE_INTERVAL": "0.2",
        "SSL_CERT_FILE": str(authority.file),
    }
    return Place(project, origin, tmp_path, given)


def colours(server: ServerProcess) -> list[str]:
    """Return what the tool of the page answers."""
    result = converse(server.url, STATELESS).call("colours").message["result"]
    assert not result.get("isError"), result
    return list(result["structuredContent"]["result"])


def shown(server: ServerProcess) -> str:
    """Return what `/metrics` shows of resources."""
    text = httpx2.get(server.url.replace("/mcp", "/metrics"), trust_env=False).text
    return "\n".join(line for line in text.splitlines() if line.startswith("mcp_resource_"))


# --- starting ---------------------------------------------------------------------------------------------------------
def test_C1_first_start_fetches_verifies_and_serves(place: Place) -> None:
    with place.serve() as server:
        assert colours(server) == ["red"]
        assert server.stop() == 0

    assert (place.copies / PIN.sha256).read_bytes() == GOOD
    assert server.errors == []


@pytest.mark.parametrize("fault", ["swapped", "gone", "dead"])
@pytest.mark.parametrize("how", ["serve", "stdio"])
def test_C1_without_a_verified_copy_nothing_starts_and_no_socket_opens(fault: str, how: str, place: Place) -> None:
    if fault == "swapped":
        place.origin.put(FILE, BAD)
    elif fault == "gone":
        place.origin.answers.clear()
    else:
        place.origin.answers[FILE] = raw(b"")
    with socket.socket() as taken:
        # Had the server come as far as its socket, it would complain of the port.
        taken.bind(("127.0.0.1", 0))
        done = place.run(how, MCP_PORT=str(taken.getsockname()[1]))

    assert done.returncode == 78, done
    told = done.stderr[done.stderr.index("1 problem stops this server:") :]
    assert told.startswith(f"1 problem stops this server:\n  resources.lock.json: {place.origin.url(FILE)}  has no ")
    assert "Traceback" not in done.stderr
    assert "MCP_PORT" not in done.stderr
    assert (PIN.sha256 in told and digest(BAD) in told) == (fault == "swapped")


@pytest.mark.parametrize("text", ["{", '{"format": 1, "resources": {"https://localhost/main/x": {}}}'])
def test_C2_broken_lock_stops_the_start(text: str, place: Place) -> None:
    place.has_copy()
    (place.root / LOCK).write_text(text, encoding="utf-8")

    done = place.run("serve", MCP_PORT="0")

    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.startswith("1 problem stops this server:\n  resources.lock.json  resources.lock.json is n")


def test_C1_swapped_origin_is_told_critically_and_the_copy_of_the_last_start_serves(place: Place) -> None:
    place.has_copy()
    place.origin.put(FILE, BAD + b"!")
    with place.serve() as server:
        line = server.wait_for("resource_mismatch")
        assert colours(server) == ["red"]
        assert 'mcp_resource_current{resource="localhost:' in shown(server)
        assert server.stop() == 0

    assert line["level"] == "critical"
    assert line["url"] == place.origin.url(FILE)
    assert (line["expected"], line["actual"]) == (PIN.sha256, digest(BAD + b"!"))
    assert (line["expected_bytes"], line["actual_bytes"]) == (len(GOOD), len(BAD) + 1)


def test_C1_dead_origin_is_told_and_the_copy_of_the_last_start_serves(place: Place) -> None:
    place.has_copy()
    place.origin.answers[FILE] = raw(b"")
    with place.serve() as server:
        line = server.wait_for("resource_unreachable", count=3)
        assert colours(server) == ["red"]

    assert (line["level"], line["reason"]) == ("warning", "unreachable")


def test_C1_servers_that_share_a_folder_start_at_the_same_time(place: Place) -> None:
    with place.serve() as first, place.serve() as second:
        assert colours(first) == colours(second) == ["red"]

    assert [path.name for path in place.copies.iterdir()] == [PIN.sha256]


# --- running ----------------------------------------------------------------------------------------------------------
def test_C1_swapped_and_back_while_running_every_call_gets_the_verified_copy(place: Place) -> None:
    with place.serve() as server:
        assert colours(server) == ["red"]
        label = f'{{resource="{place.origin.url(FILE).removeprefix("https://")}"}}'
        for body, current in ((BAD, "0.0"), (GOOD, "1.0"), (BAD, "0.0")):
            place.origin.put(FILE, body)
            until(lambda current=current: f"mcp_resource_current{label} {current}" in shown(server), "no metric")  # type: ignore[misc]
            assert colours(server) == ["red"]
        assert server.stop() == 0


def test_C1_silent_origin_delays_neither_calls_nor_the_stop(place: Place) -> None:
    place.has_copy()
    place.origin.answers[FILE] = raw(b"", stall=True)
    with place.serve() as server:
        until(lambda: place.origin.heads, "nothing was verified")
        assert colours(server) == ["red"]
        assert server.stop() == 0


def test_C1_what_nobody_pinned_is_an_internal_error_without_internals(place: Place) -> None:
    with place.serve() as server:
        message = converse(server.url, STATELESS).call("stray").message
        line = server.wait_for("crashed")

    result = message["result"]
    assert result["isError"]
    assert result["_meta"]["errorCode"] == "internal_error"
    assert line["exception_type"] == "mcp_chassis.resources.NotPinned"
    for inside in ("s3cret", "localhost", "resources", str(place.root)):
        assert inside not in json.dumps(message)
    assert "s3cret" not in server.output


def lines_of(log: Path) -> list[dict[str, Any]]:
    """Return the lines of a log as objects."""
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


async def over_stdio(place: Place, log: Path, wait_for: str) -> tuple[CallToolResult, list[dict[str, Any]]]:
    """Call the tool over stdio; return its result, and the log once it has a line of `wait_for`."""
    parameters = StdioServerParameters(
        command=str(place.project.command), args=["stdio"], env=environment(place.given), cwd=str(place.root)
    )
    with log.open("w+") as stream:
        async with Client(stdio_client(parameters, errlog=stream), mode=STATELESS.mode) as client:
            result = await client.call_tool("colours")
            until(lambda: f'"{wait_for}"' in log.read_text(encoding="utf-8"), "no such line")
    return result, lines_of(log)


async def test_C1_over_stdio_the_copy_serves_and_the_swap_is_told(place: Place, tmp_path: Path) -> None:
    place.has_copy()
    place.origin.put(FILE, BAD)

    result, lines = await over_stdio(place, tmp_path / "log", "resource_mismatch")

    assert result.structured_content == {"result": ["red"]}
    assert next(line for line in lines if line["event"] == "resource_mismatch")["actual"] == digest(BAD)


# --- the page and the project -----------------------------------------------------------------------------------------
def test_C1_example_of_the_page_passes_its_own_test_and_the_checks_of_a_project(project: Project) -> None:
    root = folder() / "example"
    succeed("cp", "-r", str(project.root), str(root), cwd=project.root)
    for name, text in FILES.items():
        (root / name).write_text(text, encoding="utf-8")
    succeed("rm", "-rf", ".venv", cwd=root)
    succeed("uv", "sync", "--quiet", cwd=root)

    succeed("uv", "run", "pytest", "-q", "tests/test_colours.py", cwd=root)
    succeed("uv", "run", "ruff", "check", cwd=root)
    succeed("uv", "run", "ruff", "format", "--check", cwd=root)
    succeed("uv", "run", "mypy", cwd=root)


def test_C2_project_is_born_without_a_lock_which_its_commands_make(place: Place) -> None:
    assert not (place.project.root / LOCK).exists()

    (place.root / LOCK).unlink()
    done = place.run("ops", "resources", "add", place.origin.url(FILE))

    assert done.returncode == 0, done
    found = json.loads((place.root / LOCK).read_text(encoding="utf-8"))["resources"]
    assert found[place.origin.url(FILE)]["sha256"] == PIN.sha256
    assert place.run("ops", "resources", "verify").returncode == 0
    place.origin.put(FILE, BAD)
    assert place.run("ops", "resources", "verify").returncode == 1
