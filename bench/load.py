"""A client that sends when a call is due, whether or not earlier ones were answered: `python -m bench.load`.

It runs as a process of its own, so that no other client's work is in its times. Standard input is an `Orders` object as
JSON, standard output a list of `Call`.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from tests.live.curl import ERAS, HANDSHAKE, Answer, Conversation

Outcome = Literal["served", "refused", "suspended", "failed"]
_PATIENCE: Final = 10.0
"""Seconds until an answer counts as failed."""
_INTRODUCTION: Final = {
    "protocolVersion": HANDSHAKE.version,
    "capabilities": {},
    "clientInfo": {"name": "bench", "version": "1"},
}


@dataclass(frozen=True)
class Orders:
    """What a client is to do.

    Args:
        url: Of the server.
        era: Its name.
        keys: API keys of the callers, who take turns.
        rate: Calls a second of all of them.
        seconds: How long.
        begin: When, on the monotonic clock that all processes share.
        seed: Of the moments: calls come at random within equal slots, so that two clients never march in step.
        tool: What is called.
        arguments: With what.
    """

    url: str
    era: str
    keys: list[str]
    rate: float
    seconds: float
    begin: float
    seed: int
    tool: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Call:
    """What became of a call: seconds after the beginning, seconds the client was late, seconds it took."""

    at: float
    late: float
    took: float
    outcome: Outcome


class Connections:
    """Connections to one server, kept for the next call; the one used last goes first.

    Args:
        url: Of the server.
        secure: How its certificate is judged, where it has one.
    """

    def __init__(self, url: str, secure: ssl.SSLContext | None = None) -> None:
        self._secure = secure
        parts = urlsplit(url)
        self._host, self._port, self._path = parts.hostname or "", parts.port or 80, parts.path
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(self, headers: Mapping[str, str], body: str, method: str = "POST") -> tuple[Answer, float]:
        """Return the answer and the seconds from the first byte sent to the last one read."""
        reader, writer = await self._connection()
        given = {"Host": f"{self._host}:{self._port}", "Content-Length": str(len(body)), **headers}
        lines = [f"{method} {self._path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
        request = ("\r\n".join(lines) + "\r\n\r\n" + body).encode()
        begun = time.perf_counter()
        writer.write(request)
        answer = await _read(reader)
        took = time.perf_counter() - begun
        if answer.headers.get("connection") == "close":
            writer.close()
        else:
            self._idle.append((reader, writer))
        return answer, took

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(self._host, self._port, ssl=self._secure)


async def _read(reader: asyncio.StreamReader) -> Answer:
    status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding") != "chunked":
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        return Answer(int(status.split()[1]), headers, body.decode())
    parts = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readexactly(2)
    return Answer(int(status.split()[1]), headers, b"".join(parts).decode())


def outcome_of(answer: Answer) -> Outcome:
    """Tell what a call was answered, in either channel."""
    message = answer.message
    if answer.status == 200 and "result" in message and not message["result"].get("isError"):
        return "served"
    reason = message.get("error", {}).get("data", {}).get("reason")
    code = str(reason or message.get("result", {}).get("_meta", {}).get("errorCode"))
    if code == "limit_suspended":
        return "suspended"
    return "refused" if code.startswith(("limit_", "too_many_")) else "failed"


class _Caller:
    """One caller, in its session if the era has them."""

    def __init__(self, orders: Orders, key: str, connections: Connections) -> None:
        self._orders = orders
        self._connections = connections
        era = next(era for era in ERAS if era.name == orders.era)
        self._conversation = Conversation(orders.url, era, {"Authorization": f"Bearer {key}"})

    async def open(self) -> None:
        """Begin as the era does."""
        begun = self._conversation
        if begun.era is not HANDSHAKE:
            return
        opened, _ = await self._connections.post(*begun.message("initialize", _INTRODUCTION))
        if opened.status != 200:
            raise RuntimeError(f"initialize is answered {opened.status}: {opened.body}")
        session = {"Mcp-Session-Id": opened.headers["mcp-session-id"], "MCP-Protocol-Version": begun.era.version}
        self._conversation = replace(begun, session={**begun.session, **session})
        message = self._conversation.message("notifications/initialized", notification=True)
        await self._connections.post(*message)

    async def call(self) -> tuple[Outcome, float]:
        """Return what a call was answered, and the seconds that took."""
        params = {"name": self._orders.tool, "arguments": self._orders.arguments}
        message = self._conversation.message("tools/call", params)
        try:
            async with asyncio.timeout(_PATIENCE):
                answer, took = await self._connections.post(*message)
            return outcome_of(answer), took
        except (OSError, EOFError, TimeoutError, ValueError):
            return "failed", _PATIENCE

    async def close(self) -> None:
        """End the session."""
        if self._conversation.era is HANDSHAKE:
            await self._connections.post(self._conversation.session, "", method="DELETE")


async def run(orders: Orders) -> list[Call]:
    """Do as ordered."""
    connections = Connections(orders.url)
    callers = [_Caller(orders, key, connections) for key in orders.keys]
    for caller in callers:
        await caller.open()
    moments = random.Random(orders.seed)  # noqa: S311
    calls: list[Call] = []

    async def one(caller: _Caller, due: float) -> None:
        started = time.monotonic()
        outcome, took = await caller.call()
        calls.append(Call(due - orders.begin, started - due, took, outcome))

    async with asyncio.TaskGroup() as running:
        for number in range(round(orders.rate * orders.seconds)):
            due = orders.begin + (number + moments.random()) / orders.rate
            await asyncio.sleep(due - time.monotonic())
            running.create_task(one(callers[number % len(callers)], due))
    for caller in callers:
        await caller.close()
    return sorted(calls, key=lambda call: call.at)


if __name__ == "__main__":
    found = asyncio.run(run(Orders(**json.load(sys.stdin))))
    json.dump([asdict(call) for call in found], sys.stdout)
