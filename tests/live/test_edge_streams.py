"""The real server behind both edges: streams in both eras, the curl of the pages (T1, T4, O2)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.live.curl import ERAS, EVENTS, HANDSHAKE, Conversation, Era
from tests.live.edges import CONFIGS, FLUSH, Edge, running
from tests.live.fleet import PROBE, Keys
from tests.live.project import Project, ServerProcess
from tests.live.stub_server import DEADLINE

pytestmark = pytest.mark.xdist_group("live")

SECONDS, STEPS = 2.0, 8
PACE = SECONDS / STEPS
"""Seconds between two events; a busy server takes longer, never less."""
SMOOTH = 0.8
"""Share of the time between the first and the last event as sent that is left between them as received."""
CANARY = "canary-7d2e"

DEAF = "proxy_ignore_headers X-Accel-Buffering;"
"""The server asks nginx not to buffer, which would hide that the configuration does."""
GOOD = {"nginx": {"proxy_buffering off;": f"proxy_buffering off; {DEAF}"}, "caddy": {}}
BAD = {"nginx": {"proxy_buffering off;": f"proxy_buffering on; {DEAF}"}, "caddy": {FLUSH: "response_buffers 1MiB"}}

ROOT = Path(__file__).parents[2]
CURL = re.compile(r"```sh\n(curl .*?)```", re.DOTALL)

eras = pytest.mark.parametrize("era", ERAS, ids=str)


@dataclass(frozen=True)
class Stream:
    """The answer to a call with progress, and when each event of it could be read."""

    version: int
    headers: dict[str, str]
    arrived: list[float]
    body: str

    @property
    def spread(self) -> float:
        """Time between the first and the last progress, as a share of what the tool needs at least."""
        return (self.arrived[-1] - self.arrived[0]) / (PACE * (STEPS - 1))


def begin(edge: Edge, era: Era) -> Conversation:
    """Begin a conversation through the edge."""
    begun = Conversation("", era)
    if era is HANDSHAKE:
        hello = {"protocolVersion": era.version, "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}
        headers, body = begun.message("initialize", hello)
        opened = edge.request("POST", "/mcp", headers=list(headers.items()), body=body.encode())
        assert opened.status == 200, opened
        session = {"Mcp-Session-Id": opened.values("Mcp-Session-Id")[0], "MCP-Protocol-Version": era.version}
        begun = replace(begun, session=session)
    return begun


def count_down(edge: Edge, era: Era) -> Stream:
    """Call the tool that reports progress, and note when each report was there to be read."""
    arguments = {"seconds": SECONDS, "steps": STEPS}
    call = {"name": "countdown", "arguments": arguments, "_meta": {"progressToken": "p"}}
    headers, body = begin(edge, era).message("tools/call", call, accept=EVENTS)
    text = b""
    arrived: list[float] = []
    with edge.open("POST", "/mcp", headers=list(headers.items()), body=body.encode()) as response:
        assert response.status == 200, response.read()
        while part := response.read1(65536):
            text += part
            arrived += [time.monotonic()] * (text.count(b"notifications/progress") - len(arrived))
        names = {name.lower(): value for name, value in response.getheaders()}
        return Stream(response.version, names, arrived, text.decode())


@eras
@pytest.mark.parametrize("name", CONFIGS)
def test_T1_T4_events_of_a_tool_arrive_one_by_one_through_the_edge(name: str, era: Era, server: ServerProcess) -> None:
    with running(name, urlsplit(server.url).port or 0, edits=GOOD[name]) as edge:
        received = count_down(edge, era)

    assert received.version == 11
    assert received.headers["content-type"].partition(";")[0] == EVENTS
    assert "no-cache" in received.headers["cache-control"]
    assert received.headers["connection"] == "keep-alive"
    assert "content-length" not in received.headers
    assert "content-encoding" not in received.headers
    assert len(received.arrived) == STEPS
    assert received.spread >= SMOOTH
    assert f"counted {STEPS} steps" in received.body


@eras
@pytest.mark.parametrize("name", CONFIGS)
def test_T4_measurement_notices_that_the_edge_buffers(name: str, era: Era, server: ServerProcess) -> None:
    with running(name, urlsplit(server.url).port or 0, edits=BAD[name]) as edge:
        received = count_down(edge, era)

    assert len(received.arrived) == STEPS
    assert received.spread < SMOOTH


@eras
@pytest.mark.parametrize("name", CONFIGS)
def test_O2_arguments_and_refusals_of_tools_are_not_in_the_edge_log(name: str, era: Era, server: ServerProcess) -> None:
    with running(name, urlsplit(server.url).port or 0) as edge:
        conversation = begin(edge, era)
        for arguments in ({"text": CANARY}, {"text": CANARY, CANARY: 1}, {"text": [CANARY]}):
            headers, body = conversation.message("tools/call", {"name": "add_note", "arguments": arguments})
            answer = edge.request("POST", "/mcp", headers=list(headers.items()), body=body.encode())
            assert answer.status == 200
            edge.access_line(answer.values("X-Request-ID")[0])

        assert CANARY not in edge.output.read_text()


@pytest.mark.parametrize("name", CONFIGS)
def test_D3_D4_curl_of_the_pages_works_through_the_edge(name: str, project: Project, tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    key = keys.headers(PROBE)["Authorization"].removeprefix("Bearer ")
    gate = one_curl("docs/callers.md")
    plain = one_curl("README.md").replace("http://127.0.0.1:8080/mcp", '"$URL" -H "Authorization: Bearer $PROBE_KEY"')
    given = {"MCP_AUTH": "keys", "MCP_API_KEYS_FILE": str(keys.file)}

    with ServerProcess(project, given=given) as server, running(name, urlsplit(server.url).port or 0) as edge:
        told = {"URL": f"https://localhost:{edge.public}/mcp", "CURL_CA_BUNDLE": str(edge.certificate)}
        done = [run(command, told | {"PROBE_KEY": key}) for command in (gate, plain)]
        without = run(gate, told | {"PROBE_KEY": "mcpkey_x"})

    assert [found.returncode for found in done] == [0, 0], done
    assert json.loads(done[1].stdout)["result"]["serverInfo"]["name"] == "acme-notes"
    assert without.returncode != 0


@pytest.mark.parametrize("name", CONFIGS)
def test_T4_curl_that_shows_whether_a_stream_streams(name: str, server: ServerProcess) -> None:
    command = one_curl("docs/edges.md").replace("curl --no-buffer", "curl --no-buffer --silent --fail")

    with running(name, urlsplit(server.url).port or 0) as edge:
        url = f"https://localhost:{edge.public}/mcp"
        done = run(command, {"URL": url, "CURL_CA_BUNDLE": str(edge.certificate), "KEY": "none is needed here"})

    assert done.returncode == 0, done
    assert done.stdout.count("notifications/progress") == 4


def one_curl(page: str) -> str:
    """Return the command that a page shows."""
    (command,) = CURL.findall((ROOT / page).read_text(encoding="utf-8"))
    return str(command)


def run(command: str, told: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run what the page shows, as its reader would."""
    environment = {"PATH": os.environ["PATH"], "NO_PROXY": "*", **told}
    script = f"set -o pipefail\n{command}"
    return subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=DEADLINE, check=False
    )
