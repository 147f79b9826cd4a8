"""Clients of both eras that send a call when it is due, whether or not earlier ones were answered."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Final

import httpx2

from rehearsal.balancer import Balancer, Broken
from tests.live.curl import BOTH, EVENTS, HANDSHAKE, JSON, STATELESS, Answer, Conversation, Era

_SESSIONS: Final = 8
_SHORT, _LONG = 0.02, 3.0
"""Seconds of most calls, and of every tenth."""
_LONG_EVERY: Final = 10
_STEPS: Final = 6
"""Reports of progress of a call that is not short."""
_REPEATED: Final = (404, 503)
"""What a client of the handshake era answers with a new session and one repeat."""
_PAUSE: Final = 0.2
_HELLO: Final = {
    "protocolVersion": HANDSHAKE.version,
    "capabilities": {},
    "clientInfo": {"name": "rehearsal", "version": "1"},
}


@dataclass
class Call:
    """One call and what became of it.

    Args:
        mark: Its argument, which no other call has.
        era: In which it was sent.
        accept: What it asked for.
        lasting: Seconds that its tool takes.
    """

    mark: str
    era: Era
    accept: str
    lasting: float
    answers: list[str] = field(default_factory=list)
    """The marks in the results it was given."""
    strangers: list[str] = field(default_factory=list)
    """What came in its answer and belongs to another call."""
    repeated_after: int = 0
    """The status that made its client open another session and repeat it."""
    failure: str = ""
    """Why it has no answer."""
    begun: float = 0
    """Seconds after the first one."""
    seconds: float = 0
    """That it took."""

    @property
    def short(self) -> bool:
        """Whether its tool takes no time."""
        return self.lasting == _SHORT


class _Client:
    """One client of the handshake era, with a session and its GET stream."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._opening = asyncio.Lock()
        self._conversation = Conversation("", HANDSHAKE)
        self._listening: asyncio.Task[None] | None = None

    async def conversation(self, refused: Conversation | None = None) -> Conversation:
        """Return the session in use, or a new one in place of the one that was refused."""
        async with self._opening:
            if not self._conversation.session or self._conversation is refused:
                self._conversation = await self._open()
                self.leave()
                self._listening = asyncio.create_task(self._listen(self._conversation))
            return self._conversation

    def leave(self) -> None:
        """Close the stream."""
        if self._listening is not None:
            self._listening.cancel()

    async def _open(self) -> Conversation:
        begun = Conversation("", HANDSHAKE)
        answer = await self._load.send(*begun.message("initialize", _HELLO))
        if answer.status != 200:
            raise Broken(f"initialize: {answer.status}")
        session = {"Mcp-Session-Id": answer.headers["mcp-session-id"], "MCP-Protocol-Version": HANDSHAKE.version}
        opened = replace(begun, session=session)
        answer = await self._load.send(*opened.message("notifications/initialized", notification=True))
        if answer.status != 202:
            raise Broken(f"initialized: {answer.status}")
        return opened

    async def _listen(self, conversation: Conversation) -> None:
        """Keep the GET stream open for as long as the session lasts; no answer may come on it."""
        while True:
            try:
                async with self._load.listen(conversation) as response:
                    if response.status_code == 200:
                        async for line in response.aiter_lines():
                            self._load.unasked += int('"result"' in line)
                        self._load.streams["ended in order"] += 1
                    elif response.status_code in _REPEATED:
                        self._load.streams[f"refused with {response.status_code}"] += 1
                        return
                    else:
                        self._load.streams[f"refused with {response.status_code}"] += 1
            except (httpx2.TransportError, Broken) as error:
                self._load.streams[type(error).__name__] += 1
            await asyncio.sleep(_PAUSE)


