"""The real server behind the real edges, under its public name (A1, A5, T7)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.live.edges import Edge, running
from tests.live.project import Project, ServerProcess

pytestmark = pytest.mark.xdist_group("live")

PUBLIC = "acme-notes.example.com"
ISSUER = "https://login.example.com"
METADATA = "/.well-known/oauth-protected-resource/mcp"
BODY = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}).encode()


@pytest.fixture(params=["nginx", "caddy"])
def edge(request: pytest.FixtureRequest, project: Project) -> Iterator[Edge]:
    """Return an edge in front of a server that takes tokens, and certificates that the edge has verified."""
    given = {"MCP_AUTH": "jwt,mtls", "MCP_JWT_ISSUER": ISSUER, "MCP_MTLS_SCOPES": "notes:read"}
    with ServerProcess(project, given=given) as server, running(request.param, urlsplit(server.url).port or 0) as edge:
        yield edge


def post(edge: Edge, host: str = PUBLIC, *more: tuple[str, str]) -> tuple[int, list[str]]:
    """Send a message without a credential; return the status and the challenges."""
    headers = [("Host", host), ("Content-Type", "application/json"), *more]
    answer = edge.request("POST", "/mcp", headers=headers, body=BODY)
    return answer.status, answer.values("WWW-Authenticate")


def test_A1_client_finds_the_issuer_through_the_edge(edge: Edge) -> None:
    status, challenges = post(edge)

    document = edge.request("GET", METADATA, headers=[("Host", PUBLIC)])

    assert (status, challenges) == (
        401,
        [f'Bearer realm="acme-notes", resource_metadata="https://{PUBLIC}{METADATA}"'],
    )
    assert json.loads(document.body) == {
        "resource": f"https://{PUBLIC}/mcp",
        "authorization_servers": [ISSUER],
        "scopes_supported": ["notes:read", "notes:write"],
        "bearer_methods_supported": ["header"],
    }


def test_T7_public_name_and_origin_are_admitted_and_others_are_not(edge: Edge) -> None:
    assert post(edge, "evil.example.com")[0] == 421
    assert post(edge, PUBLIC, ("Origin", "https://evil.example.com"))[0] == 403
    assert post(edge, PUBLIC, ("Origin", f"https://{PUBLIC}"))[0] == 401


def test_A6_subject_that_comes_from_outside_is_dropped(edge: Edge) -> None:
    status, _ = post(edge, PUBLIC, ("X-Client-Subject", "CN=agent-7"))

    assert status == 401
