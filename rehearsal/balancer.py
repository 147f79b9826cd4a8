"""A balancer that picks a ready pod for each request, as a gateway does.

It is ours and not a real nginx for two reasons. It never sends a request twice and never hides a fault behind a retry,
so what a pod does wrong is seen. And it changes its list of pods without a reload, which would close clients'
connections by itself and put the balancer's own faults among the pods'. Connections to the pods are kept and shared by
all clients.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import httpx2

from rehearsal.pod import Pod
from tests.live.curl import Answer

HOST: Final = "localhost:8443"
"""What clients call the server; the certificate names it."""
_SESSION: Final = "mcp-session-id"
_PATIENCE: Final = 60.0
"""Seconds after which an answer is given up."""
_KEPT: Final = 60.0
"""Seconds that an idle connection is kept, well below the 300 s of the edges."""


class Broken(Exception):
    """There is no answer, and this is why."""


class Balancer:
    """Sends requests to the pods in turn.

    Args:
        endpoints: Returns the pods known now.
        certificate: What the edges are verified by.
        sticky: Whether a session's requests go to the pod that opened it for as long as that is known.
    """

    def __init__(self, endpoints: Callable[[], Sequence[Pod]], certificate: Path, *, sticky: bool) -> None:
        self._endpoints = endpoints
        self._sticky = sticky
        self._turns = count()
        self._homes: dict[str, Pod] = {}
        self._client = httpx2.AsyncClient(
            verify=ssl.create_default_context(cafile=certificate),
            timeout=None,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=_KEPT),
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def post(self, headers: Mapping[str, str], body: str) -> Answer:
        """Return what one POST is answered.

        Raises:
            Broken: If there is no whole answer.
        """
        pod = self._pod(headers)
        try:
            async with asyncio.timeout(_PATIENCE):
                response = await self._client.send(self._request("POST", pod, headers, body))
        except TimeoutError:
            raise Broken(f"no answer in {_PATIENCE:g} s") from None
        except httpx2.TransportError as error:
            raise Broken(type(error).__name__) from None
        answer = Answer(response.status_code, dict(response.headers), response.text)
        if _SESSION in answer.headers:
            self._homes[answer.headers[_SESSION]] = pod
        return answer

    @asynccontextmanager
    async def stream(self, headers: Mapping[str, str]) -> AsyncIterator[httpx2.Response]:
        """Open a GET stream; what goes wrong is raised as it is."""
        response = await self._client.send(self._request("GET", self._pod(headers), headers, ""), stream=True)
        try:
            yield response
        finally:
            await response.aclose()

    def _pod(self, headers: Mapping[str, str]) -> Pod:
        known = self._endpoints()
        if not known:
            raise Broken("no pod is ready")
        home = self._homes.get(headers.get("Mcp-Session-Id", ""))
        if self._sticky and home is not None and home in known:
            return home
        return known[next(self._turns) % len(known)]

    def _request(self, method: str, pod: Pod, headers: Mapping[str, str], body: str) -> httpx2.Request:
        return self._client.build_request(
            method,
            f"https://127.0.0.1:{pod.edge.public}/mcp",
            headers={"Host": HOST, **headers},
            content=body or None,
            extensions={"sni_hostname": HOST.partition(":")[0]},
        )
