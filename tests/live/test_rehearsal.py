"""A short cut of `make rehearsal`: both edges, the stock server for comparison, and what makes it fail (S4)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from fastmcp import Client as FastMCP
from mcp import Client
from mcp.shared.exceptions import MCPError

from rehearsal import __main__ as program
from rehearsal import manifest
from rehearsal.balancer import Balancer
from rehearsal.ledger import Count, count
from rehearsal.load import Call, Load
from rehearsal.play import MANIFEST, Part, play, stage
from tests.live.authority import make_certificate
from tests.live.curl import BOTH, ERAS, HANDSHAKE, JSON, STATELESS, converse
from tests.live.gate import gate
from tests.live.project import Project, ServerProcess
from tests.render.support import by_copier
from tests.support.ports import free_port
from tests.support.redis import running

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("rehearsal")]

SHORT: Final = Part("nginx", restarts=1, calls=100, rate=10, speed=5, lag=5)
"""3 s until the signal, 1 s until the balancer knows: a busy machine has 2 s for a request on its way."""
UNTOLD: Final = Count("this server behind nginx", 1, 4, 100, 100, 0, 0, 0, 0, 0.1)


@pytest.fixture(scope="module")
def folder(_apart: None) -> Iterator[Path]:
    """Return the folder that the rehearsals of this module share."""
    with stage() as found:
        yield found


@pytest.mark.parametrize("edge", ["nginx", "caddy"])
def test_S4_no_call_is_lost_while_all_replicas_are_replaced(edge: str, folder: Path) -> None:
    found = play(folder, replace(SHORT, edge=edge), lambda _: None)

    assert found.broken == [], found.as_data()
    assert found.calls == found.answered >= SHORT.calls
    assert found.pods == 4
    assert found.exits == {"edge 0": 4, "server 0": 4}


def test_S4_stock_server_loses_calls_in_the_same_rehearsal(folder: Path) -> None:
    # Many calls that last longer than the wait before the signal, in the era that it cuts.
    part = replace(SHORT, kind="stock", eras=[HANDSHAKE], longest=30, longest_every=5)

    found = play(folder, part, lambda _: None)

    assert found.lost > 0
    assert found.lost_after_run > 0
    assert f"{found.name}: {found.lost} calls were lost" in found.broken


async def test_S4_drained_replica_leaves_no_session_in_its_name(extended: Project, tmp_path: Path) -> None:
    """Else requests would be forwarded to its edge, which outlives it and answers 502."""
    given = {"MCP_PEER_SECRET": "shared-by-all-" * 3, "MCP_PEER_URL": f"http://127.0.0.1:{free_port()}"}
    with running(tmp_path / "redis") as redis:
        async with gate() as held:
            with ServerProcess(extended, given={**given, "MCP_STATE_URL": redis.url}) as server:
                conversation = await asyncio.to_thread(converse, server.url, HANDSHAKE)
                arguments = {"port": held.port}
                call = asyncio.create_task(asyncio.to_thread(conversation.call, "hold", arguments))
                await held.holds(1)

                stopping = asyncio.create_task(asyncio.to_thread(server.stop))
                await asyncio.to_thread(server.wait_for, "drain_started")
                owned = [name for name in redis.names() if "owner:" in name]
                await held.open()

                assert (await call).status == 200
                assert await stopping == 0
                assert len(owned) == 1
                assert not [name for name in redis.names() if "owner:" in name]


async def test_S4_clients_that_do_not_begin_a_new_session_by_themselves_are_those_of_the_page(project: Project) -> None:
    given = {"MCP_PORT": str(free_port())}
    arguments = {"seconds": 0, "steps": 1}
    async with AsyncExitStack() as stack:
        with ServerProcess(project, given=given) as first:
            url = await asyncio.to_thread(lambda: first.url)
            bound: list[Client | FastMCP[Any]] = [Client(url, mode="legacy"), FastMCP(url, mode="legacy")]
            free: list[Client | FastMCP[Any]] = [Client(url), FastMCP(url)]
            for client in (*bound, *free):
                await stack.enter_async_context(client)
                await client.call_tool("countdown", arguments)
        with ServerProcess(project, given=given) as second:
            await asyncio.to_thread(lambda: second.url)
            for client in bound:
                with pytest.raises(MCPError, match="No such session; initialize a new one"):
                    await client.call_tool("countdown", arguments)
            for client in free:
                await client.call_tool("countdown", arguments)
            await stack.aclose()


def test_S4_waits_are_those_of_the_rendered_manifest() -> None:
    rendered = by_copier((("edge", "caddy"), ("tool_timeout", "300"))) / MANIFEST

    plan, faster = manifest.read(rendered), manifest.read(rendered, speed=5)

    assert (plan.server.pre_stop, plan.grace) == (15, 330)
    assert (faster.server.pre_stop, faster.grace) == (3, 66)
    assert plan.edge.startup is not None
    assert (plan.edge.startup.path, plan.edge.startup.port) == ("/edge", 9090)
    assert plan.server.readiness is not None
    assert (plan.server.readiness.path, plan.server.readiness.period) == ("/health/ready", 5)


@pytest.mark.parametrize(("written", "read"), [("maxUnavailable: 0", "maxUnavailable: 1"), ("Always", "Never")])
def test_S4_manifest_that_cannot_be_played_is_refused(written: str, read: str, tmp_path: Path) -> None:
    changed = tmp_path / "server.yaml"
    changed.write_text((by_copier() / MANIFEST).read_text().replace(written, read))

    with pytest.raises(ValueError, match=r"server\.yaml: "):
        manifest.read(changed)


async def test_S4_every_kind_of_fault_is_counted(tmp_path: Path) -> None:
    kinds = {
        "good": Call("good", STATELESS, JSON, 3, answers=["good"]),
        "twice": Call("twice", STATELESS, JSON, 3, answers=["twice"]),
        "echoed": Call("echoed", STATELESS, JSON, 3, answers=["echoed", "echoed"]),
        "foreign": Call("foreign", STATELESS, JSON, 3, strangers=["good"], failure="an answer without a result"),
        "cut": Call("cut", HANDSHAKE, BOTH, 3, failure="ReadError"),
    }
    record = tmp_path / "record"
    record.write_text("good\ntwice\ntwice\nechoed\ncut\n")
    make_certificate(tmp_path)
    async with Balancer(list, tmp_path / "tls.crt", sticky=False) as balancer:
        load = Load(balancer, 1, longest=1, longest_every=50, headers={}, accepts=[BOTH], eras=ERAS)
        load.calls += kinds.values()

        found = count("made up", 1, load, [], record)

    assert (found.calls, found.answered, found.lost, found.lost_after_run) == (5, 2, 2, 1)
    assert (found.duplicated, found.mixed) == (2, 1)
    assert found.failures == {"handshake: ReadError": 1, "stateless: an answer without a result": 1}
    assert len(found.broken) == 3


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (UNTOLD, 0),
        (replace(UNTOLD, lost=1, failures={"handshake: ReadError": 1}), 1),
        (replace(UNTOLD, duplicated=1), 1),
        (replace(UNTOLD, mixed=1), 1),
        (replace(UNTOLD, exits={"server 0": 3, "server -9": 1}), 1),
        (replace(UNTOLD, troubles={"liveness of the server fails": 1}), 1),
    ],
)
def test_S4_broken_promise_is_told_and_is_exit_code_1(
    found: Count, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "play", lambda *_: found)

    assert program.main(["--quick", "--edge", "nginx", "--json", str(tmp_path / "found.json")]) == code

    shown = capsys.readouterr()
    assert ("broken: this server behind nginx: 1 " in shown.err) == bool(code)
    assert "answered once, with their own answer" in shown.out
    assert json.loads((tmp_path / "found.json").read_text())["rehearsals"][0]["calls"] == 100


def test_help_of_the_rehearsal_tells_what_is_real_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        program.main(["--help"])

    told = capsys.readouterr().out
    assert "what is real: " in told
    assert "1 one is broken" in told
