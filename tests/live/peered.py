"""Replicas that forward to each other, what stands before them, and what pretends to be one of them."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import httpx2

from mcp_chassis.auth import keys as api_keys
from tests.live.curl import EVENTS, HANDSHAKE, Conversation
from tests.live.edges import program
from tests.live.fleet import Fleet, Keys
from tests.live.peers import Peer
from tests.live.project import DEADLINE, Project, ServerProcess
from tests.support.ports import free_port
from tests.support.redis import Redis, running

SECRET: Final = "peers-" + "s" * 32
ABLE: Final = {
    "protocolVersion": HANDSHAKE.version,
    "capabilities": {"elicitation": {}},
    "clientInfo": {"name": "peered", "version": "1"},
}
"""A client that can be asked."""


@dataclass(frozen=True)
class Site:
    """Where replicas run."""

    project: Project
    keys: Keys
    redis: Redis

    def replica(self, **given: str) -> ServerProcess:
        """Start a replica at a port that its peers know; `given` are settings without `MCP_`."""
        port = free_port()
        known = {
            **{"AUTH": "keys", "API_KEYS_FILE": str(self.keys.file), "STATE_URL": self.redis.url},
            **{"PORT": str(port), "PEER_URL": f"http://127.0.0.1:{port}", "PEER_SECRET": SECRET},
        }
        return ServerProcess(self.project, given={f"MCP_{name}": value for name, value in (known | given).items()})

    def fleet(self, *servers: ServerProcess) -> Fleet:
        """Return running replicas as the helpers of other tests want them."""
        shared = {"MCP_AUTH": "keys", "MCP_API_KEYS_FILE": str(self.keys.file), "MCP_STATE_URL": self.redis.url}
        found = Fleet(self.project, [*servers], self.keys, shared, self.redis)
        assert len(found.urls) == len(servers)
        return found

    def owner_key(self, session: str) -> str:
        """Return where Redis holds the owner of a session."""
        return f"{{{self.project.name}}}:owner:{session}"

    def owner(self, session: str) -> str:
        """Return who holds a session, by Redis; empty if nobody does."""
        _, _, rest = self.redis.ask(b"GET " + self.owner_key(session).encode()).decode().partition("\r\n")
        return rest.strip()

    def name_owner(self, session: str, url: str) -> None:
        """Say in Redis who holds a session."""
        assert self.redis.ask(f'SET {self.owner_key(session)} "{url}"'.encode()) == b"+OK\r\n"


@contextmanager
def site(project: Project, keys: Keys, folder: Path) -> Iterator[Site]:
    """Run a Redis of its own."""
    with running(folder / "redis") as redis:
        yield Site(project, keys, redis)


@contextmanager
def pair(project: Project, keys: Keys, folder: Path, **given: str) -> Iterator[tuple[Site, Fleet]]:
    """Run two replicas that forward to each other."""
    with site(project, keys, folder) as place, ExitStack() as stack:
        servers = [stack.enter_context(place.replica(**given)) for _ in range(2)]
        yield place, place.fleet(*servers)


@asynccontextmanager
async def calling(caller: Mapping[str, str], authorities: Path | None = None) -> AsyncIterator[httpx2.AsyncClient]:
    """Return a client with this credential and as many connections as it needs; `authorities` signed the servers'."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    verify = ssl.create_default_context(cafile=authorities)
    async with httpx2.AsyncClient(
        headers=caller, limits=limits, timeout=DEADLINE, verify=verify, trust_env=False
    ) as http:
        yield http


def at(peer: Peer, url: str) -> Peer:
    """Return the same client in the same session, at another address."""
    return Peer(peer.http, replace(peer.conversation, url=url))


def session_of(peer: Peer) -> str:
    """Return the id of its session."""
    return peer.conversation.session["Mcp-Session-Id"]