class Load:
    """Calls at a steady rate, of every kind in turn.

    Args:
        balancer: Where they go.
        rate: Calls a second.
        longest: Seconds of the longest calls.
        longest_every: One call of so many of a kind is one.
        headers: What proves who calls.
        accepts: What they ask for, in turn.
        eras: In which they are sent, in turn.
    """

    def __init__(
        self,
        balancer: Balancer,
        rate: float,
        *,
        longest: float,
        longest_every: int,
        headers: Mapping[str, str],
        accepts: Sequence[str],
        eras: Sequence[Era],
    ) -> None:
        self.balancer = balancer
        self.calls: list[Call] = []
        self.unasked = 0
        """Answers that came on a GET stream."""
        self.streams: Counter[str] = Counter()
        """How GET streams ended."""
        self.answered = self.failed = 0
        self._rate = rate
        self._longest = longest
        self._longest_every = longest_every
        self._headers = headers
        self._kinds = [(era, accept) for era in eras for accept in accepts]
        self._clients = [_Client(self) for _ in range(_SESSIONS)]

    async def run(self, wanted: int, enough: asyncio.Event) -> None:
        """Send until there were `wanted` calls and `enough` is set; return when each has ended.

        They come at random within equal slots, so that they never march in step with probes or pings.
        """
        moments = random.Random(1)  # noqa: S311
        begun = time.monotonic()
        async with asyncio.TaskGroup() as running:
            while len(self.calls) < wanted or not enough.is_set():
                number = len(self.calls)
                due = begun + (number + moments.random()) / self._rate
                await asyncio.sleep(due - time.monotonic())
                turn, kind = divmod(number, len(self._kinds))
                lasting = (
                    self._longest if turn % self._longest_every == 1 else _LONG if turn % _LONG_EVERY == 0 else _SHORT
                )
                call = Call(f"call-{number}", *self._kinds[kind], lasting, begun=time.monotonic() - begun)
                self.calls.append(call)
                running.create_task(self._carry(call, self._clients[turn % _SESSIONS]))
        for client in self._clients:
            client.leave()

    async def send(self, headers: Mapping[str, str], body: str) -> Answer:
        """Send one message as the caller."""
        return await self.balancer.post({**self._headers, **headers}, body)

    def listen(self, conversation: Conversation) -> AbstractAsyncContextManager[httpx2.Response]:
        """Open a GET stream as the caller."""
        return self.balancer.stream({**self._headers, **conversation.session, "Accept": EVENTS})

    async def _carry(self, call: Call, client: _Client) -> None:
        """Carry one call to its end, whatever that is."""
        begun = time.monotonic()
        try:
            if call.era is STATELESS:
                answer = await self._once(call, Conversation("", STATELESS))
            else:
                conversation = await client.conversation()
                answer = await self._once(call, conversation)
                if answer.status in _REPEATED:
                    call.repeated_after = answer.status
                    answer = await self._once(call, await client.conversation(conversation))
            _judge(call, answer)
        except Broken as error:
            call.failure = str(error)
        call.seconds = time.monotonic() - begun
        self.failed += bool(call.failure)
        self.answered += not call.failure

    async def _once(self, call: Call, conversation: Conversation) -> Answer:
        params = {
            "name": "rehearse",
            "arguments": {"mark": call.mark, "seconds": call.lasting, "steps": 1 if call.short else _STEPS},
            "_meta": {"progressToken": call.mark},
        }
        headers, body = conversation.message("tools/call", params, accept=call.accept)
        answer = await self.send({**headers, "X-Request-ID": call.mark}, body)
        if answer.status == 200:
            _sort(call, json.loads(body)["id"], answer)
        return answer


def _sort(call: Call, id: int, answer: Answer) -> None:
    """Tell this call's results from what belongs to others."""
    try:
        messages: list[dict[str, Any]] = answer.messages
    except ValueError:
        raise Broken("half an answer") from None
    for message in messages:
        if "method" in message:
            token = message.get("params", {}).get("progressToken")
            if token != call.mark:
                call.strangers.append(f"progress of {token}")
        elif message.get("id") != id:
            call.strangers.append(f"answer to {message.get('id')}")
        elif "result" in message and not message["result"].get("isError"):
            mark = message["result"]["content"][0]["text"]
            (call.answers if mark == call.mark else call.strangers).append(mark)
        elif "error" in message:
            raise Broken(f"error {message['error'].get('code')}: {message['error'].get('message')}")
        else:
            raise Broken(f"isError: {message['result']['content'][0]['text']}")


def _judge(call: Call, answer: Answer) -> None:
    if answer.status != 200:
        call.failure = f"{answer.status} {_reason(answer)}".rstrip()
    elif not call.answers:
        call.failure = "an answer without a result"


def _reason(answer: Answer) -> str:
    """Return the server's word for a refusal; an edge's has none."""
    try:
        return str(answer.message.get("error", {}).get("data", {}).get("reason", ""))
    except (ValueError, IndexError, AttributeError):
        return "from the edge"


ACCEPTS: Final = (EVENTS, JSON)
"""What calls ask for, in turn."""
ACCEPTS_OF_STOCK: Final = (BOTH,)
"""The stock server refuses a client that takes one alone with 406; that is another story."""
