"""A refused client can find the issuer and the scopes: the official one, and a page in a browser (A5, RFC 9728)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.auth.utils import (
    build_protected_resource_metadata_discovery_urls,
    extract_resource_metadata_from_www_auth,
    extract_scope_from_www_auth,
    get_client_metadata_scopes,
    handle_protected_resource_response,
)
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import ProtectedResourceMetadata
from mcp.shared.auth_utils import check_resource_allowed

from mcp_chassis import Server
from tests.identity.issuer import Issuer
from tests.identity.serving import METADATA, Served, bearer, serving, settings
from tests.identity.wire import ERAS, Browser, Era, exchange, raw
from tests.support.inside import PUBLIC, Log

pytestmark = pytest.mark.anyio

WELL_KNOWN = "/.well-known/oauth-protected-resource/mcp"
PAGE = "https://app.example.com"


@asynccontextmanager
async def server_of(issuer: Issuer, **given: Any) -> AsyncIterator[Served]:
    known: dict[str, Any] = {"auth": ("jwt",), "jwt_issuer": issuer.url, "allowed_origins": (PAGE,)}
    async with serving(settings(**(known | given))) as served:
        yield served


def as_seen(answer: Any) -> httpx2.Response:
    """Return an answer as the official client holds it."""
    return httpx2.Response(answer.status, headers=answer.headers, content=answer.body)


async def test_A5_metadata_names_resource_issuer_and_scopes(issuer: Issuer) -> None:
    async with server_of(issuer) as served:
        answer = await exchange(served.port, raw("GET", [], path=WELL_KNOWN))

    assert (answer.status, answer.header("content-type")) == (200, "application/json")
    assert json.loads(answer.body) == {
        "resource": f"{PUBLIC}/mcp",
        "authorization_servers": [issuer.url],
        "scopes_supported": ["notes:read", "notes:write"],
        "bearer_methods_supported": ["header"],
    }


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("token", [None, "not-a-token"])
async def test_A5_official_client_finds_the_issuer_from_the_401(token: str | None, era: Era, issuer: Issuer) -> None:
    async with server_of(issuer) as served:
        headers = [] if token is None else [bearer(token)]
        refused = as_seen(await served.peer(era, headers).introduce())
        url = extract_resource_metadata_from_www_auth(refused)
        document = as_seen(await exchange(served.port, raw("GET", [], path=WELL_KNOWN)))
        metadata = await handle_protected_resource_response(document)

    assert build_protected_resource_metadata_discovery_urls(url, f"{PUBLIC}/mcp")[0] == METADATA
    assert isinstance(metadata, ProtectedResourceMetadata)
    assert [str(server) for server in metadata.authorization_servers] == [issuer.url]
    assert check_resource_allowed(requested_resource=f"{PUBLIC}/mcp", configured_resource=str(metadata.resource))
    assert get_client_metadata_scopes(extract_scope_from_www_auth(refused), metadata) == "notes:read notes:write"


@pytest.mark.parametrize("era", ERAS)
async def test_A11_official_client_asks_for_the_scopes_that_the_403_names(era: Era, issuer: Issuer) -> None:
    async with server_of(issuer) as served:
        peer = await served.opened(era, [bearer(issuer.token(scope="other"))])
        refused = as_seen(await peer.call("discard"))

    assert extract_scope_from_www_auth(refused) == "notes:read notes:write"
    assert extract_resource_metadata_from_www_auth(refused) == METADATA


@pytest.mark.parametrize("auth", ["keys", "mtls"])
async def test_A5_server_without_tokens_names_no_issuer(auth: str, issuer: Issuer, tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("{}", encoding="utf-8")
    async with server_of(issuer, auth=(auth,), api_keys_file=tmp_path / "keys.json") as served:
        refused = await served.peer("stateless").introduce()
        document = await exchange(served.port, raw("GET", [], path=WELL_KNOWN))

    assert (refused.status, refused.header("www-authenticate")) == (401, 'Bearer realm="notes"')
    assert document.status == 404


@pytest.mark.parametrize(
    ("name", "realm"),
    [
        ('a"b', "a?b"),
        ("a\\b", "a?b"),
        ("Zürich", "Z?rich"),
        ("a\r\nX-Evil: 1", "a??X-Evil: 1"),
        ("李", "?"),
    ],
)
async def test_A1_name_of_the_server_cannot_break_the_header(name: str, realm: str, issuer: Issuer, log: Log) -> None:
    given = settings(auth=("jwt",), jwt_issuer=issuer.url)
    async with serving(given, Server(name)) as served:
        refused = await served.peer("stateless").introduce()

    assert refused.status == 401
    assert refused.header("www-authenticate") == f'Bearer realm="{realm}", resource_metadata="{METADATA}"'
    assert refused.header("x-evil") is None
    assert not log.lines("crashed")


@pytest.mark.parametrize("era", ERAS)
async def test_T7_page_of_an_allowed_origin_can_read_why_it_was_refused(era: Era, issuer: Issuer) -> None:
    async with server_of(issuer) as served:
        asked = await Browser(served.port, PAGE).preflight("POST", "authorization,content-type,mcp-protocol-version")
        refused = await served.peer(era, [("Origin", PAGE)]).introduce()

    # A preflight carries no credential, so it must pass without one.
    assert (asked.status, asked.header("access-control-allow-origin")) == (200, PAGE)
    assert "authorization" in (asked.header("access-control-allow-headers") or "").lower()
    assert refused.status == 401
    assert refused.header("access-control-allow-origin") == PAGE
    exposed = (refused.header("access-control-expose-headers") or "").split(", ")
    assert {"WWW-Authenticate", "Retry-After", "Mcp-Session-Id"} <= set(exposed)
    assert "Origin" in (refused.header("vary") or "")


@pytest.mark.parametrize("era", ERAS)
async def test_T7_page_of_another_origin_learns_nothing(era: Era, issuer: Issuer) -> None:
    async with server_of(issuer) as served:
        headers = [bearer(issuer.token()), ("Origin", "https://evil.example")]
        refused = await served.peer(era, headers).introduce()

    assert (refused.status, refused.reason()) == (403, "wrong_origin")
    assert refused.header("access-control-allow-origin") is None
    assert served.handled == []


async def test_A5_any_page_can_read_the_metadata_as_clients_ask_for_it(issuer: Issuer) -> None:
    # Given a client in a browser, which sends its protocol version and so has to ask first
    async with server_of(issuer) as served:
        browser = Browser(served.port, "https://anywhere.example")
        asked = await browser.preflight("GET", "mcp-protocol-version", path=WELL_KNOWN)
        headers = [("Origin", browser.origin), ("MCP-Protocol-Version", "2025-11-25")]
        answer = await exchange(served.port, raw("GET", headers, path=WELL_KNOWN))

    assert asked.status == 200
    assert asked.header("access-control-allow-origin") == "*"
    assert "mcp-protocol-version" in (asked.header("access-control-allow-headers") or "").lower()
    assert (answer.status, answer.header("access-control-allow-origin")) == (200, "*")


async def test_A5_metadata_is_there_while_the_issuer_is_not(issuer: Issuer) -> None:
    async with server_of(issuer) as served:
        await issuer.stop()

        assert (await exchange(served.port, raw("GET", [], path=WELL_KNOWN))).status == 200


async def test_A1_official_client_works_with_a_token(issuer: Issuer) -> None:
    async with server_of(issuer) as served, httpx2.AsyncClient(headers=dict([bearer(issuer.token())])) as http:
        transport = streamable_http_client(f"http://127.0.0.1:{served.port}/mcp", http_client=http)
        async with Client(transport) as client:
            answer = await client.call_tool("whoami", {})

    assert answer.structured_content == {"id": "ann", "tenant": "default", "scopes": ["notes:read"]}
