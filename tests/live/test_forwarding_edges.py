"""Sessions are forwarded from edge to edge: over verified TLS, as a stream, under one request id (S5, T4, O3)."""

from __future__ import annotations

import shutil
import signal
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.live import edges
from tests.live.authority import make_certificate
from tests.live.curl import EVENTS, JSON
from tests.live.edges import Edge
from tests.live.fleet import Keys
from tests.live.peered import answer, at, begin, calling, listening, site, streaming
from tests.live.peers import OK
from tests.live.project import Project, ServerProcess
from tests.support.ports import free_port

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("forwarding-owners")]

SECONDS, STEPS = 1.6, 8
PACE: Final = SECONDS / STEPS
SMOOTH: Final = 0.8
"""Share of the time between the first and the last event as sent that is left between them as received."""
UNKNOWN: Final = "404 unknown_session"
FORGED: Final = {"X-Peer-Assertion": "e30.e30.e30"}


@dataclass(frozen=True)
class Replica:
    """A server behind its edge."""

    server: ServerProcess
    edge: Edge

    @property
    def url(self) -> str:
        """Where its clients reach it."""
        return f"https://localhost:{self.edge.public}/mcp"


@dataclass(frozen=True)
class Cluster:
    """Two replicas, and whom to ask about their certificates."""

    here: Replica
    there: Replica
    authorities: Path
    again: Callable[[], ServerProcess]
    """Starts the first server another time."""


@contextmanager
def cluster(names: tuple[str, str], project: Project, keys: Keys, folder: Path, *, trusting: bool) -> Iterator[Cluster]:
    """Run two replicas behind these edges; unless they are `trusting`, they know another authority."""
    with site(project, keys, folder) as place, ExitStack() as stack:
        ports = [free_port() for _ in names]
        fronts = [stack.enter_context(edges.running(name, port)) for name, port in zip(names, ports, strict=True)]
        # All edges of a server show the certificate of its public name; nginx reads it at each handshake.
        first = next(edge for edge in fronts if edge.name == "caddy" or edge is fronts[-1])
        for edge in (edge for edge in fronts if edge is not first):
            for name in ("tls.key", "tls.crt"):
                shutil.copy(first.folder / name, edge.folder / name)
        (folder / "others").mkdir()
        make_certificate(folder / "others")
        trusted = first.certificate if trusting else folder / "others" / "tls.crt"
        givens = [
            {
                **{"PORT": str(port), "PEER_URL": f"https://127.0.0.1:{edge.peers}"},
                **{"PUBLIC_URL": "https://localhost:8443"},
                **{"PEER_CA_FILE": str(trusted)},
            }
            for edge, port in zip(fronts, ports, strict=True)
        ]
        servers = [stack.enter_context(place.replica(**given)) for given in givens]
        assert all(server.url for server in servers)
        here, there = (Replica(server, edge) for server, edge in zip(servers, fronts, strict=True))
        yield Cluster(here, there, first.certificate, lambda: place.replica(**givens[0]))


