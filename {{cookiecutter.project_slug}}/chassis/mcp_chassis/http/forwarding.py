"""A session answers through any replica: the one that holds it is found in the store and asked, as a stream (S5)."""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import anyio
import httpx2
from mcp_types import INTERNAL_ERROR
from starlette.types import Receive, Scope, Send

from mcp_chassis.auth.assertions import HEADER, Assertions
from mcp_chassis.forms import peer_address
from mcp_chassis.http import Refused, error_of, event_of
from mcp_chassis.request import Request
from mcp_chassis.state.store import Store, StoreDown
from mcp_chassis.telemetry import FORWARDED
from mcp_chassis.telemetry.logging import log

_LEASE: Final = 60.0
"""Seconds for which a replica that died is still named as owner; asking it fails at once."""
_RENEWALS_PER_LEASE: Final = 3
_LOOK: Final = 1.0
"""Seconds between two looks at the store: one that was restarted may have forgotten every owner."""
_CONNECT_SECONDS: Final = 2.0
_SILENCE: Final = 30.0
"""Seconds beyond the longest call without a byte, after which an owner is lost; streams are pinged more often."""
_IDLE_SECONDS: Final = 4.0
"""Below the 5 s of uvicorn, and below what any edge keeps: a request on a connection that just closed would be lost."""
_ON_ITS_WAY: Final = 1.0
"""Seconds within which a request arrives that was sent here on the word of before; it finds a listener (S4)."""
_PREFIX: Final = "owner:"
_SENT_ON: Final = frozenset(
    b"accept content-type mcp-protocol-version mcp-session-id mcp-method mcp-name traceparent tracestate".split()
)
_NOT_SENT_BACK: Final = frozenset(
    {"connection", "date", "keep-alive", "server", "transfer-encoding", "vary", "x-request-id"}
)
_UNREACHED: Final = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
"""The request has certainly not been seen by anybody."""
_EDGE_ALONE: Final = (502, 504)
"""What an owner never says: its edge says so of a process that is not there, or broke off."""


class Forwarding:
    """Name the owner of each session, and send requests on to it.

    Args:
        store: Shared by all replicas.
        assertions: Signs what is sent on.
        url: Where other replicas reach this one.
        public_url: Its host stands in `Host`, and in the certificate of every replica's edge.
        certificate_authority: Who signed that certificate, unless a public authority did.
        longest_call: Seconds that the longest tool call may take.
    """

    def __init__(
        self,
        store: Store,
        assertions: Assertions,
        *,
        url: str,
        public_url: str,
        certificate_authority: Path | None,
        longest_call: float,
    ) -> None:
        self._store = store
        self._assertions = assertions
        self._url = url
        self._whole_at = 0.0
        """When each replica has told its sessions again to a store that was silent, on the monotonic clock."""
        self._told = True
        """False once the store was not told of a session."""
        public = urlsplit(public_url)
        self._host = public.netloc
        self._client = httpx2.AsyncClient(
            verify=ssl.create_default_context(cafile=certificate_authority),
            timeout=httpx2.Timeout(longest_call + _SILENCE, connect=_CONNECT_SECONDS),
            limits=httpx2.Limits(max_connections=None, keepalive_expiry=_IDLE_SECONDS),
            trust_env=False,  # replicas are never behind a proxy
            headers={"accept-encoding": "identity"},  # bytes are passed on as they come
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),  # one caller's are not for the next
        )
        self._extensions = {"sni_hostname": public.hostname}

    async def claim(self, session_id: str) -> None:
        """Tell all replicas that this one holds a session; while the store is silent, the renewal will."""
        try:
            await self._store.write(_PREFIX + session_id, self._url, _LEASE)
        except StoreDown:
            self._told = False

    async def release(self, session_ids: Collection[str]) -> None:
        """Tell all replicas that nobody holds these sessions, so that their clients open others at once.

        It returns when none of them can still send a request here.
        """
        if not session_ids:
            return
        async with anyio.create_task_group() as tasks:
            for session_id in session_ids:
                tasks.start_soon(self._forget, session_id)
        await anyio.sleep(_ON_ITS_WAY)

    async def _forget(self, session_id: str) -> None:
        try:
            await self._store.remove(_PREFIX + session_id)
        except StoreDown:
            return  # the lease ends by itself

    @asynccontextmanager
    async def renewing(self, sessions: Callable[[], Collection[str]]) -> AsyncIterator[None]:
        """Renew the lease of all `sessions` for as long as the context lasts; claims at one time travel together."""

        async def renew() -> None:
            due = time.monotonic()
            while True:
                await anyio.sleep(_LOOK)
                held = list(sessions())
                if time.monotonic() < due and self._told and not await self._forgotten(held[:1]):
                    continue
                due, self._told = time.monotonic() + _LEASE / _RENEWALS_PER_LEASE, True
                async with anyio.create_task_group() as claims:
                    for session_id in held:
                        claims.start_soon(self.claim, session_id)

        async with self._client, anyio.create_task_group() as tasks:
            tasks.start_soon(renew)
            yield
            tasks.cancel_scope.cancel()

    async def _forgotten(self, session_ids: Sequence[str]) -> bool:
        """Tell whether the store lost what it was told of these sessions; that it is silent is noted on the way."""
        try:
            # Of no session something is asked too: whether it answers.
            found = await self._store.read([_PREFIX, *(_PREFIX + session_id for session_id in session_ids)])
        except StoreDown:
            self._silent()
            return False
        return None in found[1:]

    def _silent(self) -> None:
        # Until each replica has looked again.
        self._whole_at = time.monotonic() + 2 * _LOOK

    async def forward(self, session_id: str, request: Request, scope: Scope, receive: Receive, send: Send) -> bool:
        """Let the owner answer; False if there is none, or none that lives.

        Raises:
            Refused: 503 if nobody can tell whether there is one; 502 if it broke off before it answered.
        """
        try:
            [owner] = await self._store.read([_PREFIX + session_id])
        except StoreDown:
            self._silent()
            owner = None
        if owner is None and time.monotonic() < self._whole_at:
            FORWARDED.labels("undecidable").inc()
            text = "The replica that holds this session cannot be found now; try again in about 1 s"
            raise Refused(503, "owner_undecidable", text, retry_after=1, estimate=True)
        if owner is None or owner == self._url or not self._trusted(owner):
            return False
        begun = time.monotonic()
        body = b"" if scope["method"] != "POST" else (await receive()).get("body", b"")
        asked = self._client.build_request(
            scope["method"],
            f"{owner}/mcp",
            content=body,
            headers=self._headers(session_id, request, scope, body, owner),
            extensions=self._extensions,
        )
        relay = _Relay(self._client, asked, request, send)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_until_gone, receive, tasks.cancel_scope)
                await relay.run()
                tasks.cancel_scope.cancel()
        finally:
            if relay.status:
                took = round((time.monotonic() - begun) * 1000, 3)
                log.info("request_forwarded", http_status=relay.status, duration_ms=took)
        FORWARDED.labels(relay.outcome).inc()
        if relay.outcome == "owner_lost" and not relay.status:
            text = "The replica that held this session was lost before it answered; the call may have been done"
            raise Refused(502, "owner_lost", text)
        return relay.outcome != "owner_gone"

    def _trusted(self, owner: str) -> bool:
        """Tell whether `owner` can be a replica: who writes into the store must not turn TLS off, nor choose a path."""
        try:
            return peer_address(owner).partition(":")[0] == self._url.partition(":")[0]
        except ValueError:
            return False

    def _headers(
        self, session_id: str, request: Request, scope: Scope, body: bytes, owner: str
    ) -> list[tuple[bytes, bytes]]:
        assertion = self._assertions.sign(
            request, method=scope["method"], session=session_id, body=body, audience=owner
        )
        return [
            (b"host", self._host.encode("ascii")),
            (b"x-request-id", request.id.encode("ascii")),
            (HEADER.encode("ascii"), assertion.encode("ascii")),
            *(pair for pair in scope["headers"] if pair[0] in _SENT_ON),
        ]


