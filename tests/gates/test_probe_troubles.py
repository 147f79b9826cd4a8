"""`probe`: what is hostile, late or wrongly used costs neither time nor secrets (G3, G5)."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel
import pytest
from starlette.responses import Response, StreamingResponse

from tests.gates.between import Exchange, Meddle, between, error
from tests.gates.conftest import Running
from tests.gates.probing import invoke, probe
from tests.live.project import ServerProcess, environment
from tests.support.ports import free_port

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("gates")]


async def silent(x: Exchange) -> Response | None:
    """Answer the first byte, and nothing more."""

    async def body() -> Any:
        yield b": hello\n\n"
        await anyio.sleep_forever()

    return StreamingResponse(body(), media_type="text/event-stream")


async def flood(x: Exchange) -> Response | None:
    """Answer without an end."""

    async def body() -> Any:
        while True:
            yield b"<p>more</p>" * 8192
            await anyio.lowlevel.checkpoint()

    return StreamingResponse(body(), media_type="text/html")


async def left_open(x: Exchange) -> Response | None:
    """Give the right answer on a stream that stays open."""
    if x.method == "DELETE" or x.asks.startswith("notifications/"):
        return None
    answer = await x.stream()

    async def body() -> Any:
        if answer.headers["content-type"].startswith("application/json"):
            yield b"data: " + await answer.aread() + b"\n\n"
        else:
            async for part in answer.aiter_raw():
                yield part
        await anyio.sleep(30)

    kept = {name: value for name, value in answer.headers.items() if name in ("mcp-session-id", "www-authenticate")}
    return StreamingResponse(body(), answer.status_code, media_type="text/event-stream", headers=kept)


async def telltale(x: Exchange) -> Response | None:
    """Repeat the credential in an error, with control characters and a megabyte of words."""
    text = f"\x1b[31mno {x.headers.get('authorization')}\n" + "word " * 200_000
    return error(403, -32000, x.message["id"], text) if x.message else None


@pytest.mark.parametrize(
    ("meddle", "code", "bad"),
    [
        (silent, 3, {"handshake"}),
        (flood, 1, {"handshake", "stateless"}),
        (left_open, 0, set()),
        (telltale, 4, {"admitted"}),
    ],
    ids=["silent", "flood", "left open", "telltale"],
)
def test_G5_hostile_answer_costs_neither_time_nor_secrets(
    meddle: Meddle, code: int, bad: set[str], running: Running
) -> None:
    begun = time.monotonic()
    with between(running.url, meddle) as url:
        said = probe(url, "--token-file", running.files["probe"], "--timeout", "10")

    assert (said.code, said.bad) == (code, bad), said.text
    assert running.tokens["probe"] not in said.text
    assert len(said.text) < 10_000
    assert "\\u001b" not in said.text
    assert time.monotonic() - begun < 90


def test_G5_compressed_bomb_is_not_asked_for(running: Running) -> None:
    asked: list[str] = []

    async def note(x: Exchange) -> Response | None:
        asked.append(x.headers.get("accept-encoding", ""))
        return None

    with between(running.url, note) as url:
        probe(url, "--token-file", running.files["probe"])

    assert set(asked[:4]) == {"identity"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "give a URL, or --targets"),
        (("ftp://notes.example.com",), "is no address of a server"),
        (("https://ann:hunter2@notes.example.com/mcp",), "is no address of a server"),
        (("http://127.0.0.1:1/mcp", "--token-file", "/nowhere"), "/nowhere cannot be read: No such file or directory"),
        (("http://127.0.0.1:1/mcp", "--token-file", "/dev/null"), "/dev/null holds no credential"),
        (("http://127.0.0.1:1/mcp", "--expect-schema", "/dev/null"), "/dev/null holds no SHA-256"),
        (("http://127.0.0.1:1/mcp", "--listen", "nowhere"), "nowhere is no address to listen on"),
        (("http://127.0.0.1:1/mcp", "--wait", "-1"), "greater than or equal to 0"),
        (("--targets", "/dev/null"), "/dev/null names no server"),
    ],
)
def test_G5_wrong_usage_is_2_and_says_what_would_be_right(arguments: tuple[str, ...], told: str) -> None:
    code, said = invoke(*arguments)

    assert code == 2
    assert told in said
    assert "hunter2" not in said


def test_A7_probe_is_never_counted_and_its_token_never_on_a_command_line(running: Running) -> None:
    command = [sys.executable, "-m", "mcp_chassis.checks", running.url, "--stream", "--token-file"]
    with subprocess.Popen(
        [*command, str(running.files["probe"])], env=environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        argv = Path("/proc", str(process.pid), "cmdline").read_text(encoding="utf-8")
        said, _ = process.communicate(timeout=60)

    assert process.returncode == 0, said
    assert running.tokens["probe"] not in argv + said


def test_G5_probe_key_is_not_stopped_by_limits_that_stop_others(running: Running, tmp_path: Path) -> None:
    keyfile = running.files["probe"].parent / "keys.json"
    narrow = {"MCP_AUTH": "keys", "MCP_API_KEYS_FILE": str(keyfile)}
    narrow |= {"MCP_CALLER_LIMIT": "1/1", "MCP_SESSION_LIMIT": "1/1", "MCP_SESSION_LIMIT_PER_CALLER": "1/1"}
    with ServerProcess(running.project, given=narrow) as server:
        probed = [probe(server.url, "--token-file", running.files["probe"]) for _ in range(3)]
        other = probe(server.url, "--token-file", running.files["all"])

    assert [said.code for said in probed] == [0, 0, 0], [said.text for said in probed]
    assert other.code != 0


def test_G3_wait_ends_well_when_the_server_comes_up_later(running: Running) -> None:
    port = free_port()
    with ExitStack() as stack:

        def come() -> None:
            time.sleep(2)
            stack.enter_context(_at(running.url, port))

        later = threading.Thread(target=come)
        later.start()
        said = probe(f"http://127.0.0.1:{port}/mcp", "--token-file", running.files["probe"], "--wait", "60")
        later.join()

    assert said.code == 0, said.text
    assert "not yet (handshake: no answer: ConnectError" in said.text


@contextmanager
def _at(url: str, port: int) -> Iterator[None]:
    listener = socket.create_server(("127.0.0.1", port))
    target = urlsplit(url)
    threads: list[threading.Thread] = []

    def pump(one: socket.socket, other: socket.socket) -> None:
        with one, other:
            while part := one.recv(65536):
                other.sendall(part)

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.create_connection((target.hostname or "", target.port or 0))
            for pair in ((client, server), (server, client)):
                threads.append(threading.Thread(target=pump, args=pair, daemon=True))
                threads[-1].start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield
    finally:
        listener.close()


def test_G3_wait_gives_up_at_its_deadline() -> None:
    begun = time.monotonic()
    said = probe(f"http://127.0.0.1:{free_port()}/mcp", "--wait", "4")

    assert said.code == 3
    assert said.text.count("not yet") >= 1
    assert 4 <= time.monotonic() - begun < 60


def test_G5_hung_server_does_not_outlast_the_deadline_by_much() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # accepts, and says nothing
        begun = time.monotonic()
        said = probe(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp", "--wait", "3", "--timeout", "60")

    assert said.code == 3
    assert time.monotonic() - begun < 30
