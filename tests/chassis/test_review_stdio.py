"""T6: over stdio a line that is no message is answered, and the next one is served."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.chassis.client import DEADLINE, INTRODUCTION, envelope
from tests.support.inside import ANSWERS

pytestmark = pytest.mark.anyio

PROGRAM = f"""
from mcp_chassis import Server, settings
from mcp_chassis.cli import main

settings.answer = {ANSWERS}.__getitem__
main(Server("tests"))
"""


class Process:
    """A server over stdio."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ask(self, line: bytes) -> dict[str, Any]:
        """Send one line and return the next answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + b"\n")
        await self._process.stdin.drain()
        found = json.loads(await asyncio.wait_for(self._process.stdout.readline(), DEADLINE))
        assert isinstance(found, dict)
        return found

    async def close(self) -> int:
        """Close the input and return the exit code."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return await asyncio.wait_for(self._process.wait(), DEADLINE)


@asynccontextmanager
async def running() -> AsyncIterator[Process]:
    """Run a server over stdio."""
    paths = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, "stdio"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=dict(os.environ) | paths,
    )
    try:
        yield Process(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


UNREADABLE: list[tuple[bytes, int]] = [
    (b"garbage", -32700),
    (b'{"jsonrpc":"2.0","id":1', -32700),
    (b"", -32700),
    (b"[]", -32600),
    (json.dumps([envelope("ping")]).encode(), -32600),
    (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[1]}', -32600),
    (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":"canary"}', -32600),
    (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', -32600),
    (json.dumps(envelope("ping", id="canary" * 170)).encode(), -32600),
]


async def test_T6_line_that_is_no_message_is_answered_and_the_next_one_is_served() -> None:
    async with running() as process:
        opened = await process.ask(json.dumps(envelope("initialize", INTRODUCTION, id=0)).encode())
        for number, (line, code) in enumerate(UNREADABLE, start=1):
            refused = await process.ask(line)
            assert (refused["id"], refused["error"]["code"]) == (None, code), line
            assert "canary" not in json.dumps(refused)
            served = await process.ask(json.dumps(envelope("ping", id=number)).encode())
            assert served == {"jsonrpc": "2.0", "id": number, "result": {}}
        ended = await process.close()

    assert opened["result"]["serverInfo"]["name"] == "tests"
    assert ended == 0
