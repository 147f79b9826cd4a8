"""`check publish`: nothing reaches a registry that its readers could not use (G4)."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from mcp_chassis.checks.commands import add_publish
from tests.gates.between import Meddle, between
from tests.gates.conftest import Running
from tests.gates.deployments import vanished
from tests.gates.saboteurs import broken_calls
from tests.live.authority import make_certificate
from tests.render.support import by_copier
from tests.support.ports import free_port

pytestmark = pytest.mark.xdist_group("gates")
PUBLIC = "93.184.215.14"


def publish(*arguments: str | Path) -> tuple[int, set[str], str]:
    """Return the exit code, what was not good, and all that was said."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.callback()(lambda: None)
    add_publish(app)
    done = CliRunner().invoke(app, ["publish", "--json", *map(str, arguments)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    results = json.loads(done.output) if done.output.startswith("[") else []
    return done.exit_code, {item["name"] for item in results if item["result"] in ("fail", "unseen")}, done.output


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a rendered project as the working folder; only its files count here."""
    (tmp_path / "project").mkdir()
    for name in ("server.json", "pyproject.toml"):
        shutil.copy(by_copier() / name, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def record(**changes: Any) -> None:
    """Change the entry in the working folder."""
    entry = json.loads(Path("server.json").read_text(encoding="utf-8"))
    Path("server.json").write_text(json.dumps(entry | changes), encoding="utf-8")


def remote(url: str) -> dict[str, Any]:
    """Return the part of an entry that says where the server is."""
    return {"remotes": [{"type": "streamable-http", "url": url}]}


def resolving(monkeypatch: pytest.MonkeyPatch, addresses: list[str]) -> None:
    """Give every name these addresses, and lead connections to them to this machine: there is no internet here."""

    async def found(*_: object, **__: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, 0)) for address in addresses]

    monkeypatch.setattr("mcp_chassis.checks.protocol.anyio.getaddrinfo", found)


@pytest.fixture
def address(running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the https URL of the server, with a certificate that is trusted."""
    make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "tls.crt"))
    with between(running.url, certificate=tmp_path) as url:
        yield url


REFUSED = [
    ("loopback", ["127.0.0.1"], False, {"reachable"}),
    ("loopback in a private registry", ["127.0.0.1"], True, {"reachable"}),
    ("loopback in another spelling", ["::ffff:127.0.0.1"], True, {"reachable"}),
    ("private", ["10.1.2.3"], False, {"reachable"}),
    ("one of two is private", [PUBLIC, "192.168.0.7"], False, {"reachable"}),
    ("cloud metadata", ["169.254.169.254"], True, {"reachable"}),
    ("carrier's network", ["100.64.1.1"], False, {"reachable"}),
    ("documentation", ["192.0.2.1"], False, {"reachable"}),
    ("any address", ["0.0.0.0"], True, {"reachable"}),
    ("unique local", ["fd00::1"], False, {"reachable"}),
]


@pytest.mark.parametrize(("addresses", "private", "bad"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
@pytest.mark.usefixtures("entry")
def test_G4_address_that_readers_cannot_reach_is_refused(
    addresses: list[str], private: bool, bad: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving(monkeypatch, addresses)

    code, found, said = publish(*(["--private-registry"] if private else []))

    assert (code, found) == (1, bad), said


@pytest.mark.usefixtures("entry")
def test_G4_url_of_this_machine_is_refused_by_its_real_address(address: str, running: Running) -> None:
    record(**remote(address))

    code, found, _ = publish("--token-file", running.files["probe"], "--private-registry")

    assert (code, found) == (1, {"reachable"})


@pytest.mark.parametrize(
    ("changes", "arguments", "bad"),
    [
        ({"version": "0.2.0"}, (), {"version"}),
        ({}, ("--version", "v0.3.0"), {"version"}),
        (remote("http://acme-notes.example.com/mcp"), (), {"recorded"}),
        ({"remotes": []}, (), {"recorded"}),
        ({"remotes": None}, (), {"recorded"}),
        (remote("https://nobody.invalid/mcp"), (), {"reachable"}),
    ],
    ids=["version", "other release", "http", "none", "null", "no such name"],
)
@pytest.mark.usefixtures("entry")
def test_G4_entry_that_is_wrong_is_refused(
    changes: dict[str, Any], arguments: tuple[str, ...], bad: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record(**changes)
    if bad != {"reachable"}:
        resolving(monkeypatch, [PUBLIC])

    code, found, said = publish(*arguments)

    assert (code, found) == (1, bad), said


def test_G4_project_without_an_entry_is_wrong_usage(entry: Path) -> None:
    (entry / "server.json").unlink()
    code, _, said = publish()

    assert code == 2
    assert "server.json is not there" in said


@pytest.mark.usefixtures("entry")
def test_G4_dead_server_is_not_published(monkeypatch: pytest.MonkeyPatch) -> None:
    record(**remote(f"https://localhost:{free_port()}/mcp"))
    resolving(monkeypatch, [PUBLIC])

    assert publish()[:2] == (1, {"tls"})


@pytest.mark.usefixtures("entry")
def test_G4_server_that_answers_as_recorded_is_published(
    address: str, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(**remote(address))
    resolving(monkeypatch, [PUBLIC])  # the one thing that is not real here: a public address cannot be had

    code, found, said = publish("--token-file", running.files["probe"], "--version", "v0.1.0")

    assert (code, found) == (0, set()), said
    names = [item["name"] for item in json.loads(said) if item["result"] == "pass"]
    assert names == [
        *("recorded", "version", "reachable", "dns", "tls", "handshake", "stateless", "release", "admitted"),
        *("tools", "ping", "refusal"),
    ]


@pytest.mark.parametrize(
    ("meddle", "bad"), [(vanished, {"tools"}), (broken_calls, {"ping"})], ids=["tools vanished", "calls fail"]
)
@pytest.mark.usefixtures("entry")
def test_G4_server_that_does_not_work_is_not_published(
    meddle: Meddle, bad: set[str], running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "tls.crt"))
    resolving(monkeypatch, [PUBLIC])

    with between(running.url, meddle, certificate=tmp_path) as url:
        record(**remote(url))
        code, found, said = publish("--token-file", running.files["probe"])

    assert (code, found) == (1, bad), said


@pytest.mark.usefixtures("entry")
def test_G4_release_that_does_not_run_yet_is_not_published(
    address: str, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(**remote(address), version="0.2.0")
    resolving(monkeypatch, [PUBLIC])

    code, found, said = publish("--token-file", running.files["probe"], "--version", "0.2.0")

    assert (code, found) == (1, {"release"})
    assert "acme-notes 0.1.0, expected 0.2.0" in said
