"""A release against a live server: the probe of gate 3 is the real one, and what it says decides (G3, G6)."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest

from mcp_chassis.checks.target import Target
from mcp_chassis.checks.wire import STATELESS
from mcp_chassis.schema import digest_of, text_of
from tests.gates.between import between
from tests.gates.conftest import Running
from tests.gates.conftest import project as project
from tests.gates.conftest import running as running
from tests.gates.deployments import DEPLOYED
from tests.pipelines.conftest import Repository
from tests.support.ports import free_port

pytestmark = pytest.mark.xdist_group("gates")

PATIENCE = "10"
"""Seconds in place of gate 3's 120: what is broken here stays broken."""
FAULTS = {
    "drift": next(one for one in DEPLOYED if one.caught == {"drift"}),
    "streaming": next(one for one in DEPLOYED if one.caught == {"streaming"}),
}


@pytest.fixture
def release(repository: Callable[..., Repository], running: Running) -> Repository:
    """Return a repository whose release is what runs, and whose probe is the real one."""
    here = repository(("registry", "public"))
    text = text_of(anyio.run(Target(running.url, running.tokens["all"]).contract, STATELESS))
    (here.project / "schema").mkdir()
    (here.project / "schema/tools.sha256").write_text(f"{digest_of(text)}  tools.json\n", encoding="utf-8")
    here.secrets["PROBE_TOKEN"] = running.tokens["probe"]
    here.programs.say("server-command", str(running.project.command))
    here.programs.say("patience", PATIENCE)
    return here


def test_G3_live_server_that_is_well_passes_the_gate_and_is_published(release: Repository, running: Running) -> None:
    jobs = release.github("deploy", PUBLIC_URL=running.url)

    assert [job.result for job in jobs.values()] == ["success"] * 4, jobs["deploy"].said
    for check in ("handshake", "stateless", "drift", "streaming"):
        assert f"  {check}  " in jobs["deploy"].said
    assert not [call for call in release.programs.calls() if "undo" in call]
    assert release.programs.calls("mcp-publisher")[-1] == "mcp-publisher publish"


@pytest.mark.parametrize("check", FAULTS)
def test_G3_live_fault_is_found_rolled_back_and_not_published(
    check: str, release: Repository, running: Running
) -> None:
    with between(running.url, FAULTS[check].meddle) as url:
        jobs = release.github("deploy", PUBLIC_URL=url)

    _rolled_back(release, jobs["deploy"].said, check)
    assert [job.result for job in jobs.values()] == ["success", "success", "failure", "skipped"]


def test_G3_dead_server_is_found_rolled_back_and_not_published(release: Repository) -> None:
    jobs = release.github("deploy", PUBLIC_URL=f"http://127.0.0.1:{free_port()}/mcp")

    _rolled_back(release, jobs["deploy"].said, "handshake")
    assert [job.result for job in jobs.values()] == ["success", "success", "failure", "skipped"]


def _rolled_back(release: Repository, said: str, check: str) -> None:
    failed = [line.split()[2] for line in said.splitlines() if line.startswith(("FAILED", "unseen"))]
    assert check in failed, said
    calls = release.programs.calls()
    assert [call for call in calls if "rollout undo" in call and call.endswith("--to-revision 41")]
    assert calls[-2].startswith("kubectl rollout status")
    assert release.programs.calls("mcp-publisher") == []