async def begin(http: httpx2.AsyncClient, url: str) -> Peer:
    """Open the session of a client that can be asked."""
    reply = await Peer(http, Conversation(url, HANDSHAKE)).send("initialize", ABLE)
    assert reply.answer.status == 200, reply
    session = {"Mcp-Session-Id": reply.answer.headers["mcp-session-id"], "MCP-Protocol-Version": HANDSHAKE.version}
    peer = Peer(http, Conversation(url, HANDSHAKE, session))
    await peer.send("notifications/initialized", notification=True)
    return peer


@asynccontextmanager
async def streaming(peer: Peer, tool: str, arguments: Mapping[str, Any], **how: Any) -> AsyncIterator[Events]:
    """Call a tool, and yield its answer as it comes."""
    call = {"name": tool, "arguments": dict(arguments), "_meta": {"progressToken": "p"}}
    headers, body = peer.conversation.message("tools/call", call, **how)
    async with peer.http.stream("POST", peer.conversation.url, headers=headers, content=body) as response:
        yield Events(response)


@asynccontextmanager
async def listening(peer: Peer) -> AsyncIterator[Events]:
    """Open the session's own stream."""
    headers = {"Accept": EVENTS, **peer.conversation.session}
    async with peer.http.stream("GET", peer.conversation.url, headers=headers) as response:
        yield Events(response)


class Events:
    """The messages of a stream, one after the other."""

    def __init__(self, response: httpx2.Response) -> None:
        self.response = response
        self._chunks = response.aiter_raw()
        self._rest = b""

    async def next(self) -> dict[str, Any] | None:
        """Return the next message, or None at the end of the stream."""
        async with asyncio.timeout(DEADLINE):
            while True:
                event, found, rest = self._rest.replace(b"\r\n", b"\n").partition(b"\n\n")
                if not found:
                    chunk = await anext(self._chunks, None)
                    if chunk is None:
                        return None
                    self._rest += chunk
                    continue
                self._rest = rest
                data = b"".join(line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:"))
                if data:
                    message: dict[str, Any] = json.loads(data)
                    return message

    async def rest(self) -> list[dict[str, Any]]:
        """Return the messages until the end."""
        found = []
        while (message := await self.next()) is not None:
            found.append(message)
        return found


async def answer(peer: Peer, question: Mapping[str, Any], content: Mapping[str, Any]) -> int:
    """Answer a question of the server; return the status."""
    headers, _ = peer.conversation.message("answer")
    body = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept", "content": dict(content)}}
    return (await peer.http.post(peer.conversation.url, headers=headers, content=json.dumps(body))).status_code


_BALANCER: Final = """\
pid {folder}/pid;
error_log stderr crit;
daemon off;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    scgi_temp_path {folder}/scgi;
    uwsgi_temp_path {folder}/uwsgi;
    upstream replicas {{ {servers} keepalive 64; keepalive_timeout 4s; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://replicas;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_buffering off;
            proxy_next_upstream off;
        }}
    }}
}}
"""


@contextmanager
def balancer(fleet: Fleet, folder: Path) -> Iterator[str]:
    """Run an nginx that sends each request to the next replica, whatever it is about; yield its address."""
    folder.mkdir()
    port = free_port()
    servers = " ".join(f"server {httpx2.URL(url).netloc.decode()};" for url in fleet.urls)
    configuration = folder / "nginx.conf"
    configuration.write_text(_BALANCER.format(folder=folder, port=port, servers=servers), encoding="utf-8")
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen([program("nginx"), "-e", "stderr", "-c", str(configuration)], stderr=output)
    try:
        _wait_for(f"http://127.0.0.1:{port}/health/live", process)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.terminate()
        process.wait(DEADLINE)


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    transport = httpx2.HTTPTransport(retries=8)
    with httpx2.Client(transport=transport, timeout=DEADLINE, trust_env=False) as http:
        assert http.get(url).status_code == 200
    assert process.poll() is None


def revoke(fleet: Fleet, keys: Keys, caller: str) -> None:
    """Take back the key of a caller."""
    text = keys.headers(caller)["Authorization"].removeprefix("Bearer ")
    code, _, said = fleet.ops("keys", "revoke", api_keys.split(text)[0])
    assert code == 0, said
