"""A server starts from a right environment only, and says everything that is wrong at once (T5, S1, S2)."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from tests.live.curl import STATELESS, converse
from tests.live.project import Project, ServerProcess, make_real

pytestmark = pytest.mark.xdist_group("live-processes")

BAD_CONFIGURATION = 78
SECRET = "s3cret-5d0e"

WATCHED = """\
import sys

def watch(event, arguments):
    if event == "socket.bind":
        with open({path!r}, "a") as log:
            print(arguments[1][0], file=log)

sys.addaudithook(watch)
"""
"""Loaded by every Python process before its program: writes down each address that a socket is bound to."""


@pytest.fixture
def bound(tmp_path: Path) -> Path:
    """Return the file in which the addresses appear; `PYTHONPATH` has to name its folder."""
    log = tmp_path / "bound"
    log.touch()
    (tmp_path / "sitecustomize.py").write_text(WATCHED.format(path=str(log)), encoding="utf-8")
    return log


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.10", "notes.example.com", "127.0.0.1.example.com", ""])
def test_T5_address_that_others_can_reach_is_refused_before_a_socket_opens(
    host: str, project: Project, bound: Path
) -> None:
    done = project.run("serve", given={"MCP_HOST": host, "MCP_PORT": "0", "PYTHONPATH": str(bound.parent)})

    assert done.returncode == BAD_CONFIGURATION
    assert done.stdout == ""
    assert f"MCP_HOST={host}  must be a loopback address: 127.0.0.1 or ::1" in done.stderr
    assert "remove it to use 127.0.0.1" in done.stderr
    assert bound.read_text(encoding="utf-8") == ""


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.2"])
def test_T5_loopback_address_is_the_one_that_is_bound(host: str, project: Project, bound: Path) -> None:
    address = "127.0.0.1" if host == "localhost" else host

    with ServerProcess(project, given={"MCP_HOST": host, "PYTHONPATH": str(bound.parent)}) as server:
        assert server.url.startswith(f"http://{address}:")
        assert server.stop() == 0

    assert bound.read_text(encoding="utf-8").splitlines() == [address]


def test_S1_everything_that_is_wrong_is_said_in_one_message(project: Project, bound: Path) -> None:
    bad = {
        "MCP_HOST": "0.0.0.0",
        "MCP_PORT": "eighty",
        "MCP_PUBLIC_URL": "notes.example.com/mcp",
        "MCP_SESSIONS": "sticky",
        "MCP_TOOL_TIMEOUT": "0",
        "MCP_MAX_BODY_BYTES": "12",
        "MCP_STATE_URL": f"rediss//user:{SECRET}@cache:6379/0",
        "MCP_DATABASE_URL": f"mysql://user:{SECRET}@database/notes",
        "MCP_ALLOWED_ORIGINS": f"https://user:{SECRET}@example.com",
        "NOTES_KEPT": "many",
    }

    done = project.run("serve", given={**bad, "PYTHONPATH": str(bound.parent)})

    title, *problems = done.stderr.splitlines()
    assert done.returncode == BAD_CONFIGURATION
    assert title == f"{len(bad)} problems stop this server:"
    assert sorted(line.split()[0].partition("=")[0] for line in problems) == sorted(bad)
    assert all("must be" in line for line in problems)
    assert SECRET not in done.stderr + done.stdout
    assert bound.read_text(encoding="utf-8") == ""


@pytest.mark.parametrize("command", ["serve", "stdio"])
def test_A10_production_without_authentication_does_not_start(command: str, project: Project) -> None:
    given = {"MCP_ENVIRONMENT": "production", "MCP_PUBLIC_URL": "http://notes.example.com"}

    done = project.run(command, given=given)

    assert (done.returncode, done.stdout) == (BAD_CONFIGURATION, "")
    assert done.stderr.startswith("3 problems stop this server:\n")
    assert "MCP_AUTH=none  must not be none in production" in done.stderr
    assert "MCP_PUBLIC_URL=http://notes.example.com  must be https:// in production" in done.stderr


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        (
            {"MCP_DATABASE_URL_FILE": "missing"},
            "MCP_DATABASE_URL_FILE=missing  must be a file that this process can read",
        ),
        (
            {"MCP_DATABASE_URL_FILE": "secret", "MCP_DATABASE_URL": "sqlite+aiosqlite:///notes.db"},
            "MCP_DATABASE_URL_FILE=secret  must not stand beside MCP_DATABASE_URL",
        ),
        ({"MCP_DATABASE_URL_FILE": "secret"}, "MCP_DATABASE_URL  must be postgresql+asyncpg://"),
    ],
    ids=["missing", "twice", "of the wrong form"],
)
def test_S1_secret_in_a_file_is_checked_and_not_shown(
    given: dict[str, str], rule: str, project: Project, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text(f"mysql://user:{SECRET}@database/notes\n", encoding="utf-8")

    done = project.run("serve", given=given, cwd=tmp_path)

    assert done.returncode == BAD_CONFIGURATION
    assert rule in done.stderr
    assert SECRET not in done.stderr


@pytest.mark.parametrize("environment", ["development", "production"])
def test_S2_file_of_variables_is_read_in_development_only(environment: str, project: Project, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("NOTES_KEPT=from-the-file\n", encoding="utf-8")

    done = project.run("serve", given={"MCP_ENVIRONMENT": environment, "MCP_PORT": "0"}, cwd=tmp_path)

    assert done.returncode == BAD_CONFIGURATION
    assert ("NOTES_KEPT" in done.stderr) is (environment == "development")


def test_S2_T9_process_wins_over_the_file_and_the_file_over_the_default(project: Project, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("NOTES_KEPT=0\nMCP_LIST_TTL=7\n", encoding="utf-8")

    with ServerProcess(project, given={"NOTES_KEPT": "1"}, cwd=tmp_path) as server:
        conversation = converse(server.url, STATELESS)
        first, second = (conversation.call("add_note", {"text": "x"}).message["result"] for _ in range(2))
        listed = conversation.post("tools/list").message["result"]

    assert not first.get("isError", False)
    assert second["isError"]
    assert "no room" in second["content"][0]["text"]
    assert (listed["ttlMs"], listed["cacheScope"]) == (7000, "private")


@pytest.mark.parametrize("seconds", ["1", "30"])
def test_T8_fresh_project_starts_whatever_its_longest_call_is(seconds: str, project: Project) -> None:
    with ServerProcess(project, given={"MCP_TOOL_TIMEOUT": seconds}) as server:
        assert server.wait_for("server_started")["tools"]


def test_S1_tool_that_may_take_longer_than_the_whole_server_stops_the_start(extended: Project) -> None:
    done = extended.run("serve", given={"MCP_TOOL_TIMEOUT": "59"})

    assert done.returncode == BAD_CONFIGURATION
    assert "MCP_TOOL_TIMEOUT=59  must be at least 60, which the tool hold declares" in done.stderr
    assert "copier update --data tool_timeout=60" in done.stderr


def test_S1_unknown_variable_is_a_warning_with_the_nearest_name(project: Project) -> None:
    with ServerProcess(project, given={"MCP_PROT": "80", "MCP_SERVICE_HOST": SECRET}) as server:
        near = server.wait_for("unknown_variable", variable="MCP_PROT")
        far = server.wait_for("unknown_variable", variable="MCP_SERVICE_HOST")
        assert server.url

    assert (near["level"], near["nearest"]) == ("warning", "MCP_PORT")
    assert far["nearest"] == ""
    assert SECRET not in server.output


def test_S1_port_that_is_taken_is_said_to_be(project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = project.run("serve", given={"MCP_PORT": str(port)})

    assert done.returncode == BAD_CONFIGURATION
    assert f"MCP_PORT={port}  cannot be opened on 127.0.0.1 (Address already in use)" in done.stderr
    assert "choose another port" in done.stderr
    assert "Traceback" not in done.stderr


def test_S2_refresh_writes_what_is_derived_and_check_only_looks(tmp_path: Path) -> None:
    fresh = make_real(tmp_path / "project")
    example, lock = fresh.root / ".env.example", fresh.root / "uv.lock"
    lock.unlink()

    stale = fresh.run("refresh", "--check")
    assert (stale.returncode, example.exists(), lock.exists()) == (1, False, False)
    assert stale.stdout.splitlines() == [f"{name} is stale; run `refresh`" for name in (".env.example", "uv.lock")]

    written = fresh.run("refresh")
    assert (written.returncode, written.stdout) == (0, ".env.example rewritten\nuv.lock rewritten\n")
    assert (fresh.run("refresh", "--check").returncode, lock.exists()) == (0, True)

    example.write_text(example.read_text(encoding="utf-8").replace("MCP_PORT", "MCP_PROT"), encoding="utf-8")
    stale = fresh.run("refresh", "--check")
    assert (stale.returncode, stale.stdout) == (1, ".env.example is stale; run `refresh`\n")
    assert "MCP_PROT" in example.read_text(encoding="utf-8")


def test_S2_refresh_works_in_a_project_only(project: Project, tmp_path: Path) -> None:
    done = project.run("refresh", cwd=tmp_path)

    assert (done.returncode, done.stdout, list(tmp_path.iterdir())) == (1, "", [])
    assert "run this in the root of your project" in done.stderr


def test_S1_stdio_says_what_is_wrong_on_standard_error_alone(project: Project) -> None:
    done = project.run("stdio", given={"MCP_PORT": "eighty"})

    assert (done.returncode, done.stdout) == (BAD_CONFIGURATION, "")
    assert "MCP_PORT=eighty" in done.stderr


def test_S2_every_variable_of_the_example_is_known_and_its_default_starts_the_server(
    project: Project, tmp_path: Path
) -> None:
    fresh = make_real(tmp_path / "project")
    fresh.run("refresh")
    example = (fresh.root / ".env.example").read_text(encoding="utf-8")
    uncommented = [line.removeprefix("# ") for line in example.splitlines()]
    settings = [line for line in uncommented if line.startswith(("MCP_", "NOTES_")) and "=" in line]
    (tmp_path / ".env").write_text("\n".join(line for line in settings if line.partition("=")[2]), encoding="utf-8")

    with ServerProcess(project, cwd=tmp_path) as server:
        assert server.url

    assert len(settings) > 20
    assert "unknown_variable" not in json.dumps(server.lines)
