"""What a caller may do, decided from the body alone, and what it is shown (A7, A11, T9)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mcp_chassis.request import Caller
from mcp_chassis.testing import connect
from tests.identity.issuer import Issuer
from tests.identity.serving import TOOLS, challenge, notes
from tests.identity.wire import ERAS, STATELESS_VERSION, Era
from tests.identity.world import a_world, holder
from tests.support.inside import Log

pytestmark = pytest.mark.anyio

PROBE_MAY = ["tools/list", "prompts/list", "resources/list", "resources/templates/list"]
PROBE_MAY_NOT: list[tuple[str, dict[str, Any]]] = [
    ("tools/call", {"name": "whoami", "arguments": {}}),
    ("tools/call", {"name": "nobody", "arguments": {}}),
    ("tools/call", {"name": ["ping"], "arguments": {}}),
    ("prompts/get", {"name": "ping"}),
    ("resources/read", {"uri": "notes://1"}),
    ("resources/subscribe", {"uri": "notes://1"}),
    ("completion/complete", {"ref": {"type": "ref/prompt", "name": "ping"}, "argument": {"name": "a", "value": "b"}}),
    ("logging/setLevel", {"level": "debug"}),
    ("subscriptions/listen", {}),
    ("notes/export", {}),
]


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("scopes", "tool", "needed"),
    [
        ((), "read", "notes:read"),
        (("notes:write",), "discard", "notes:read notes:write"),
        (("notes:read",), "discard", "notes:read notes:write"),
        (("NOTES:READ", "notes"), "read", "notes:read"),
    ],
)
async def test_A11_call_beyond_the_scopes_is_403_naming_every_scope_it_needs(
    scopes: tuple[str, ...],
    tool: str,
    needed: str,
    era: Era,
    issuer: Issuer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    log: Log,
) -> None:
    async with a_world(issuer, tmp_path, monkeypatch) as world:
        peer = await world.served.opened(era, holder(world.key("ann", *scopes)))
        handled = len(world.served.handled)

        refused = await peer.call(tool)

        assert (refused.status, refused.reason()) == (403, "insufficient_scope")
        assert refused.header("www-authenticate") == challenge(error="insufficient_scope", scope=needed)
        assert len(world.served.handled) == handled
        (line,) = log.lines("request_refused")
        assert (line["http_status"], line["reason"], line["caller_id"]) == (403, "insufficient_scope", "ann")
        assert (await peer.call("whoami")).status == 200


@pytest.mark.parametrize("named", ["whoami", "ping", "read"])
async def test_A11_header_that_lies_about_the_tool_decides_nothing(
    named: str, issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world(issuer, tmp_path, monkeypatch) as world:
        poor = world.served.peer("stateless", holder(world.key("ann")))
        rich = world.served.peer("stateless", holder(world.key("bob", "notes:read", "notes:write")))

        # The body asks for what ann may not have; the header says otherwise.
        assert (await poor.call("discard", replacing={"Mcp-Name": named})).status == 403
        assert (await poor.call("discard", replacing={"Mcp-Method": "ping", "Mcp-Name": named})).status == 403
        # The body asks for what is free; a header cannot make it forbidden, only malformed.
        assert (await poor.call("whoami", replacing={"Mcp-Name": "discard"})).status == 400
        assert (await rich.call("discard", replacing={"Mcp-Name": named})).status == 400
        assert world.served.handled == []


@pytest.mark.parametrize("era", ERAS)
async def test_A11_body_that_names_two_tools_gets_no_further_than_its_scopes(
    era: Era, issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world(issuer, tmp_path, monkeypatch) as world:
        peer = await world.served.opened(era, holder(world.key("ann")))
        meta: dict[str, Any] = {"io.modelcontextprotocol/protocolVersion": STATELESS_VERSION}
        meta["io.modelcontextprotocol/clientCapabilities"] = {}
        for first, second in (("whoami", "discard"), ("discard", "whoami")):
            body = (
                f'{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{first}","name":"{second}",'
                f'"arguments":{{}},"_meta":{json.dumps(meta)}}}}}'
            )
            answer = await peer.call("whoami", body=body.encode(), replacing={"Mcp-Name": second})

            assert b"thrown away" not in answer.body
            assert (answer.status == 403) == (second == "discard")


async def test_A11_without_http_a_call_beyond_the_scopes_is_an_error_result(log: Log) -> None:
    del log
    async with connect(notes(), caller=Caller("ann", scopes=frozenset({"notes:write"}))) as client:
        refused = await client.call_tool("discard", {})
        listed = await client.list_tools()

    assert refused.is_error
    assert refused.meta is not None
    assert refused.meta["errorCode"] == "insufficient_scope"
    assert "notes:read notes:write" in str(refused.content)
    assert sorted(tool.name for tool in listed.tools) == ["ping", "whoami"]


@pytest.mark.parametrize("era", ERAS)
async def test_T9_list_shows_what_the_caller_may_call_and_is_private(
    era: Era, issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world(issuer, tmp_path, monkeypatch) as world:
        poor = await world.served.opened(era, holder(world.key("ann")))
        reader = await world.served.opened(era, holder(world.key("bob", "notes:read")))
        everything = await world.served.opened(era, holder(world.key("root", "*")))

        assert sorted(await poor.tools()) == ["ping", "whoami"]
        assert sorted(await reader.tools()) == ["ping", "read", "whoami"]
        assert sorted(await everything.tools()) == TOOLS
        if era == "stateless":
            assert (await poor.post("tools/list")).result()["cacheScope"] == "private"


@pytest.mark.parametrize("era", ERAS)
async def test_T9_unfiltered_list_shows_all_and_is_public(
    era: Era, issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world(issuer, tmp_path, monkeypatch, list_by_scope=False) as world:
        peer = await world.served.opened(era, holder(world.key("ann")))

        assert sorted(await peer.tools()) == TOOLS
        assert (await peer.call("read")).status == 403
        if era == "stateless":
            assert (await peer.post("tools/list")).result()["cacheScope"] == "public"


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("also", [(), ("*",), ("notes:read",)], ids=["alone", "with_everything", "with_a_scope"])
async def test_A7_probe_shakes_hands_lists_and_pings_and_nothing_else(
    also: tuple[str, ...], era: Era, issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    async with a_world(issuer, tmp_path, monkeypatch) as world:
        probe = await world.served.opened(era, holder(world.key("monitor", "probe", *also)))
        for method in PROBE_MAY:
            assert (await probe.post(method)).status == 200, method
        assert (await probe.call("ping")).text() == "pong"
        handled = len(world.served.handled)

        for method, params in PROBE_MAY_NOT:
            refused = await probe.post(method, params, replacing={"Mcp-Name": "ping"} if era == "stateless" else {})
            assert (refused.status, refused.reason()) == (403, "insufficient_scope"), method
            # No error word: a client must not ask its issuer for more scopes.
            assert refused.header("www-authenticate") == challenge()

        assert len(world.served.handled) == handled
        assert {line["probe"] for line in log.lines()} == {True}
        if era == "handshake":
            assert (await probe.delete()).status == 200


async def test_A7_only_a_probe_is_marked_in_the_log(
    issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    async with a_world(issuer, tmp_path, monkeypatch) as world:
        await world.served.peer("stateless", holder(world.key("ann", "probes"))).call("whoami")

        assert [line.get("probe") for line in log.lines()] == [None]


async def test_A11_issuer_cannot_hand_out_everything(
    issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world(issuer, tmp_path, monkeypatch) as world:
        peer = world.served.peer("stateless", holder(world.token(scope="* notes:write")))

        assert (await peer.call("discard")).status == 403
        assert (await peer.call("whoami")).result()["structuredContent"]["scopes"] == ["notes:write"]


async def test_A11_request_without_a_body_needs_no_scope_but_a_caller(
    issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world(issuer, tmp_path, monkeypatch) as world:
        peer = await world.served.opened("handshake", holder(world.key("ann")))

        assert (await peer.get()).status == 200
        assert (await peer.delete()).status == 200
