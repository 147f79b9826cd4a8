"""Replicas, and the controllers that replace them and tell the balancer which ones are there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from rehearsal.pod import Pod


@dataclass(frozen=True)
class Lag:
    """Seconds until the balancer knows.

    Args:
        added: That a pod became ready.
        removed: That a pod was told to end.
    """

    added: float
    removed: float


class Cluster:
    """A Deployment with `maxUnavailable: 0` and `maxSurge: 1`, and the endpoints of its Service.

    Args:
        make: Returns the pod with this number, not yet started.
        lag: How late the balancer learns.
    """

    def __init__(self, make: Callable[[int], Pod], lag: Lag) -> None:
        self._make = make
        self._lag = lag
        self.endpoints: list[Pod] = []
        """The pods that the balancer knows, rightly or still."""
        self.pods: list[Pod] = []
        """All there ever were."""
        self._active: list[Pod] = []
        self._ending: list[asyncio.Task[None]] = []

    async def start(self, replicas: int) -> None:
        """Start the first pods, and return when the balancer knows them."""
        self._active = list(await asyncio.gather(*(self._new() for _ in range(replicas))))
        self.endpoints = list(self._active)

    async def restart(self) -> None:
        """Replace each pod by a new one; return when all are told to end and the last one has ended.

        A pod is told to end as soon as the new one is ready, though the balancer knows neither.
        """
        for old in list(self._active):
            new = await self._new()
            asyncio.get_running_loop().call_later(self._lag.added, self.endpoints.append, new)
            self._active.append(new)
            self._active.remove(old)
            asyncio.get_running_loop().call_later(self._lag.removed, self.endpoints.remove, old)
            self._ending.append(asyncio.create_task(old.end()))
        await asyncio.gather(*self._ending)
        self._ending.clear()

    async def end(self) -> None:
        """End what is left, as when the Deployment is deleted; by now nobody calls."""
        await asyncio.gather(*(pod.end() for pod in self._active))
        self._active.clear()

    def kill(self) -> None:
        """Leave nothing behind."""
        for pod in self.pods:
            pod.kill()

    async def _new(self) -> Pod:
        pod = self._make(len(self.pods))
        self.pods.append(pod)
        await pod.start()
        return pod
