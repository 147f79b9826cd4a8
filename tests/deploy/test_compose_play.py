"""D2, T5, S3: compose.yaml played with real containers, from the commands of docs/container.md."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy import stand_ins
from tests.deploy.images import Images
from tests.deploy.play import Play, playing
from tests.live.project import Project
from tests.render.support import Answers, label

pytestmark = pytest.mark.xdist_group("containers")

PAGE = (Path(__file__).parents[2] / "docs" / "container.md").read_text(encoding="utf-8")
COMBINATIONS: list[Answers] = [
    (("database", "none"), ("edge", "nginx")),
    (("database", "postgres"), ("edge", "caddy")),
]
SCRAPE_SECONDS = 60.0
POST = ("Content-Type: application/json", "Accept: application/json", "MCP-Protocol-Version: 2026-07-28")


def block(name: str) -> str:
    """Return the fenced block marked `<!-- run: name -->`."""
    found = re.search(rf"<!-- run: {name} -->\n```sh\n(.*?)```", PAGE, re.DOTALL)
    assert found, f"docs/container.md has no block {name}"
    return found[1]


@pytest.fixture(scope="session")
def programs(images: Images) -> str:
    """Return an image that holds what the file's other images hold."""
    stand_ins.provide(images)
    return stand_ins.IMAGE


@pytest.fixture(scope="module", params=COMBINATIONS, ids=label)
def play(
    request: pytest.FixtureRequest, images: Images, programs: str, locked: Callable[[Answers], Project]
) -> Iterator[Play]:
    """Run everything, its secrets made as the page says."""
    answers: Answers = request.param
    root = locked(answers).root
    app = "localhost/acme-notes:play"
    built = images.build(root, app)
    assert built.returncode == 0, built.stdout
    for name in ("secrets", *(["database secrets"] if ("database", "postgres") in answers else [])):
        subprocess.run(["bash", "-euo", "pipefail", "-c", block(name)], cwd=root, check=True, capture_output=True)
    others = ("nginx", "caddy", "redis", "postgres", "prom/prometheus")
    images_here = {"acme-notes": app, **dict.fromkeys(others, programs)}
    first = {"postgres": stand_ins.POSTGRES, "prometheus": ["/bin/prometheus"]}
    with playing(images, root / "deploy", images_here, first) as running:
        running.await_health("server")
        yield running


@pytest.fixture(scope="module")
def key(play: Play) -> str:
    """Return an API key, made as the page says."""
    words = shlex.split(block("key"))
    assert words[:4] == ["docker", "compose", "exec", "server"]
    made = play.run_in("server", *words[4:])
    assert made.returncode == 0, made.stderr
    return made.stdout.strip().splitlines()[0]


def call(play: Play, key: str, tool: str, **arguments: object) -> subprocess.CompletedProcess[str]:
    """Call a tool from the default network, under the name in the certificate."""
    meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
    meta |= {"io.modelcontextprotocol/clientInfo": {"name": "curl", "version": "1"}}
    params = {"name": tool, "arguments": arguments, "_meta": meta}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
    headers = [*POST, "Mcp-Method: tools/call", f"Mcp-Name: {tool}", f"Authorization: Bearer {key}"]
    options = [part for header in headers for part in ("--header", header)]
    return curl(play, "https://localhost:8443/mcp", *options, "--data", body)


