"""What a hostile reader tried, and what it gets (A1, A3, A7, A11)."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest
from pydantic import ValidationError

from mcp_chassis.auth.keys import FileKeyring
from mcp_chassis.auth.tokens import scopes_of
from mcp_chassis.policy import ToolPolicy
from mcp_chassis.server import Server
from tests.identity.issuer import Issuer
from tests.identity.serving import serving, settings
from tests.identity.test_ops import Desk
from tests.identity.wire import exchange, raw
from tests.identity.world import a_world, holder, server_of
from tests.support.redis import Redis

JSON = ("Content-Type", "application/json")


@pytest.mark.parametrize("body", [b"{{{", b"[" * 1000, b""])
async def test_A1_body_is_not_looked_at_before_its_sender_is_known(body: bytes, issuer: Issuer) -> None:
    async with server_of(issuer) as served:
        answer = await exchange(served.port, raw("POST", [JSON], body))

    assert (answer.status, answer.reason()) == (401, "no_credential")
    assert answer.header("www-authenticate") is not None


async def test_A1_body_that_never_comes_does_not_hold_an_unknown_sender(issuer: Issuer) -> None:
    async with server_of(issuer) as served:
        head = raw("POST", [JSON, ("Content-Length", "1000000")]).replace(b"Content-Length: 0\r\n", b"")

        answer = await exchange(served.port, head)

    assert answer.status == 401


@pytest.mark.parametrize("scope", ["über", 'a"b', "a\r\nX: y", "", "a b", "*", "probe"])
def test_A11_scope_that_no_challenge_could_name_is_refused_where_it_is_declared(scope: str) -> None:
    with pytest.raises(ValueError, match="cannot be a tool's scope"):
        ToolPolicy(scopes=frozenset({scope}))


def test_A11_scopes_are_a_set_and_not_the_letters_of_a_word() -> None:
    server = Server("notes")

    with pytest.raises(TypeError, match="scopes is a set of words"):

        @server.tool(scopes="notes:write")
        def write() -> None:
            pass


def test_A7_issuer_cannot_hand_out_what_only_this_server_can() -> None:
    assert scopes_of({"scope": "notes:read probe *", "scp": ["probe"]}) == {"notes:read"}


async def test_A3_store_that_nothing_asks_does_not_make_a_server_unhealthy() -> None:
    nobody = "redis://127.0.0.1:1/0"
    async with serving(settings(auth=("none",), state_url=nobody)) as served:
        answer = await exchange(served.port, raw("GET", [], path="/health/ready"))

    assert answer.status == 200


async def test_A8_same_name_proven_in_another_way_is_somebody_else(
    issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world(issuer, tmp_path, monkeypatch) as world:
        owner = await world.served.opened("handshake", holder(world.key("agent-7", tenant="default")))
        stranger = owner.claiming(*holder(world.token(sub="agent-7")))

        refused = await stranger.post("tools/list")

    assert (refused.status, refused.reason()) == (404, "unknown_session")


async def test_A3_key_that_a_lagging_file_still_lists_is_shown_revoked_and_has_no_successor(
    redis: Redis, tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    desk = Desk({"MCP_API_KEYS_FILE": str(file), "MCP_STATE_URL": redis.url})
    key_id = desk.create().split("_")[1]
    before = file.read_bytes()
    desk.run("keys", "revoke", key_id)
    file.write_bytes(before)

    listed, _ = desk.run("keys", "list")
    _, said = desk.run("keys", "rotate", key_id, expect=1)

    assert listed.strip().endswith("REVOKED")
    assert said == f"{key_id} is revoked, so it has no successor; create a new key\n"


def test_A4_file_behind_a_link_stays_the_file_that_others_read(tmp_path: Path) -> None:
    real, link = tmp_path / "real.json", tmp_path / "keys.json"
    Desk({"MCP_API_KEYS_FILE": str(real)}).create()
    real.chmod(0o640)
    link.symlink_to(real)

    Desk({"MCP_API_KEYS_FILE": str(link)}).create()

    assert link.is_symlink()
    assert len(FileKeyring(real).records()) == 2
    assert real.stat().st_mode & 0o777 == 0o640


def test_A3_editor_that_holds_the_lock_does_not_hang_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp_chassis.auth.keys._LONGEST_WAIT", 0.1)
    desk = Desk({"MCP_API_KEYS_FILE": str(tmp_path / "keys.json")})
    desk.create()

    with (tmp_path / ".keys.json.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _, said = desk.run("keys", "create", "--caller", "agent-8", expect=1)

    assert "is held by another editor" in said


def test_A7_stdio_cannot_speak_for_a_probe_that_nothing_there_would_hold_back() -> None:
    with pytest.raises(ValidationError, match="must not hold probe"):
        settings(stdio_scopes=("probe", "notes:read"))