class _Relay:
    """One request on its way to the owner, and the answer on its way back, piece by piece as it comes."""

    def __init__(self, client: httpx2.AsyncClient, asked: httpx2.Request, request: Request, send: Send) -> None:
        self._client = client
        self._asked = asked
        self._request = request
        self._send = send
        self.status = 0
        self.outcome = "client_gone"

    async def run(self) -> None:
        """Send and relay; `outcome` tells what came of it."""
        try:
            answer = await self._client.send(self._asked, stream=True)
        except _UNREACHED as error:
            self.outcome = "owner_gone"
            # A certificate that does not verify looks like a replica that died, but for this line.
            log.warning("owner_unreached", exception_type=type(_root(error)).__name__, url=str(self._asked.url))
            return
        except httpx2.TransportError:
            self.outcome = "owner_lost"
            return
        try:
            if answer.status_code in _EDGE_ALONE:
                self.outcome = "owner_lost"
            else:
                await self._pass_on(answer)
        finally:
            with anyio.CancelScope(shield=True):
                await answer.aclose()

    async def _pass_on(self, answer: httpx2.Response) -> None:
        events = answer.headers.get("content-type", "").startswith("text/event-stream")
        headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in answer.headers.multi_items()
            if name.lower() not in _NOT_SENT_BACK
        ]
        if events:
            headers.append((b"connection", b"keep-alive"))  # T1
        self.status = answer.status_code
        await self._send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
        try:
            async for chunk in answer.aiter_raw():
                await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
            self.outcome = "answered"
            last = b""
        except httpx2.TransportError:
            self.outcome = "owner_lost"
            if not events:
                return  # half an answer: the connection is cut, as the owner's was
            last = self._last_event()
        await self._send({"type": "http.response.body", "body": last})

    def _last_event(self) -> bytes:
        """Return the answer to a call whose owner is lost; a stream of notifications needs none."""
        message = self._request.message
        if message is None or message.id is None:
            return b""
        text = f"The call was lost with its replica; quote request {self._request.id} when you report it"
        answer = error_of(message.id, INTERNAL_ERROR, text, requestId=self._request.id)
        # The first line ends an event that may have come in part.
        return b"\r\n\r\n" + event_of(answer)


def _root(error: BaseException) -> BaseException:
    """Return what `error` began with."""
    while (earlier := error.__cause__ or error.__context__) is not None:
        error = earlier
    return error


async def _until_gone(receive: Receive, relaying: anyio.CancelScope) -> None:
    """End the relaying when the client leaves, so that the owner sees it leave too."""
    while (await receive())["type"] != "http.disconnect":
        pass
    relaying.cancel()
