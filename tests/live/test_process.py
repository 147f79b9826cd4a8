"""The process: what it says when it starts, how it ends, how it is asked for help (S1, T5)."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live import namespace
from tests.live.curl import ERAS, STATELESS, Era, converse
from tests.live.project import Project, ServerProcess, environment, make_real

pytestmark = pytest.mark.xdist_group("live-processes")

HINT = "container_without_edge"
DOCKERS_NAME_SERVER = "127.0.0.11"
"""Where it listens in every network that compose creates, inside the container."""


def test_S1_start_line_says_what_runs_and_how_to_connect(project: Project) -> None:
    with ServerProcess(project) as server:
        started = server.wait_for("server_started")
        server.wait_for("authentication_off", level="warning")
        assert server.stop() == 0

    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/mcp", started["url"])
    assert started["level"] == "info"
    assert started["environment"] == "development"
    assert started["auth"] == "none"
    assert started["store"] == "memory://"
    assert started["tools"] == ["add_note", "countdown", "ping", "search_notes"]
    assert started["connect"] == f"claude mcp add --transport http acme-notes {started['url']}"
    assert server.errors == []
    assert server.lines[0] == started
    assert server.lines[-1]["event"] == "server_stopped"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_S1_signal_ends_the_server_with_0(number: signal.Signals, project: Project) -> None:
    with ServerProcess(project) as server:
        conversations = [converse(server.url, era) for era in ERAS]
        assert [conversation.call("ping").status for conversation in conversations] == [200, 200]

        assert server.stop(number) == 0

    assert server.lines[-1]["event"] == "server_stopped"
    assert "Traceback" not in server.output


def test_S1_module_is_the_command(project: Project) -> None:
    module = str(project.python), "-m", project.package

    helped = subprocess.run([*module, "--help"], cwd=project.root, env=environment(), capture_output=True, check=True)
    with ServerProcess(project, command=module) as server:
        assert server.wait_for("server_started")["tools"]
        assert server.stop() == 0

    told = re.sub(r"Usage: .* \[OPTIONS\]", "", helped.stdout.decode())
    assert told == re.sub(r"Usage: .* \[OPTIONS\]", "", project.run("--help").stdout)


def test_S1_help_teaches(project: Project) -> None:
    helped = project.run("--help")
    text = " ".join(helped.stdout.split())

    assert helped.returncode == 0
    assert "Keeps short notes" in text
    assert "Exit codes: 0 good, 1 a check found something, 2 wrong usage, 78 bad configuration." in text
    assert ".env.example lists them all" in text
    for command, meaning in {"serve": "over HTTP", "stdio": "over stdin and stdout", "refresh": "derived"}.items():
        assert re.search(rf"^  {command} .*{meaning}", helped.stdout, re.MULTILINE)
    assert "--reload" in project.run("serve", "--help").stdout
    assert "--check" in project.run("refresh", "--help").stdout


@pytest.mark.parametrize("arguments", [["serv"], ["serve", "--port", "80"], ["refresh", "all"]], ids=" ".join)
def test_S1_wrong_usage_is_2_and_points_to_the_help(arguments: list[str], project: Project) -> None:
    done = project.run(*arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert "--help" in done.stderr
    assert "Traceback" not in done.stderr


def test_S1_reload_serves_a_new_tool_without_being_started_again(tmp_path: Path) -> None:
    fresh = make_real(tmp_path / "project")
    with ServerProcess(fresh, "serve", "--reload") as server:
        before = server.wait_for("server_started")
        module = fresh.source / "tools" / "shout.py"
        module.write_text(
            "from ..server import server\n\n\n"
            "@server.tool()\nasync def shout(text: str) -> str:\n"
            '    """Say it louder."""\n    return text.upper()\n',
            encoding="utf-8",
        )

        after = server.wait_for("server_started", count=2)

        answer = converse(after["url"], STATELESS).call("shout", {"text": "hello"}).message
        ended = server.stop()

    assert "shout" not in before["tools"]
    assert "shout" in after["tools"]
    assert answer["result"]["content"] == [{"type": "text", "text": "HELLO"}]
    assert ended == 0
    assert "Traceback" not in server.output


@pytest.mark.parametrize("era", ERAS, ids=str)
def test_E2_O2_log_of_a_served_call_is_json_without_what_was_sent(era: Era, extended: Project) -> None:
    secret = "s3cret-71c4"
    with ServerProcess(extended) as server:
        conversation = converse(server.url, era)
        crashed = conversation.call("crash", {"secret": secret})
        conversation.call("add_note", {"text": [secret], secret: secret})
        line = server.wait_for("tool_called", tool_name="crash")
        assert server.stop() == 0

    assert (line["status"], line["error_code"]) == ("crashed", "internal_error")
    assert line["request_id"] in crashed.message["result"]["content"][0]["text"]
    assert [found["exception_type"] for found in server.lines if found["event"] == "crashed"] == ["RuntimeError"]
    assert secret not in server.output
    assert secret not in crashed.body
    assert "not JSON" not in {found["event"] for found in server.lines}


# --- a container and its edge -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listeners", "hinted"),
    [([], True), ([DOCKERS_NAME_SERVER], True), (["0.0.0.0"], False)],
    ids=["alone", "name server", "edge"],
)
def test_T5_container_without_an_edge_is_told_why_nothing_comes_in(
    listeners: list[str], hinted: bool, project: Project
) -> None:
    apart = (*namespace.isolated(), sys.executable, namespace.__file__, *listeners, "--", str(project.command))

    with ServerProcess(project, command=apart, given={"KUBERNETES_SERVICE_HOST": "10.0.0.1"}) as server:
        assert server.url
        # The last thing a start says is this hint, so everything is said once the server answers to a signal.
        assert server.stop() == 0

    hints = [line["hint"] for line in server.lines if line["event"] == HINT]
    assert len(hints) == hinted
    assert all("a published port (-p) reaches nothing here" in hint for hint in hints)
    assert all("deploy/nginx or deploy/caddy" in hint for hint in hints)
