"""S1, S5, S7: what is wrong with the settings of replicas is said in words, before a socket opens."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from mcp_chassis.environment import ConfigurationError, load
from mcp_chassis.settings import Settings
from tests.live.authority import make_certificate

REDIS: Final = {"MCP_STATE_URL": "redis://127.0.0.1:6379/0"}
SECRET: Final = "s" * 32
PEERS: Final = {"MCP_PEER_URL": "https://10.1.2.3:9443", "MCP_PEER_SECRET": SECRET}
ADDRESS: Final = "must be https://, this replica's own address and the port of its peers: https://10.1.2.3:9443"
SHORT: Final = "must be secrets of at least 32 characters, one a line: openssl rand -hex 32"
PAIR: Final = "replicas forward with both or not at all"
STORE: Final = "MCP_STATE_URL=memory://  must be a Redis for {}: replicas find the owner of a session there"
PEM: Final = "must be a file with certificates in PEM that this process can read"


def read(monkeypatch: pytest.MonkeyPatch, **given: str) -> Settings:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    return load(Settings)[0]


def problems(monkeypatch: pytest.MonkeyPatch, **given: str) -> list[str]:
    with pytest.raises(ConfigurationError) as stopped:
        read(monkeypatch, **given)
    assert stopped.value.exit_code == 78
    return [str(problem) for problem in stopped.value.problems]


@pytest.mark.parametrize(
    "url",
    [
        *("", "10.1.2.3:9443", "//10.1.2.3:9443", "https://10.1.2.3", "https://10.1.2.3:", "https://:9443", "https://"),
        *("https://10.1.2.3:0", "https://10.1.2.3:65536", "https://10.1.2.3:9443/", "https://10.1.2.3:9443/mcp"),
        *("https://10.1.2.3:9443?x", "https://10.1.2.3:9443#x", "ftp://10.1.2.3:21", "HTTPS://10.1.2.3:9443"),
        *("https://[fd00::1", "https://fd00::x:9443", "https://[fe80::1%eth0]:9443", "https://a b:9443"),
        *("https://$(POD_IP):9443", "https://10.1.2.3:\uff19443", "https://10.1.2.3:-1"),
    ],
)
def test_S5_address_that_is_not_one_replicas_own_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = problems(monkeypatch, **REDIS, **(PEERS | {"MCP_PEER_URL": url}))

    assert f"MCP_PEER_URL={url}  {ADDRESS}" in found


def test_S5_password_in_an_address_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    found = problems(monkeypatch, **REDIS, **(PEERS | {"MCP_PEER_URL": "https://ann:s3cret@10.1.2.3:9443"}))

    assert found == [f"MCP_PEER_URL=https://***@10.1.2.3:9443  {ADDRESS}"]


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://10.1.2.3:9443", "https://10.1.2.3:9443"),
        ("http://127.0.0.1:18081", "http://127.0.0.1:18081"),
        ("https://notes-0.notes.svc.cluster.local:9443", "https://notes-0.notes.svc.cluster.local:9443"),
        ("https://[fd00::1]:9443", "https://[fd00::1]:9443"),
        # As Kubernetes fills in $(POD_IP)
        ("https://fd00:0::1:9443", "https://[fd00::1]:9443"),
    ],
)
def test_S5_address_of_a_replica_is_kept(url: str, kept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(monkeypatch, **REDIS, **(PEERS | {"MCP_PEER_URL": url})).peer_url == kept


@pytest.mark.parametrize("name", PEERS)
def test_S5_one_of_the_two_alone_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    [missing] = set(PEERS) - {name}

    assert problems(monkeypatch, **REDIS, **{name: PEERS[name]}) == [f"{missing}  is required by {name}: {PAIR}"]


def test_S5_replicas_without_a_redis_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems(monkeypatch, **PEERS) == [STORE.format("MCP_PEER_URL")]


@pytest.mark.parametrize("name", ["MCP_PEER_SECRET", "MCP_REQUEST_STATE_KEYS"])
@pytest.mark.parametrize("secret", ["", " \n", "s" * 31, f"{SECRET}\nshort"])
def test_S5_S7_short_secret_is_refused_and_not_shown(
    name: str, secret: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "secrets").write_text(secret, encoding="utf-8")
    given = {**REDIS, **PEERS, name: secret}

    in_variable = problems(monkeypatch, **given)
    monkeypatch.delenv(name)
    in_file = problems(monkeypatch, **{f"{name}_FILE": str(tmp_path / "secrets")})

    assert f"{name}  {SHORT}" in in_variable
    assert f"{name}  {SHORT}" in in_file


@pytest.mark.parametrize("text", [f"{SECRET}\n", f"{SECRET}\n{'t' * 40}\n", f"  {SECRET} {'t' * 40}"])
def test_S5_S7_secrets_come_from_files_one_a_line(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secrets").write_text(text, encoding="utf-8")
    files = {f"MCP_{name}_FILE": str(tmp_path / "secrets") for name in ("PEER_SECRET", "REQUEST_STATE_KEYS")}

    found = read(monkeypatch, **REDIS, MCP_PEER_URL=PEERS["MCP_PEER_URL"], **files)

    assert found.peer_secret is not None
    assert found.request_state_keys == found.peer_secret
    assert found.peer_secret.get_secret_value().split()[0] == SECRET


def test_S5_authorities_that_cannot_be_read_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make_certificate(tmp_path)
    (tmp_path / "empty.pem").touch()
    bad = [tmp_path / "missing.pem", tmp_path / "empty.pem", tmp_path / "tls.key", tmp_path]

    told = [problems(monkeypatch, **REDIS, **PEERS, MCP_PEER_CA_FILE=str(path)) for path in bad]

    assert told == [[f"MCP_PEER_CA_FILE={path}  {PEM}"] for path in bad]
    good = read(monkeypatch, MCP_PEER_CA_FILE=str(tmp_path / "tls.crt"))
    assert good.peer_ca_file == tmp_path / "tls.crt"
