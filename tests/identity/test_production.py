"""Production refuses to start unsafely, each time with the line that says why and what to do (A10)."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_chassis.environment import ConfigurationError, load
from mcp_chassis.settings import Settings
from tests.support.inside import PUBLIC

GOOD = {
    "MCP_ENVIRONMENT": "production",
    "MCP_PUBLIC_URL": PUBLIC,
    "MCP_AUTH": "jwt",
    "MCP_JWT_ISSUER": "https://login.example.com",
    "MCP_STATE_URL": "redis://redis:6379/0",
}
NONE = "MCP_AUTH=none  must not be none in production; use keys, jwt or mtls"
KEYS_ALONE = (
    "is not enough in production for a server that everybody can reach: add jwt or mtls (keys may stay beside them), "
    "or say MCP_EXPOSURE=internal if only your own network reaches it"
)
IN_PROCESS = (
    "MCP_STATE_URL=memory://  must be a Redis in production, so that all replicas know what was revoked; say "
    "MCP_SINGLE_REPLICA=true if there will only ever be one"
)
MODES = "must be none, or one or more of keys, jwt, mtls separated by commas: keys,jwt; remove it to use none"
ISSUER = "must be https:// and the issuer as its tokens name it: https://login.example.com/tenant/v2.0"
NO_ISSUER = (
    "MCP_JWT_ISSUER  is required by MCP_AUTH=jwt: the issuer as its tokens name it, like https://login.example.com"
)
NO_FILE = "MCP_API_KEYS_FILE  is required by MCP_AUTH=keys unless MCP_STATE_URL is a Redis: a file like keys.json"

Given = dict[str, str | None]

REFUSED: dict[str, tuple[Given, list[str]]] = {
    "no auth given": ({"MCP_AUTH": None}, [NONE]),
    "no auth": ({"MCP_AUTH": "none"}, [NONE]),
    "no auth with a space": ({"MCP_AUTH": " none"}, [NONE.replace("=none", "= none")]),
    "no auth beside another": (
        {"MCP_AUTH": "none,jwt"},
        [NONE.replace("=none", "=none,jwt"), f"MCP_AUTH=none,jwt  {MODES}"],
    ),
    "auth empty": ({"MCP_AUTH": ""}, [f"MCP_AUTH=  {MODES}"]),
    "auth unknown": ({"MCP_AUTH": "basic"}, [f"MCP_AUTH=basic  {MODES}"]),
    "auth in capitals": ({"MCP_AUTH": "NONE"}, [f"MCP_AUTH=NONE  {MODES}"]),
    "keys alone": ({"MCP_AUTH": "keys"}, [f"MCP_AUTH=keys  {KEYS_ALONE}"]),
    "keys and a comma": ({"MCP_AUTH": "keys,"}, [f"MCP_AUTH=keys,  {KEYS_ALONE}"]),
    "keys said to be public": ({"MCP_AUTH": "keys", "MCP_EXPOSURE": "public"}, [f"MCP_AUTH=keys  {KEYS_ALONE}"]),
    "exposure misspelt": (
        {"MCP_AUTH": "keys", "MCP_EXPOSURE": "Internal"},
        ["MCP_EXPOSURE=Internal  must be internal or public; remove it to use public"],
    ),
    "plaintext address": (
        {"MCP_PUBLIC_URL": "http://notes.example.com"},
        ["MCP_PUBLIC_URL=http://notes.example.com  must be https:// in production"],
    ),
    "plaintext address in capitals": (
        {"MCP_PUBLIC_URL": "HTTP://notes.example.com"},
        [
            "MCP_PUBLIC_URL=HTTP://notes.example.com  must be https:// in production",
            "MCP_PUBLIC_URL=HTTP://notes.example.com  must be https:// and a host, without a path: "
            "https://notes.example.com; remove it to use https://notes.example.com",
        ],
    ),
    "plaintext issuer": (
        {"MCP_JWT_ISSUER": "http://127.0.0.1:8000"},
        ["MCP_JWT_ISSUER=http://127.0.0.1:8000  must be https:// in production"],
    ),
    "plaintext keys": (
        {"MCP_JWT_KEYS_URL": "HTTP://localhost/keys"},
        ["MCP_JWT_KEYS_URL=HTTP://localhost/keys  must be https:// in production"],
    ),
    "plaintext issuer elsewhere": (
        {"MCP_JWT_ISSUER": "http://login.example.com"},
        [
            "MCP_JWT_ISSUER=http://login.example.com  must be https:// in production",
            f"MCP_JWT_ISSUER=http://login.example.com  {ISSUER}",
        ],
    ),
    "issuer with an impossible port": (
        {"MCP_JWT_ISSUER": "https://login.example.com:99999"},
        [f"MCP_JWT_ISSUER=https://login.example.com:99999  {ISSUER}"],
    ),
    "state given nowhere": ({"MCP_STATE_URL": None}, [IN_PROCESS]),
    "state in process": ({"MCP_STATE_URL": "memory://"}, [IN_PROCESS]),
    "state in process, said in a file": ({"MCP_STATE_URL": None, "MCP_STATE_URL_FILE": "memory"}, [IN_PROCESS]),
    "more replicas": ({"MCP_STATE_URL": None, "MCP_SINGLE_REPLICA": "false"}, [IN_PROCESS]),
    "jwt without issuer": ({"MCP_JWT_ISSUER": None}, [NO_ISSUER]),
    "jwt with an empty issuer": ({"MCP_JWT_ISSUER": ""}, [NO_ISSUER, f"MCP_JWT_ISSUER=  {ISSUER}"]),
    "keys without a place": (
        {"MCP_AUTH": "keys,jwt", "MCP_STATE_URL": None, "MCP_SINGLE_REPLICA": "true"},
        [NO_FILE],
    ),
    "symmetric signatures": (
        {"MCP_JWT_ALGORITHMS": "RS256,HS256"},
        [
            "MCP_JWT_ALGORITHMS=RS256,HS256  must be some of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, "
            "ES512, EdDSA: RS256,ES256; remove it to use RS256,ES256"
        ],
    ),
    "everything at once": (
        {"MCP_AUTH": None, "MCP_PUBLIC_URL": "http://n.example", "MCP_STATE_URL": None},
        [NONE, "MCP_PUBLIC_URL=http://n.example  must be https:// in production", IN_PROCESS],
    ),
    "production in small letters": (
        {"MCP_ENVIRONMENT": None, "mcp_environment": "production", "MCP_AUTH": None},
        ["mcp_environment  must be written MCP_ENVIRONMENT"],
    ),
    "auth in small letters": ({"MCP_AUTH": None, "mcp_auth": "none"}, ["mcp_auth  must be written MCP_AUTH", NONE]),
}

STARTS: dict[str, Given] = {
    "tokens": {},
    "tokens and keys": {"MCP_AUTH": "keys,jwt"},
    "certificates": {"MCP_AUTH": "mtls", "MCP_JWT_ISSUER": None},
    "certificates and keys": {"MCP_AUTH": "keys, mtls", "MCP_JWT_ISSUER": None},
    "keys on an internal network": {"MCP_AUTH": "keys", "MCP_EXPOSURE": "internal", "MCP_JWT_ISSUER": None},
    "one replica": {"MCP_STATE_URL": None, "MCP_SINGLE_REPLICA": "true"},
    "one replica in capitals": {"MCP_STATE_URL": None, "MCP_SINGLE_REPLICA": "TRUE"},
    "state in a file": {"MCP_STATE_URL": None, "MCP_STATE_URL_FILE": "redis"},
    "address from the answers": {"MCP_PUBLIC_URL": None},
    "state over TLS": {"MCP_STATE_URL": "rediss://:password@redis:6379"},
}


def enter(given: Given, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"memory": "memory://\n", "redis": "redis://:s3cret@redis:6379/0\n"}
    for name, text in (GOOD | given).items():
        if name.endswith("_FILE") and text in texts:
            (folder / text).write_text(texts[text], encoding="utf-8")
            text = str(folder / text)
        if text is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, text)


@pytest.mark.parametrize("name", REFUSED)
def test_A10_production_refuses_and_says_why(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, lines = REFUSED[name]
    enter(given, tmp_path, monkeypatch)

    with pytest.raises(ConfigurationError) as refused:
        load(Settings)

    assert str(refused.value).splitlines()[1:] == [f"  {line}" for line in lines]
    assert refused.value.exit_code == 78


@pytest.mark.parametrize("name", STARTS)
def test_A10_production_starts_when_it_is_safe(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(STARTS[name], tmp_path, monkeypatch)

    settings, _ = load(Settings)

    assert settings.environment == "production"


def test_A10_production_in_env_file_is_refused_because_nothing_would_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = "\n".join(f"{name}={value}" for name, value in GOOD.items())
    (tmp_path / ".env").write_text(text, encoding="utf-8")

    with pytest.raises(ConfigurationError) as refused:
        load(Settings)

    rule = "must be set in the process, not in .env: production never reads that file"
    assert str(refused.value).splitlines()[1:] == [f"  MCP_ENVIRONMENT=production  {rule}"]


def test_A10_development_starts_without_any_of_it() -> None:
    settings, _ = load(Settings)

    assert (settings.environment, settings.auth) == ("development", ("none",))


def test_A10_password_of_the_store_is_in_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter({"MCP_STATE_URL": "redis://:s3cret@red is:6379", "MCP_AUTH": None}, tmp_path, monkeypatch)

    with pytest.raises(ConfigurationError) as refused:
        load(Settings)

    assert "MCP_STATE_URL  must be memory:// or redis://host:6379/0 (rediss:// for TLS)" in str(refused.value)
    assert "s3cret" not in str(refused.value) + repr(refused.value)