def curl(play: Play, url: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Ask the edge, with the certificate that the page's command made."""
    certificate = next(item["file"] for name, item in play.config["secrets"].items() if name == "tls_certificate")
    towards = f"localhost:8443:{play.address('edge')}:8443"
    how = ["--silent", "--show-error", "--fail", "--cacert", certificate, "--connect-to", towards]
    return play.ask("curl", *how, *options, url)


def result(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return the result in an answer that curl printed."""
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["result"]
    return found


def test_D2_services_start_when_what_they_need_is_there(play: Play) -> None:
    place = {event: number for number, event in enumerate(play.events)}

    assert place["started", "edge"] < place["service_healthy", "edge"] < place["started", "server"]
    assert place["started", "redis"] < place["service_healthy", "redis"] < place["started", "server"]
    if ("started", "migrate") in place:
        assert place["service_healthy", "postgres"] < place["started", "migrate"]
        assert place["service_completed_successfully", "migrate"] < place["started", "server"]
        assert "upgrade: done" in play.logs("migrate")


def test_D2_client_is_served_through_the_edge(play: Play, key: str) -> None:
    words = shlex.split(block("call").replace("$KEY", key))
    page_options = words[words.index("https://localhost:8443/mcp") + 1 :]

    greeted = curl(play, "https://localhost:8443/mcp", *page_options)
    added = call(play, key, "add_note", text="the edge is the only way in")
    found = call(play, key, "search_notes", query="only way")

    assert result(greeted)["serverInfo"]["name"] == "acme-notes"
    assert not result(added)["isError"]
    assert "the edge is the only way in" in json.dumps(result(found))


def test_D2_caller_without_a_key_is_refused(play: Play) -> None:
    refused = call(play, "nobody", "search_notes", query="x")

    assert "401" in refused.stderr


def test_T5_other_containers_reach_the_edge_and_never_the_server(play: Play) -> None:
    for network in ("default", "data"):
        address = play.address("edge", network)
        direct = play.ask("curl", "--silent", f"http://{address}:8080/health/live", network=network)
        assert direct.returncode == 7, "connection refused is 7"
    inside = play.ask("curl", "--silent", "--fail", f"http://{play.address('edge')}:9090/health/ready")

    assert inside.returncode == 0
    assert play.run_in("edge", "wget", "-q", "-O", "-", "http://127.0.0.1:8080/health/live").returncode == 0


def test_D2_redis_answers_nobody_without_the_password(play: Play) -> None:
    def redis(*command: str) -> str:
        return play.run_in("redis", "redis-cli", *command).stdout.strip()

    assert "NOAUTH" in redis("ping")
    assert redis("--no-auth-warning", "--user", "health", "--pass", "health", "ping") == "PONG"
    assert "NOPERM" in redis("--no-auth-warning", "--user", "health", "--pass", "health", "get", "x")


def test_O5_prometheus_scrapes_the_edges_internal_listener(play: Play) -> None:
    address = play.address("prometheus")
    until = time.monotonic() + SCRAPE_SECONDS
    while True:
        answer = play.ask("curl", "--silent", f"http://{address}:9090/api/v1/query?query=mcp_active_sessions")
        if answer.returncode == 0 and json.loads(answer.stdout)["data"]["result"]:
            break
        assert time.monotonic() < until, answer.stdout + play.logs("prometheus")
        time.sleep(0.5)

    rules = play.ask("curl", "--silent", f"http://{address}:9090/api/v1/rules")
    assert json.loads(rules.stdout)["data"]["groups"]


def test_S3_stop_lets_a_call_end_through_the_edge(play: Play, key: str) -> None:
    answers: list[subprocess.CompletedProcess[str]] = []
    # Last in this module: everything ends here.
    caller = threading.Thread(target=lambda: answers.append(call(play, key, "countdown", seconds=4, steps=2)))
    caller.start()
    until = time.monotonic() + SCRAPE_SECONDS
    while (
        "mcp_requests_in_flight 1.0" not in play.ask("curl", "-s", f"http://{play.address('edge')}:9090/metrics").stdout
    ):
        assert time.monotonic() < until
        time.sleep(0.05)

    codes = play.down()
    caller.join()

    assert "counted 2 steps" in answers[0].stdout, answers[0].stderr
    assert (codes["server"], codes["edge"]) == (0, 0)
    stopped = [name for event, name in play.events if event == "stopped"]
    assert stopped.index("server") < stopped.index("edge")
    assert stopped.index("server") < stopped.index("redis")
    assert '"event":"drained"' in play.logs("server")
