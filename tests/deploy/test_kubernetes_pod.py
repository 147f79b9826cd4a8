"""A rendered pod, really run: who starts before whom, who answers which probe, and who ends last (D5, S3, T5)."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.deploy.images import Images
from tests.deploy.kubernetes_build import Object, edited, only, parse, production, replaced, server_pod
from tests.deploy.kubernetes_images import provide
from tests.deploy.kubernetes_kubelet import POD_ADDRESS, Kubelet
from tests.deploy.kubernetes_volumes import Volumes, in_a_network_of_its_own
from tests.live.authority import make_certificate
from tests.live.curl import STATELESS, Conversation
from tests.live.project import Project
from tests.render.support import Answers
from tests.support.postgres import OWNER, SERVER
from tests.support.postgres import running as running_postgres
from tests.support.redis import running as running_redis

pytestmark = pytest.mark.xdist_group("containers")

EDGES = ("nginx", "caddy")
LONG, SHORT = 3, 0.5
"""Seconds that calls take."""
TOGETHER = 4
"""Calls of each kind in flight at one time."""
SECRET = {"MCP_PEER_SECRET": "p" * 64, "MCP_REQUEST_STATE_KEYS": "k" * 64}
"""What the Secret holds whatever the cluster is."""


@pytest.fixture(scope="module")
def edge_images(images: Images) -> Images:
    """Return the store with both edges in it."""
    for name in EDGES:
        (container,) = server_pod(objects(name))["initContainers"]
        provide(images, name, container["image"].rpartition(":")[2])
    return images


def objects(edge: str) -> list[Object]:
    """Return the build of a user who named an image, lets callers call at will, and gives a busy Redis time."""
    image = replaced("kustomization.yaml", "newTag: 0.1.0", "newTag: dev")
    setting = "- MCP_EXPOSURE=internal\n"
    more = "".join(f"      - {one}\n" for one in ("MCP_TOOL_LIMITS=countdown=500/500", "MCP_STATE_TIMEOUT=2"))
    return parse(edited((("edge", edge),), image, replaced("kustomization.yaml", setting, setting + more)))


@contextlib.contextmanager
def playing(images: Images, edge: str, network: str, folder: Path) -> Iterator[Kubelet]:
    """Run the pod behind one edge, with a Redis that it reaches, until the block ends."""
    built = objects(edge)
    make_certificate(folder)
    with running_redis(folder / "redis") as redis:
        secrets = {
            "acme-notes": {"MCP_STATE_URL": redis.url, **SECRET},
            "acme-notes-tls": {name: (folder / name).read_text() for name in ("tls.crt", "tls.key")},
        }
        volumes = Volumes(built, secrets, folder / "volumes")
        kubelet = Kubelet(images, server_pod(built), volumes, network, folder)
        try:
            kubelet.start()
            yield kubelet
        finally:
            kubelet.remove()


@dataclass
class Load:
    """Callers that call one after the other until the pod is told to stop.

    Args:
        url: Where they call.
        key: What proves who they are.
        until: When they begin no further call.
    """

    url: str
    key: str
    until: threading.Event
    answered: list[str] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    some: threading.Event = field(default_factory=threading.Event)

    def call(self, seconds: float) -> None:
        """Call once, and note what came back."""
        client = Conversation(self.url, STATELESS, {"Authorization": f"Bearer {self.key}"})
        try:
            answer = client.call("countdown", {"seconds": seconds, "steps": 3}, progress=True)
        except RuntimeError as error:
            self.lost.append(str(error))
            return
        if answer.status != 200:
            self.refused.append(answer.status)
        elif len(answer.messages) == 4 and not answer.message["result"]["isError"]:
            self.answered.append(answer.message["result"]["content"][0]["text"])
            self.some.set()
        else:
            self.lost.append(answer.body)

    def run(self, seconds: float) -> None:
        """Call until told otherwise."""
        while not self.until.is_set():
            self.call(seconds)


def in_the_pods_network(body: Callable[[str, Path], None]) -> None:
    """Run `body` with the name of a new network and a folder."""
    with tempfile.TemporaryDirectory(prefix="pod-") as folder:
        in_a_network_of_its_own(lambda network: body(network, Path(folder)))


def reachable(address: str, port: int) -> bool:
    """Tell whether somebody listens there."""
    with socket.socket() as client:
        return client.connect_ex((address, port)) == 0


@pytest.mark.usefixtures("image")
@pytest.mark.parametrize("edge", EDGES)
def test_S3_pod_starts_in_order_and_ends_under_load_without_losing_a_call(
    edge: str, edge_images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    def body(network: str, folder: Path) -> None:
        monkeypatch.setenv("CURL_CA_BUNDLE", str(folder / "tls.crt"))
        with playing(edge_images, edge, network, folder) as kubelet:
            assert kubelet.probe("edge", "livenessProbe")
            assert kubelet.probe("server", "livenessProbe")
            # T5: on the pod's address stands the edge, and nobody else.
            found = {port: reachable(POD_ADDRESS, port) for port in (8080, 8443, 9090, 9443)}
            assert found == {8080: False, 8443: True, 9090: True, 9443: True}

            key = kubelet.execute("server", "acme-notes", "ops", "keys", "create", "--caller=load", "--scope=*")
            load = Load("https://localhost:8443/mcp", key, kubelet.signalled)
            with ThreadPoolExecutor(2 * TOGETHER) as callers:
                for seconds in [LONG, SHORT] * TOGETHER:
                    callers.submit(load.run, seconds)
                assert load.some.wait(30), [load, kubelet.running["server"].output]
                kubelet.stop()

            said = [container.output for container in kubelet.running.values()]
            assert (load.lost, load.refused) == ([], []), said
            assert len(load.answered) >= TOGETHER * 15 / LONG + TOGETHER * 15 / (2 * SHORT)
            assert kubelet.codes == {"server": 0, "edge": 0}, said
            assert kubelet.events == [
                ("edge", "started"),
                ("edge", "startup probe answered"),
                ("server", "started"),
                ("server", "startup probe answered"),
                ("server", "ready"),
                ("server", "preStop"),
                ("server", "told to stop"),
                ("server", "ended"),
                ("edge", "told to stop"),
                ("edge", "ended"),
            ]

    in_the_pods_network(body)


@pytest.mark.usefixtures("image")
def test_D5_pod_without_sidecar_answers_probes_from_within(edge_images: Images) -> None:
    def body(network: str, folder: Path) -> None:
        with playing(edge_images, "mesh", network, folder) as kubelet:
            found = {port: reachable(POD_ADDRESS, port) for port in (8080, 9090, 9443)}
            assert found == {8080: False, 9090: False, 9443: False}
            assert kubelet.probe("server", "livenessProbe")
            assert kubelet.probe("server", "readinessProbe")

    in_the_pods_network(body)


@pytest.mark.usefixtures("image")
@pytest.mark.parametrize(
    ("edge", "broken", "said"),
    [
        ("nginx", {"startupProbe": {"httpGet": {"path": "/health/live", "port": "internal"}}}, "startupProbe failed"),
        ("caddy", {"capabilities": {"drop": ["ALL"]}}, "not permitted"),
    ],
    ids=["sidecar that waits for the server", "caddy without its capability"],
)
def test_D5_pod_that_cannot_start_is_seen_here(
    edge: str, broken: dict[str, Object], said: str, edge_images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = objects(edge)
    (sidecar,) = server_pod(whole)["initContainers"]
    for key, value in broken.items():
        place = sidecar if key in sidecar else sidecar["securityContext"]
        place[key] = place[key] | value if key in sidecar else value
    sidecar["startupProbe"] |= {"failureThreshold": 5}
    monkeypatch.setattr(f"{__name__}.objects", lambda _edge: whole)

    def body(network: str, folder: Path) -> None:
        with pytest.raises(AssertionError, match=said), playing(edge_images, edge, network, folder):
            pass

    in_the_pods_network(body)


def test_D6_migration_makes_the_tables_with_rights_that_the_server_lacks(
    images: Images, locked: Callable[[Answers], Project]
) -> None:
    built = images.build(locked((("database", "postgres"),)).root, "localhost/acme-notes:migration")
    assert built.returncode == 0, built.stdout
    cluster = parse(production((("database", "postgres"),)))
    pod: Object = only(cluster, "Job")["spec"]["template"]["spec"]
    pod["containers"][0]["image"] = "acme-notes:migration"

    def body(network: str, folder: Path) -> None:
        folder.chmod(0o755)  # PostgreSQL runs as somebody else
        with running_postgres(folder / "postgres") as postgres:
            secrets = {
                "acme-notes": {
                    "MCP_STATE_URL": "redis://127.0.0.1:6379",
                    "MCP_DATABASE_URL": postgres.url(SERVER),
                    **SECRET,
                },
                "acme-notes-migration": {"MCP_DATABASE_MIGRATION_URL": postgres.url(OWNER)},
            }
            kubelet = Kubelet(images, pod, Volumes(cluster, secrets, folder / "volumes"), network, folder)
            assert kubelet.complete() == 0, kubelet.running["migration"].output
            assert postgres.ask("SELECT tableowner FROM pg_tables WHERE tablename = 'notes'") == OWNER

    in_the_pods_network(body)
