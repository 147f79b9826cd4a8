"""Tokens as Entra ID, Okta and Keycloak issue them, with the settings that docs/callers.md names (A5)."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.identity.issuer import CONFIGURATION, KEYS, Issuer, replying
from tests.identity.wire import ERAS, Era
from tests.identity.world import server_of
from tests.support.inside import PUBLIC, Log

pytestmark = pytest.mark.anyio

TENANT = "72f988bf-86f1-41af-91ab-2d7cd011db47"
API = "6e74172b-be56-4843-9ff4-e66a39bb12e3"


@dataclass(frozen=True)
class Recipe:
    """One kind of issuer."""

    path: str
    """Of the issuer, below its host."""
    claims: dict[str, Any]
    settings: dict[str, Any]
    caller: dict[str, Any]
    header: dict[str, Any] = field(default_factory=dict)
    declares: bool = True
    """Whether its keys say their algorithm."""


ENTRA: dict[str, Any] = {"jwt_audiences": (API,), "jwt_tenant_claim": "tid"}
RECIPES = {
    "Entra ID v2.0, a person": Recipe(
        f"/{TENANT}/v2.0",
        {
            "aud": API, "azp": "client-1", "azpacr": "0", "idtyp": "user", "name": "Ann", "oid": "oid-1", "rh": "0.A",
            "preferred_username": "ann@acme.example", "scp": "notes.read notes.write", "sub": "pairwise-1",
            "tid": TENANT, "uti": "uti-1", "ver": "2.0", "aio": "x",
        },
        ENTRA,
        {"id": "pairwise-1", "tenant": TENANT, "scopes": ["notes.read", "notes.write"]},
        header={"x5t": "first"},
        declares=False,
    ),
    "Entra ID v1.0, a person": Recipe(
        f"/{TENANT}/",
        {
            "aud": f"api://{API}", "appid": "client-1", "appidacr": "0", "acr": "1", "amr": ["pwd"], "oid": "oid-1",
            "scp": "notes.read", "sub": "pairwise-1", "tid": TENANT, "unique_name": "ann@acme.example",
            "upn": "ann@acme.example", "uti": "uti-1", "ver": "1.0",
        },
        ENTRA | {"jwt_audiences": (f"api://{API}",)},
        {"id": "pairwise-1", "tenant": TENANT, "scopes": ["notes.read"]},
        header={"x5t": "first"},
        declares=False,
    ),
    "Entra ID v2.0, a job": Recipe(
        f"/{TENANT}/v2.0",
        {
            "aud": API, "azp": "client-1", "azpacr": "1", "idtyp": "app", "oid": "oid-2", "sub": "oid-2",
            "roles": ["notes.read"], "tid": TENANT, "uti": "uti-2", "ver": "2.0",
        },
        ENTRA,
        # Roles are no scopes: what a job may do has to come in `scp` or from an API key.
        {"id": "oid-2", "tenant": TENANT, "scopes": []},
        header={"x5t": "first"},
        declares=False,
    ),
    "Okta": Recipe(
        "/oauth2/aus1abc",
        {
            "aud": "api://notes", "auth_time": 1_700_000_000, "cid": "0oa1", "nbf": None, "sub": "ann@acme.example",
            "scp": ["notes:read", "offline_access"], "jti": "AT.x", "uid": "00u1", "ver": 1,
        },
        {"jwt_audiences": ("api://notes",), "jwt_not_before": "optional"},
        {"id": "ann@acme.example", "tenant": "default", "scopes": ["notes:read", "offline_access"]},
    ),
    "Keycloak": Recipe(
        "/realms/acme",
        {
            "aud": [f"{PUBLIC}/mcp", "account"], "azp": "mcp-client", "typ": "Bearer", "acr": "1", "sid": "s-1",
            "nbf": None, "scope": "openid email notes:read", "sub": "f:1:ann", "email_verified": True,
            "realm_access": {"roles": ["user"]}, "resource_access": {"account": {"roles": ["view-profile"]}},
            "preferred_username": "ann", "organization": "acme",
        },
        {"jwt_not_before": "optional", "jwt_tenant_claim": "organization"},
        {"id": "f:1:ann", "tenant": "acme", "scopes": ["email", "notes:read", "openid"]},
    ),
    "RFC 9068": Recipe(
        "",
        {"aud": [f"{PUBLIC}/mcp"], "client_id": "s6BhdRkqt3", "scope": "notes:read", "jti": "j", "auth_time": 1},
        {},
        {"id": "ann", "tenant": "default", "scopes": ["notes:read"]},
        header={"typ": "at+jwt"},
    ),
}  # fmt: skip


def publish(issuer: Issuer, recipe: Recipe) -> str:
    """Let the issuer answer at its path; return its address."""
    url = issuer.url + recipe.path
    place = recipe.path.rstrip("/") + CONFIGURATION
    issuer.instead[place] = replying({"issuer": url, "jwks_uri": f"{issuer.url}{KEYS}"})
    if not recipe.declares:
        del issuer.jwks[0]["alg"]
    return url


def common(url: str) -> dict[str, Any]:
    return {"iss": url, "scope": None, "exp": int(time.time()) + 3600}


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("name", RECIPES)
async def test_A5_token_of_the_issuer_names_its_caller(name: str, era: Era, issuer: Issuer, log: Log) -> None:
    recipe = RECIPES[name]
    url = publish(issuer, recipe)
    token = issuer.token(header=recipe.header, **(common(url) | recipe.claims))

    async with server_of(issuer, jwt_issuer=url, **recipe.settings) as served:
        peer = await served.opened(era, [("Authorization", f"Bearer {token}")])
        answer = await peer.call("whoami")

    assert answer.result()["structuredContent"] == recipe.caller
    assert {line["caller_id"] for line in log.lines()} == {recipe.caller["id"]}
    assert token not in log.text()


@pytest.mark.parametrize(
    ("name", "claims", "reason"),
    [
        ("Entra ID v2.0, a person", {"tid": None}, "no_tenant"),
        ("Entra ID v2.0, a person", {"tid": 7}, "no_tenant"),
        ("Entra ID v2.0, a person", {"tid": ""}, "no_tenant"),
        ("Entra ID v2.0, a person", {"aud": "client-1", "nonce": "n"}, "wrong_audience"),
        ("Entra ID v1.0, a person", {"iss": f"https://sts.windows.net/{TENANT}/"}, "wrong_issuer"),
        ("Okta", {"aud": "0oa1", "nonce": "n"}, "wrong_audience"),
        ("Keycloak", {"aud": "account"}, "wrong_audience"),
        ("Keycloak", {"organization": {"acme": {}}}, "no_tenant"),
        ("RFC 9068", {"nbf": None}, "missing_claim"),
    ],
)
async def test_A5_its_other_tokens_do_not(
    name: str, claims: dict[str, Any], reason: str, issuer: Issuer, log: Log
) -> None:
    recipe = RECIPES[name]
    url = publish(issuer, recipe)
    token = issuer.token(header=recipe.header, **(common(url) | recipe.claims | claims))

    async with server_of(issuer, jwt_issuer=url, **recipe.settings) as served:
        refused = await served.peer("stateless", [("Authorization", f"Bearer {token}")]).introduce()

    assert (refused.status, refused.reason()) == (401, reason)
    assert log.reasons() == {reason}


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"scope": "a b  c"}, ["a", "b", "c"]),
        ({"scope": "", "scp": ["a", "b"]}, ["a", "b"]),
        ({"scope": "a", "scp": "b"}, ["a", "b"]),
        ({"scope": ["a", 7, None, "b"]}, ["a", "b"]),
        ({"scope": {"a": 1}}, []),
        ({"scope": 7, "scp": None}, []),
        ({"scope": "*"}, []),
    ],
)
async def test_A5_scopes_are_read_from_text_or_list(
    claims: dict[str, Any], expected: list[str], issuer: Issuer
) -> None:
    async with server_of(issuer) as served:
        answer = await served.peer("stateless", [("Authorization", f"Bearer {issuer.token(**claims)}")]).call("whoami")

    assert answer.result()["structuredContent"]["scopes"] == expected


@pytest.mark.parametrize(("late", "status"), [(20, 200), (35, 401)])
async def test_A5_clocks_may_differ_by_the_leeway(late: int, status: int, issuer: Issuer) -> None:
    now = int(time.time())
    async with server_of(issuer, jwt_leeway=30) as served:
        for token in (issuer.token(exp=now - late), issuer.token(nbf=now + late)):
            peer = served.peer("stateless", [("Authorization", f"Bearer {token}")])
            assert (await peer.introduce()).status == status
