"""A real Prometheus sees trouble come and go on real servers, with the project's own rules (O5, O6, O7)."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from mcp_chassis.fetching import Fetched
from mcp_chassis.pins import LOCK, Pin, write_lock
from tests.live.curl import STATELESS, Conversation
from tests.live.project import Project, folder, make_real
from tests.live.prometheus import Alert, Prometheus, until, watching
from tests.live.trouble import Clients, Habit, Replica, peer
from tests.resources.origin import NAMES, Authority, Origin
from tests.support.redis import running

pytestmark = pytest.mark.xdist_group("live-processes")

LONGEST_CALL: Final = 0.8
"""Seconds. A call that ignores its end is answered a second later, which is more than 1.5 of it."""

HABITS: Final = (
    Habit("stumble", {"stumbling": True}, {"stumbling": False}),
    Habit("wait", {"seconds": 0.6}, {"seconds": 0}),
    Habit("dawdle", {"seconds": 5}),
    Habit("narrate", {"aloud": False}, {"aloud": True}),
    Habit("ask_partner", {}, {}),
    Habit("ask_flaky", {}, {}),
)
PINNED: Final = {"/1.0/swapped": b"red", "/1.0/lost": b"green"}
"""What the servers load at run time."""
LOOP: Final = Habit("ping", {})

FIRED: Final[dict[str, dict[str, str]]] = {
    "McpServerDown": {"severity": "critical"},
    "McpStoreDown": {"severity": "critical"},
    "McpDependencyUnhealthy": {"check": "vital"},
    "McpDependencyDegraded": {"check": "handy"},
    "McpBreakerOpen": {"service": "partner"},
    "McpDownstreamFailing": {"service": "flaky"},
    "McpToolFailing": {"tool": "stumble"},
    "McpCrashed": {},
    "McpToolSlow": {"tool": "wait"},
    "McpCallHeldOpen": {},
    "McpProgressSilent": {"tool": "narrate"},
    "McpCallerSuspended": {},
    "McpRequestsRefused": {},
    "McpLogLinesLost": {},
    "McpDrainTooLong": {},
    "McpResourceMismatch": {"severity": "critical"},
    "McpResourceUnverified": {"severity": "warning"},
}
"""The alerts of this test, and labels by which we know ours."""

ELSEWHERE: Final = {
    "McpProbeFailed": "tests/gates fires it, with a real prober",
    "McpProbeStale": "its ten minutes cannot be shortened",
    **dict.fromkeys(
        ("McpCertificateEnds", "McpCredentialEnds"), "tests/gates sees the check fail in the prober's metrics"
    ),
    **dict.fromkeys(
        ("McpContractDrifted", "McpStreamBuffered"), "tests/gates sees the check fail in the prober's metrics"
    ),
    "McpDatabasePoolExhausted": "needs a database",
    "McpDatabasePoolPending": "needs a database",
}
"""Alerts that the unit tests alone fire and clear."""


@dataclass
class History:
    """What Prometheus said, and what the dashboard showed meanwhile."""

    fired: list[Alert] = field(default_factory=list)
    left: list[Alert] = field(default_factory=list)
    shown: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def has_seen(self, name: str) -> bool:
        """Tell whether our alert of this name fired."""
        return any(alert.name == name and alert.is_about(FIRED[name]) for alert in self.fired)


def panels(project: Project) -> dict[str, str]:
    """Return the expression of each panel, as Grafana would send it."""
    text = (project.root / "deploy/monitoring/dashboard.json").read_text(encoding="utf-8")
    text = text.replace("$__rate_interval", "2s").replace("[15m]", "[6s]").replace("$instance", ".*")
    targets = ((panel["title"], target) for panel in json.loads(text)["panels"] for target in panel.get("targets", ()))
    return {f"{title} {target['refId']}": target["expr"] for title, target in targets}


class Scene:
    """Four servers of one project with everything they depend on, under watch."""

    def __init__(self, project: Project, stack: ExitStack) -> None:
        home = folder()
        self.redis = stack.enter_context(running(home / "redis"))
        self.peer = stack.enter_context(peer())
        self.down = home / "checks" / "down"
        self.down.parent.mkdir()
        given = {"MCP_TOOL_TIMEOUT": str(LONGEST_CALL), **self.pinned(project, home, stack)}
        depending = {
            "MCP_STATE_URL": self.redis.url,
            "ALARMS_PEER": self.peer.url,
            "ALARMS_FOLDER": str(self.down.parent),
        }
        looped = {"MCP_TOOL_LIMITS": "ping=1/1", "MCP_SUSPENSION_REFUSALS": "5", "MCP_SUSPENSION_FIRST": "1"}
        self.troubled, self.killed = Replica(project, given | depending), Replica(project, given)
        self.mute = Replica(project, given | looped, mute=True)
        self.stopping = Replica(project, given | {"ALARMS_SLOW": "1"})
        self.replicas = (self.troubled, self.killed, self.mute, self.stopping)
        for replica in self.replicas:
            stack.callback(replica.stop)
        until(lambda: all(replica.answers() for replica in self.replicas), "the servers do not answer")
        self.clients, self.looping = Clients(self.troubled.url), Clients(self.mute.url)
        stack.callback(self.clients.leave)
        stack.callback(self.looping.leave)
        for habit in HABITS:
            self.clients.start(habit)
        self.looping.start(LOOP)

    def pinned(self, project: Project, home: Path, stack: ExitStack) -> dict[str, str]:
        """Let an origin give out what the project pins; return the variables that its servers need for it."""
        authority = Authority(home)
        self.origin = Origin(authority.server(NAMES))
        stack.enter_context(self.origin.listening())
        bodies = {path: Fetched(body, whole=True, media_type="application/json") for path, body in PINNED.items()}
        write_lock({self.origin.url(path): Pin.of(body) for path, body in bodies.items()}, project.root / LOCK)
        self.restore()
        return {
            "MCP_RESOURCE_CACHE": str(home / "copies"),
            "MCP_RESOURCE_HOSTS": "localhost",
            "MCP_RESOURCE_INTERVAL": "0.3",
            "SSL_CERT_FILE": str(authority.file),
        }

    def restore(self) -> None:
        """Let the origin have what was pinned."""
        for path, body in PINNED.items():
            self.origin.put(path, body)

    def break_everything(self) -> None:
        """Bring all the trouble at once."""
        self.clients.bad = self.looping.bad = self.peer.bad = True
        threading.Thread(target=read_slowly, args=(self.stopping.url,), daemon=True).start()
        until(lambda: "\nmcp_requests_in_flight 1.0\n" in self.stopping.numbers(), "nothing is read")
        os.kill(self.stopping.process.pid, signal.SIGTERM)
        self.down.touch()
        self.origin.put("/1.0/swapped", b"rot")
        del self.origin.answers["/1.0/lost"]
        self.redis.kill()
        self.killed.stop()

    def heal_everything(self) -> None:
        """Let everything be as before."""
        self.clients.bad = self.looping.bad = self.peer.bad = False
        self.stopping.stop()
        self.stopping.start_again()
        self.down.unlink()
        self.restore()
        self.redis.start()
        self.killed.start_again()


def read_slowly(url: str) -> None:
    """Read what takes longer than any call may: a server that is told to stop waits for it."""
    # It may be cut in the end.
    with suppress(RuntimeError):
        Conversation(url, STATELESS).post("resources/read", {"uri": "alarm://slow"})


def lived(project: Project, scene: Scene, prometheus: Prometheus) -> History:
    """Let Prometheus see good days, bad days and good days again."""
    history = History()
    spoken = 'mcp_progress_calls_total{tool="narrate",notified="yes"} > 2'
    until(lambda: prometheus.query(spoken) and not prometheus.firing(), "there never were good days")

    def look() -> bool:
        history.fired += prometheus.firing()
        return all(history.has_seen(name) for name in FIRED)

    scene.break_everything()
    until(look, "alerts did not fire", give_up=False)
    history.shown = {name: prometheus.query(expression) for name, expression in panels(project).items()}

    def calm() -> bool:
        history.left = prometheus.firing()
        return not history.left

    scene.heal_everything()
    until(calm, "alerts did not clear", give_up=False)
    return history


@pytest.fixture(scope="module")
def troubled(_apart: None) -> Project:
    """Return a project whose tools make trouble; the others declare longer calls than we can wait for."""
    made = make_real(folder() / "project", "alarms")
    for tool in ("countdown", "notes"):
        (made.source / "tools" / f"{tool}.py").unlink()
    return made


@pytest.fixture(scope="module")
def history(troubled: Project) -> Iterator[History]:
    """Return what a Prometheus saw; one life is enough for all tests."""
    with ExitStack() as stack:
        scene = Scene(troubled, stack)
        rules = troubled.root / "deploy/monitoring/rules.yaml"
        targets = [replica.target for replica in scene.replicas]
        yield lived(troubled, scene, stack.enter_context(watching(folder(), rules, troubled.name, targets)))


@pytest.mark.parametrize("name", FIRED)
def test_O6_alert_fires_and_clears(name: str, history: History) -> None:
    assert history.has_seen(name), sorted({(alert.name, str(alert.labels)) for alert in history.fired})
    assert name not in {alert.name for alert in history.left}, history.left


def test_O6_texts_of_alerts_name_what_they_are_about(history: History) -> None:
    for alert in history.fired:
        text = alert.annotations["description"]
        assert "<no value>" not in text
        assert "error" not in text.lower().partition("class of the error")[0], text
        for label in ("tool", "service", "check", "limit", "resource"):
            assert alert.labels.get(label, "") in text


def test_O6_each_alert_is_proven_live_or_says_why_not(troubled: Project) -> None:
    rules = yaml.safe_load((troubled.root / "deploy/monitoring/rules.yaml").read_text(encoding="utf-8"))

    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule}

    assert alerts == {*FIRED, *ELSEWHERE}


def test_O7_each_panel_shows_something(history: History) -> None:
    empty = {name for name, series in history.shown.items() if not series}

    assert empty == set()