@pytest.fixture(scope="module", params=[("nginx", "caddy"), ("caddy", "nginx")], ids="-".join)
def both(
    request: pytest.FixtureRequest, extended: Project, keys: Keys, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """Return a replica behind each edge; each of them is once the owner."""
    with cluster(request.param, extended, keys, tmp_path_factory.mktemp("cluster"), trusting=True) as found:
        yield found


async def test_T4_forwarded_events_arrive_one_by_one_through_both_edges(both: Cluster, keys: Keys) -> None:
    arrived = []
    async with calling(keys.headers("ann"), both.authorities) as http:
        there = at(await begin(http, both.here.url), both.there.url)
        async with streaming(there, "countdown", {"seconds": SECONDS, "steps": STEPS}, accept=EVENTS) as events:
            while (message := await events.next()) is not None and "method" in message:
                arrived.append(time.monotonic())
        async with listening(there) as stream:
            assert (await there.call("announce", {"text": "noticed"})).text == "announced"
            noticed = await stream.next()
            assert (await there.end()).answer.status == 200
            assert await stream.rest() == []
        assert (await there.call("stock_nothing")).outcome == UNKNOWN

    assert len(arrived) == STEPS
    assert (arrived[-1] - arrived[0]) / (PACE * (STEPS - 1)) >= SMOOTH
    assert message is not None
    assert f"counted {STEPS} steps" in str(message["result"])
    assert noticed is not None
    assert noticed["params"]["data"] == "noticed"


async def test_S5_question_of_a_tool_is_answered_through_the_other_edge(both: Cluster, keys: Keys) -> None:
    async with calling(keys.headers("ann"), both.authorities) as http:
        here = await begin(http, both.here.url)
        async with streaming(here, "test_elicitation", {"message": "Who?"}) as events:
            question = await events.next()
            assert question is not None

            status = await answer(at(here, both.there.url), question, {"username": "ann", "email": "a@example.com"})

            [result] = await events.rest()

    assert status == 202
    assert "'username': 'ann'" in result["result"]["content"][0]["text"]


async def test_O3_edges_and_replicas_name_one_request(both: Cluster, keys: Keys) -> None:
    name = f"asked-{both.here.edge.name}"
    async with calling(keys.headers("ann"), both.authorities) as http:
        here = await begin(http, both.here.url)
        http.headers["X-Request-ID"] = name
        reply = await at(here, both.there.url).call("stock_nothing", accept=JSON)

    assert (reply.outcome, reply.answer.headers["x-request-id"]) == (OK, name)
    both.there.server.wait_for("request_forwarded", request_id=name)
    both.here.server.wait_for("tool_called", request_id=name)
    ports = [one.edge.access_line(name)["port"] for one in (both.there, both.here)]
    assert [int(port) for port in ports] == [both.there.edge.public, both.here.edge.peers]


async def test_S5_assertion_of_a_client_is_dropped_by_the_edge_and_refused_by_its_peers(
    both: Cluster, keys: Keys
) -> None:
    async with calling(keys.headers("ann"), both.authorities) as http:
        here = await begin(http, both.here.url)
        http.headers.update(FORGED)

        outside = await here.call("stock_nothing")
        among_replicas = await at(here, f"https://localhost:{both.here.edge.peers}/mcp").call("stock_nothing")

    assert (outside.outcome, among_replicas.outcome) == (OK, "403 bad_peer_assertion")


@pytest.mark.parametrize("name", edges.CONFIGS)
async def test_S5_owner_that_died_behind_its_edge_is_a_lost_call_and_its_successor_knows_nothing(
    name: str, extended: Project, keys: Keys, tmp_path: Path
) -> None:
    with cluster((name, "nginx"), extended, keys, tmp_path, trusting=True) as both:
        async with calling(keys.headers("ann"), both.authorities) as http:
            there = at(await begin(http, both.here.url), both.there.url)

            assert both.here.server.stop(signal.SIGKILL) == -signal.SIGKILL
            lost = await there.call("stock_nothing", id=3)
            with both.again() as successor:
                assert successor.url
                unknown = await there.call("stock_nothing")

    assert (lost.outcome, lost.answer.type, lost.answer.message["id"]) == ("502 owner_lost", JSON, 3)
    assert unknown.outcome == UNKNOWN


async def test_S5_edge_whose_certificate_does_not_verify_is_not_asked(
    extended: Project, keys: Keys, tmp_path: Path
) -> None:
    with cluster(("nginx", "caddy"), extended, keys, tmp_path, trusting=False) as both:
        async with calling(keys.headers("ann"), both.authorities) as http:
            reply = await at(await begin(http, both.here.url), both.there.url).call("stock_nothing")
        line = both.there.server.wait_for("owner_unreached", level="warning")

    assert reply.outcome == UNKNOWN
    assert line["exception_type"] == ssl.SSLCertVerificationError.__name__
    assert line["url"] == f"https://127.0.0.1:{both.here.edge.peers}/mcp"
