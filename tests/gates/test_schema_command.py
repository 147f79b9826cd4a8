"""`schema write | check | diff` on a real project and its real server (G2)."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.responses import Response

from mcp_chassis.checks import Unseen
from mcp_chassis.checks.target import Target
from mcp_chassis.checks.wire import ERAS, STATELESS
from mcp_chassis.schema import digest_of, text_of
from tests.gates.between import Exchange, between, result
from tests.gates.conftest import Running
from tests.live.project import DEADLINE, Project, environment
from tests.render.support import ROOT

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("gates")]

CHANGES = {
    "async def search_notes(": "async def find_notes(",  # renamed
    "max_length=2000": "max_length=1500",  # tightened
    '"""Write down a note."""': '"""Write down a note, once."""',  # told otherwise
}
ADDED = '\n\n@server.tool()\nasync def forget() -> None:\n    """Forget everything."""\n'


@pytest.fixture(scope="module")
def accepted(project: Project) -> Iterator[Project]:
    """Return the project with its contract accepted."""
    done = project.run("schema", "write")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "schema/tools.json and schema/tools.sha256 written\n"
    yield project
    for name in ("tools.json", "tools.sha256"):
        (project.root / "schema" / name).unlink()


def test_G2_what_is_written_is_readable_and_verified_by_sha256sum(accepted: Project) -> None:
    folder = accepted.root / "schema"
    contract = json.loads((folder / "tools.json").read_text(encoding="utf-8"))

    subprocess.run(["sha256sum", "--check", "--strict", "tools.sha256"], cwd=folder, check=True)

    assert list(contract["tools"]) == ["add_note", "countdown", "search_notes"]


def test_G2_unchanged_contract_is_good(accepted: Project) -> None:
    done = accepted.run("schema", "check")

    assert (done.returncode, done.stdout) == (0, "no change\n"), done.stderr


def test_G2_each_change_is_told_with_its_meaning_and_the_way_to_accept_it(accepted: Project) -> None:
    tools = accepted.source / "tools" / "notes.py"
    before = tools.read_text(encoding="utf-8")
    after = before + ADDED
    for old, new in CHANGES.items():
        assert old in after
        after = after.replace(old, new)
    try:
        tools.write_text(after, encoding="utf-8")
        done = accepted.run("schema", "check")
        diff = accepted.run("schema", "diff", "schema/tools.json")
    finally:
        tools.write_text(before, encoding="utf-8")

    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "breaking    tools/search_notes: removed",
        "breaking    tools/add_note/inputSchema/text/maxLength: 2000 became 1500",
        "compatible  tools/find_notes: added",
        "compatible  tools/forget: added",
        "text-only   tools/add_note/description: changed",
        "",
        "5 changes; the next version is a major one",
    ]
    assert done.stderr == "accept it, after a review, with: uv run acme-notes schema write\n"
    assert (diff.returncode, diff.stdout) == (0, done.stdout)
    assert done.stdout + done.stderr in (ROOT / "docs" / "gates.md").read_text(encoding="utf-8")


def test_G2_contract_that_a_hand_or_a_merge_changed_is_told_before_anything_starts(accepted: Project) -> None:
    file = accepted.root / "schema" / "tools.json"
    text = file.read_text(encoding="utf-8")
    try:
        told = {}
        for name, broken in {
            "hand": text.replace("2000", "3000"),
            "merge": f"<<<<<<< ours\n{text}",
            "format": text.replace('"format": 1', '"format": 0'),
            "list": "[]",
            "nothing": '{"format": 1}',
        }.items():
            file.write_text(broken, encoding="utf-8")
            done = accepted.run("schema", "check")
            told[name] = done.stderr
            assert (done.returncode, done.stdout) == (1, ""), name
        file.unlink()
        told["none"] = accepted.run("schema", "check").stderr
    finally:
        file.write_text(text, encoding="utf-8")

    assert "do not belong together" in told["hand"]
    assert "is no JSON" in told["merge"]
    assert all("is not of format 1" in told[name] for name in ("format", "list", "nothing"))
    assert "is not there" in told["none"]
    assert all("uv run acme-notes schema write" in text for text in told.values())


def test_G2_server_that_does_not_start_says_so_in_its_own_words(accepted: Project) -> None:
    done = accepted.run("schema", "check", given={"MCP_TOOL_TIMEOUT": "never"})

    assert done.returncode == 1
    assert "the server did not start:" in done.stderr
    assert "MCP_TOOL_TIMEOUT" in done.stderr
    assert "Traceback" not in done.stderr


def child_of(process: subprocess.Popen[str]) -> str:
    """Wait until a process has started another one, and return its number."""
    children = Path("/proc", str(process.pid), "task", str(process.pid), "children")
    until = time.monotonic() + DEADLINE
    while time.monotonic() < until and process.poll() is None:
        if found := children.read_text(encoding="ascii").split():
            return found[0]
        time.sleep(0.01)
    raise TimeoutError("no child")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_G2_interrupted_it_leaves_no_server_behind(number: signal.Signals, project: Project) -> None:
    command = [str(project.command), "schema", "write"]
    with subprocess.Popen(command, cwd=project.root, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        server = child_of(process)
        process.send_signal(number)
        _, said = process.communicate(timeout=DEADLINE)

    assert (process.returncode, said) == (1, "stopped\n")
    assert not Path("/proc", server).exists()


def many(number: int) -> object:
    """Return a tool of a long list."""
    return {"name": f"tool_{number:03}", "inputSchema": {"type": "object"}}


async def paged(x: Exchange) -> Response | None:
    """Give a list of 95 tools in pages of 10."""
    if x.asks != "tools/list":
        return None
    begin = int(x.message["params"].get("cursor", 0))
    following = {"nextCursor": str(begin + 10)} if begin < 90 else {}
    return result(x.message["id"], {"tools": [many(begin + n) for n in range(10 if begin < 90 else 5)], **following})


async def endless(x: Exchange) -> Response | None:
    """Give a list whose cursor leads nowhere."""
    return result(x.message["id"], {"tools": [], "nextCursor": "again"}) if x.asks == "tools/list" else None


async def test_G2_all_pages_of_a_list_are_in_the_contract(running: Running) -> None:
    with between(running.url, paged) as url:
        contracts = [await Target(url, running.tokens["all"]).contract(era) for era in ERAS]

    assert [len(contract["tools"]) for contract in contracts] == [95, 95]
    assert contracts[0] == contracts[1]


async def test_G2_list_without_an_end_is_no_contract(running: Running) -> None:
    with between(running.url, endless) as url, pytest.raises(Unseen, match="more than 100 pages"):
        await Target(url, running.tokens["all"]).contract(STATELESS)


async def test_G5_probe_s_key_sees_the_contract_that_was_accepted(accepted: Project, running: Running) -> None:
    kept = (accepted.root / "schema" / "tools.sha256").read_text(encoding="utf-8").split()[0]

    for name in ("probe", "all"):
        target = Target(running.url, running.tokens[name])
        assert [digest_of(text_of(await target.contract(era))) for era in ERAS] == [kept, kept], name


def test_G2_report_has_colours_on_terminals_alone(accepted: Project) -> None:
    text = (accepted.root / "schema" / "tools.json").read_text(encoding="utf-8")
    older = accepted.root / "schema" / "older.json"
    older.write_text(text.replace("Write down a note.", "Write."), encoding="utf-8")
    command = [str(accepted.command), "schema", "diff", "schema/older.json"]
    try:
        script = f"import pty, sys; sys.exit(pty.spawn({command!r}))"
        seen = subprocess.run(
            [sys.executable, "-c", script], cwd=accepted.root, env=environment(), capture_output=True, text=True
        )
    finally:
        older.unlink()

    assert "\x1b[33mtext-only" in seen.stdout
