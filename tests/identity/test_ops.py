"""`ops`: keys are handed out, listed, rotated and taken back from a command line (A3, A4)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mcp_chassis.auth import keys
from mcp_chassis.auth.keys import FileKeyring
from mcp_chassis.cli import application
from tests.identity.serving import bearer, notes, serving, settings
from tests.support.inside import Log
from tests.support.privileges import without_override
from tests.support.redis import Redis

KEY = re.compile(r"mcpkey_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}")
PLACES = ["file", "redis", "file and redis"]


@dataclass
class Desk:
    """Somebody at a terminal."""

    environment: dict[str, str]

    def run(self, *arguments: str, expect: int = 0) -> tuple[str, str]:
        """Run `ops` with these arguments; return what it printed, and what it said about it."""
        with ThreadPoolExecutor(1) as thread:  # because a command opens a loop of its own
            work = partial(CliRunner().invoke, application(notes()), ["ops", *arguments], env=self.environment)
            done = thread.submit(work).result()
        assert done.exit_code == expect, (done.stdout, done.stderr, done.exception)
        assert "Traceback" not in done.stderr
        return done.stdout, done.stderr

    def create(self, *arguments: str) -> str:
        """Create a key and return it."""
        key, _ = self.run("keys", "create", "--caller", "agent-7", *arguments)
        assert KEY.fullmatch(key.removesuffix("\n"))
        return key.strip()

    def settings(self, **given: Any) -> Any:
        """Return what a server beside this terminal runs with."""
        file = self.environment.get("MCP_API_KEYS_FILE")
        known = {"auth": ("keys",), "api_keys_file": file, "state_url": self.environment.get("MCP_STATE_URL")}
        return settings(**{name: value for name, value in (known | given).items() if value is not None})


@pytest.fixture(params=PLACES)
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Desk:
    """Return a terminal for each place where keys can be."""
    environment = {}
    if "file" in request.param:
        environment["MCP_API_KEYS_FILE"] = str(tmp_path / "keys.json")
    if "redis" in request.param:
        environment["MCP_STATE_URL"] = request.getfixturevalue("redis").url
    return Desk(environment)


def identify(key: str) -> str:
    return keys.split(key)[0]


def test_A4_create_prints_the_key_alone_and_once(desk: Desk) -> None:
    shown, said = desk.run(
        *("keys", "create", "--caller", "agent-7", "--tenant", "acme", "--expires", "12h"),
        *("--scope", "notes:read", "--scope", "notes:write"),
    )
    listed, _ = desk.run("keys", "list")

    key = shown.removesuffix("\n")
    assert KEY.fullmatch(key)
    secret = keys.split(key)[1]
    assert secret not in said + listed
    assert listed == said
    assert listed.startswith(f"{identify(key)}  caller=agent-7  tenant=acme  scopes=notes:read notes:write  expires=")
    ends = datetime.fromisoformat(listed.strip().rpartition("=")[2])
    assert abs(ends - datetime.now(UTC) - timedelta(hours=12)) < timedelta(minutes=1)


def test_A4_only_the_hash_is_kept(desk: Desk, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    key = desk.create()
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    if "MCP_STATE_URL" in desk.environment:
        redis: Redis = request.getfixturevalue("redis")
        kept += b"".join(redis.ask(b"GET " + name.encode()) for name in redis.names())

    assert keys.digest(keys.split(key)[1]).encode() in kept
    assert key.encode() not in kept
    assert keys.split(key)[1].encode() not in kept


@pytest.mark.anyio
async def test_A4_a_running_server_sees_what_the_command_does_at_its_next_request(desk: Desk, log: Log) -> None:
    first = desk.create("--scope", "notes:read")
    async with serving(desk.settings()) as served:

        async def ask(key: str) -> int:
            return (await served.peer("stateless", [bearer(key)]).call("read")).status

        assert await ask(first) == 200
        second = desk.run("keys", "rotate", identify(first), "--overlap", "1h")[0].strip()
        assert (await ask(first), await ask(second)) == (200, 200)
        desk.run("keys", "revoke", identify(first))
        assert (await ask(first), await ask(second)) == (401, 200)
    assert log.reasons() <= {"revoked", "unknown_key"}


def test_A4_rotate_keeps_who_and_what_and_ends_the_old_key_after_the_overlap(desk: Desk) -> None:
    old = desk.create("--tenant", "acme", "--scope", "notes:read", "--expires", "never")

    new, said = desk.run("keys", "rotate", identify(old), "--overlap", "30m", "--expires", "10d")
    lines = {line[:12]: line for line in desk.run("keys", "list")[0].splitlines()}

    shared = "caller=agent-7  tenant=acme  scopes=notes:read"
    ends = {name: datetime.fromisoformat(line.rpartition("=")[2]) - datetime.now(UTC) for name, line in lines.items()}
    assert set(lines) == {identify(old), identify(new.strip())}
    assert all(shared in line for line in lines.values())
    assert abs(ends[identify(old)] - timedelta(minutes=30)) < timedelta(minutes=1)
    assert abs(ends[identify(new.strip())] - timedelta(days=10)) < timedelta(minutes=1)
    assert f"{identify(old)} is valid until" in said


def test_A4_rotate_never_prolongs_the_old_key(desk: Desk) -> None:
    old = desk.create("--expires", "1h")
    before = desk.run("keys", "list")[0]

    desk.run("keys", "rotate", identify(old), "--overlap", "24h")

    assert before.strip() in desk.run("keys", "list")[0]


def test_A4_print_entry_writes_nothing_and_its_entry_works(desk: Desk, tmp_path: Path) -> None:
    shown, said = desk.run("keys", "create", "--caller", "agent-7", "--print-entry")

    found = json.loads(shown)
    assert desk.run("keys", "list")[0] == ""
    assert found["key"] not in said
    file = tmp_path / "elsewhere.json"
    file.write_text(json.dumps({"keys": [found["entry"]]}), encoding="utf-8")
    key_id, secret = keys.split(found["key"])
    assert keys.matches(secret, FileKeyring(file).records()[key_id])


def test_A4_revoked_key_is_gone_from_the_list(desk: Desk, request: pytest.FixtureRequest) -> None:
    key = desk.create()

    _, said = desk.run("keys", "revoke", identify(key))

    assert said == f"{identify(key)} is revoked\n"
    assert desk.run("keys", "list")[0] == ""
    if "MCP_STATE_URL" in desk.environment:
        # A file that another replica mounts may lag behind.
        redis: Redis = request.getfixturevalue("redis")
        assert len(redis.names()) == 1


Wrong = tuple[Sequence[str], int, str]
LONG_KEY = keys.create("ann")[0]
BAD_INPUT: dict[str, Wrong] = {
    "no caller": (("keys", "create"), 2, "--caller"),
    "empty caller": (("keys", "create", "--caller", ""), 2, "not a key: caller must match pattern"),
    "caller with a space": (("keys", "create", "--caller", "a b"), 2, "not a key: caller must match pattern"),
    "tenant": (("keys", "create", "--caller", "a", "--tenant", "/x"), 2, "not a key: tenant must match pattern"),
    "two scopes in one": (
        ("keys", "create", "--caller", "a", "--scope", "b c"),
        2,
        "not a key: scopes.0 must match pattern",
    ),
    "expiry": (("keys", "create", "--caller", "a", "--expires", "soon"), 2, "soon is no span of time; write 90d"),
    "expiry zero": (("keys", "create", "--caller", "a", "--expires", "0d"), 2, "0d is no span of time"),
    "expiry below zero": (("keys", "create", "--caller", "a", "--expires", "-1d"), 2, "-1d is no span of time"),
    "overlap": (("keys", "rotate", "abcdefghijkl", "--overlap", "1w"), 2, "1w is no span of time"),
    "rotate unknown": (("keys", "rotate", "abcdefghijkl"), 1, "there is no key abcdefghijkl; `ops keys list`"),
    "revoke no id": (("keys", "revoke"), 2, "key_id"),
    "revoke a word": (("keys", "revoke", "agent-7"), 2, "that is not the id of a key"),
    "revoke a whole key": (("keys", "revoke", LONG_KEY), 2, "that is not the id of a key"),
    "rotate a whole key": (("keys", "rotate", LONG_KEY), 2, "that is not the id of a key"),
    "neither": (("tokens", "revoke"), 2, "give either --jti or --subject"),
    "both": (("tokens", "revoke", "--jti", "a", "--subject", "b"), 2, "give either --jti or --subject"),
    "no command": (("keys", "destroy"), 2, "No such command"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_A4_bad_input_gets_a_sentence_and_an_exit_code(name: str, desk: Desk) -> None:
    arguments, code, sentence = BAD_INPUT[name]

    shown, said = desk.run(*arguments, expect=code)

    assert shown == ""
    assert sentence in said
    assert LONG_KEY not in said


@pytest.mark.parametrize(
    ("environment", "arguments", "code", "sentence"),
    [
        ({}, ("keys", "list"), 1, "there is no place for keys: set MCP_API_KEYS_FILE to a file"),
        ({}, ("keys", "create", "--caller", "a"), 1, "there is no place for keys"),
        ({}, ("keys", "revoke", "abcdefghijkl"), 1, "there is no place for keys"),
        ({}, ("tokens", "revoke", "--jti", "a"), 1, "MCP_STATE_URL is memory://, which lives in the server's process"),
        ({"MCP_STATE_URL": "sqlite://"}, ("keys", "list"), 78, "MCP_STATE_URL  must be memory:// or redis://"),
        ({"MCP_AUTH": "keys,none"}, ("keys", "list"), 78, "MCP_AUTH=keys,none  must be none, or one or more"),
        ({"MCP_STATE_URL": "redis://127.0.0.1:1"}, ("keys", "list"), 1, "the store of MCP_STATE_URL does not answer"),
        ({"MCP_API_KEYS_FILE": "/dev/null"}, ("keys", "list"), 1, "/dev/null is not a keys file"),
        ({"MCP_API_KEYS_FILE": "/missing/keys.json"}, ("keys", "create", "--caller", "a"), 1, "No such file or"),
    ],
)
def test_A4_bad_surroundings_get_a_sentence_and_an_exit_code(
    environment: Mapping[str, str], arguments: Sequence[str], code: int, sentence: str
) -> None:
    shown, said = Desk(dict(environment)).run(*arguments, expect=code)

    assert shown == ""
    assert sentence in said


def test_A3_unknown_id_is_told_apart_from_a_revoked_key(desk: Desk) -> None:
    if set(desk.environment) == {"MCP_API_KEYS_FILE", "MCP_STATE_URL"}:
        # A mounted file may lag, so the store is told all the same.
        _, said = desk.run("keys", "revoke", "abcdefghijkl")
        assert "the keys file has no key abcdefghijkl; the store refuses that id from now on" in said
    else:
        _, said = desk.run("keys", "revoke", "abcdefghijkl", expect=1)
        assert said == "there is no key abcdefghijkl; `ops keys list` shows them\n"


@pytest.mark.anyio
@pytest.mark.parametrize("option", ["--jti", "--subject"])
async def test_A3_tokens_revoke_takes_effect_and_says_until_when(option: str, redis: Redis, issuer: Any) -> None:
    desk = Desk({"MCP_STATE_URL": redis.url})
    async with serving(desk.settings(auth=("jwt",), jwt_issuer=issuer.url)) as served:
        peer = served.peer("stateless", [bearer(issuer.token(sub="ann", jti="t-1"))])
        assert (await peer.call("whoami")).status == 200

        desk.run("tokens", "revoke", option, "t-1" if option == "--jti" else "ann", "--for", "2h")

        assert (await peer.call("whoami")).reason() == "revoked"
    (name,) = redis.names()
    assert 7100 < int(redis.ask(b"TTL " + name.encode()).strip(b":\r\n")) <= 7200
    assert "revoked until 20" in desk.run("tokens", "revoke", "--jti", "x")[1]


SCRIPT = """
import mcp_chassis.settings
mcp_chassis.settings.answer = {"public_url": "https://notes.example.com", "tool_timeout": "30"}.__getitem__
from tests.identity.serving import notes
from mcp_chassis.cli import main
main(notes())
"""


def a_process(environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `ops` as a process that a file's permissions hold for."""
    given = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), **environment}
    command = without_override([sys.executable, "-c", SCRIPT, "ops", *arguments])
    return subprocess.run(command, capture_output=True, text=True, check=False, env=given)


@pytest.mark.parametrize("shared", [True, False], ids=["with_redis", "without"])
def test_A3_read_only_file_is_revoked_through_the_store_or_says_why_not(
    shared: bool, redis: Redis, tmp_path: Path
) -> None:
    folder = tmp_path / "mounted"
    folder.mkdir()
    environment = {"MCP_API_KEYS_FILE": str(folder / "keys.json")}
    key = Desk(environment).create()
    (folder / ".keys.json.lock").unlink()
    folder.chmod(0o500)
    environment |= {"MCP_STATE_URL": redis.url} if shared else {}

    done = a_process(environment, "keys", "revoke", identify(key))
    created = a_process(environment, "keys", "create", "--caller", "bob")

    assert (done.returncode, done.stdout) == (0 if shared else 1, "")
    if shared:
        assert "the keys file is read-only: the store refuses the key from now on" in done.stderr
        assert f"{identify(key)} is revoked" in done.stderr
        assert len(redis.names()) == 1
    else:
        assert "cannot be written and MCP_STATE_URL is memory://" in done.stderr
    assert (created.returncode, created.stdout) == (1, "")
    assert "Permission denied" in created.stderr
    assert "Traceback" not in done.stderr + created.stderr
