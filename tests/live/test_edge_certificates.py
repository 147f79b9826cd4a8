"""Certificates at both edges: of clients, verified and handed on (A6), and of the edge itself, renewed."""

from __future__ import annotations

import http.client
import json
import os
import signal
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography.x509.oid import NameOID

from tests.live.authority import Authority, make_certificate
from tests.live.curl import ERAS, HANDSHAKE, Conversation, Era
from tests.live.edges import CONFIGS, Answer, Edge, Headers, running
from tests.live.project import Project, ServerProcess
from tests.live.stub_server import DEADLINE, GAP, StubServer
from tests.live.test_edge_configs import examples

pytestmark = pytest.mark.xdist_group("edges")

AGENT = [(NameOID.COMMON_NAME, "agent-7"), (NameOID.ORGANIZATION_NAME, "acme")]
FORGED = [("X-Client-Subject", "CN=root,O=globex"), ("x-client-subject", "CN=root,O=globex")]
OPTIONAL = {
    "nginx": ("ssl_verify_client on", "ssl_verify_client optional"),
    "caddy": ("require_and_verify", "verify_if_given"),
}
RELOAD = {"nginx": signal.SIGHUP, "caddy": signal.SIGUSR1}
eras = pytest.mark.parametrize("era", ERAS, ids=str)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stub() -> Iterator[StubServer]:
    with StubServer() as server:
        yield server


@pytest.fixture(scope="module", params=CONFIGS)
def guarded(request: pytest.FixtureRequest, stub: StubServer, authority: Authority) -> Iterator[Edge]:
    """An edge that asks for certificates, in front of a stub."""
    drop_ins = clients(request.param)
    with running(request.param, stub.port, drop_ins=drop_ins, client_ca=authority.file) as edge:
        yield edge


@dataclass(frozen=True)
class Guarded:
    """A real server that takes certificates, behind an edge that asks for them."""

    edge: Edge
    server: ServerProcess

    def ping(self, era: Era, identity: Path, headers: Headers = ()) -> Answer:
        """Call a tool as whoever this certificate names."""
        conversation = Conversation("", era)
        if era is HANDSHAKE:
            hello = {"protocolVersion": era.version, "capabilities": {}, "clientInfo": {"name": "peer", "version": "1"}}
            opened = self._post(conversation, "initialize", hello, identity, headers)
            session = {"Mcp-Session-Id": opened.values("Mcp-Session-Id")[0], "MCP-Protocol-Version": era.version}
            conversation = replace(conversation, session=session)
        return self._post(conversation, "tools/call", {"name": "ping", "arguments": {}}, identity, headers)

    def _post(
        self, conversation: Conversation, method: str, params: Mapping[str, object], identity: Path, headers: Headers
    ) -> Answer:
        told, body = conversation.message(method, params)
        connection = self.edge.connect(identity=identity)
        answer = self.edge.request("POST", "/mcp", headers=[*told.items(), *headers], body=body.encode(), on=connection)
        assert answer.status == 200, answer
        return answer


@pytest.fixture(scope="module", params=CONFIGS)
def real(request: pytest.FixtureRequest, project: Project, authority: Authority) -> Iterator[Guarded]:
    given = {"MCP_AUTH": "mtls", "MCP_MTLS_SCOPES": "notes:read", "MCP_MTLS_TENANT_ATTRIBUTE": "O"}
    drop_ins = clients(request.param)
    with (
        ServerProcess(project, given=given) as server,
        running(request.param, urlsplit(server.url).port or 0, drop_ins=drop_ins, client_ca=authority.file) as edge,
    ):
        yield Guarded(edge, server)


def refused(edge: Edge, identity: Path | None) -> bool:
    """Tell whether a client is turned away, by a TLS alert or with 400."""
    try:
        return edge.request("POST", "/mcp", body=b"", on=edge.connect(identity=identity)).status == 400
    except (ssl.SSLError, ConnectionError, http.client.RemoteDisconnected):
        return True


def clients(name: str) -> dict[str, str]:
    """Return the drop-in that the page shows."""
    return examples(name, "clients")


def until(fulfilled: Callable[[], bool]) -> None:
    """Wait for what follows a reload, which nobody announces."""
    end = time.monotonic() + DEADLINE
    while not fulfilled():
        assert time.monotonic() < end
        time.sleep(GAP)


# --- clients ------------------------------------------------------------------------------------------------------


@eras
@pytest.mark.parametrize(
    ("name", "organisation"),
    [("agent-7", "acme"), ("Jürgen+Co", "Zürich, Inc."), ("a=b#1", "李"), ("{env.HOME}", "$uri")],
)
def test_A6_verified_subject_becomes_the_caller(
    era: Era, name: str, organisation: str, real: Guarded, authority: Authority
) -> None:
    identity = authority.issue([(NameOID.COMMON_NAME, name), (NameOID.ORGANIZATION_NAME, organisation)])

    answer = real.ping(era, identity)

    line = real.server.wait_for("tool_called", request_id=answer.values("X-Request-ID")[0])
    assert (line["caller_id"], line["tenant_id"]) == (name, organisation)


@eras
def test_A6_header_from_outside_is_dropped_when_certificates_are_verified_too(
    era: Era, real: Guarded, authority: Authority
) -> None:
    answer = real.ping(era, authority.issue(AGENT), FORGED)

    line = real.server.wait_for("tool_called", request_id=answer.values("X-Request-ID")[0])
    assert (line["caller_id"], line["tenant_id"]) == ("agent-7", "acme")


@pytest.mark.parametrize(("hop", "least"), [("close", 1), ("X-Client-Subject, close", 0)])
def test_A6_one_subject_is_handed_on_at_most(hop: str, least: int, guarded: Edge, authority: Authority) -> None:
    told = [*FORGED, ("X_Client_Subject", "CN=root"), ("Connection", hop)]

    answer = guarded.request(
        "POST", "/mcp", headers=told, body=b"", on=guarded.connect(identity=authority.issue(AGENT))
    )

    # Who calls the header a matter of this hop may lose it, and gains nothing.
    subjects = [set(seen.split(",")) for seen in answer.seen("X-Client-Subject")]
    assert subjects == [{"CN=agent-7", "O=acme"}] * max(least, len(subjects))
    assert len(subjects) <= 1


def test_A6_listeners_that_ask_for_no_certificate_name_nobody(guarded: Edge, authority: Authority) -> None:
    connection = guarded.connect(port=guarded.peers, identity=authority.issue(AGENT))

    peers = guarded.request("POST", "/mcp", headers=FORGED, body=b"", on=connection)
    internal = guarded.request("GET", "/health", headers=FORGED, internal=True)

    assert peers.seen("X-Client-Subject") == internal.seen("X-Client-Subject") == []


@pytest.mark.parametrize("name", CONFIGS)
def test_A6_edge_that_was_not_asked_to_verify_names_nobody(name: str, stub: StubServer, authority: Authority) -> None:
    with running(name, stub.port) as edge:
        connection = edge.connect(identity=authority.issue(AGENT))
        answer = edge.request("POST", "/mcp", headers=FORGED, body=b"", on=connection)

    assert answer.seen("X-Client-Subject") == []


def strangers(authority: Authority, folder: Path) -> dict[str, Path | None]:
    """Return those who must not get in."""
    other = Authority(folder)
    return {
        "no certificate": None,
        "another authority of the same name": other.issue(AGENT),
        "expired": authority.issue(AGENT, lifetime=-timedelta(minutes=1)),
    }


def test_A6_client_without_a_valid_certificate_is_refused(
    guarded: Edge, stub: StubServer, authority: Authority, tmp_path: Path
) -> None:
    before = len(stub.received)

    outcomes = {why: refused(guarded, identity) for why, identity in strangers(authority, tmp_path).items()}

    assert outcomes == dict.fromkeys(outcomes, True)
    assert len(stub.received) == before


@pytest.mark.parametrize("name", CONFIGS)
def test_A6_certificates_may_be_one_way_of_several(
    name: str, stub: StubServer, authority: Authority, tmp_path: Path
) -> None:
    drop_ins = {file: text.replace(*OPTIONAL[name]) for file, text in clients(name).items()}

    with running(name, stub.port, drop_ins=drop_ins, client_ca=authority.file) as edge:
        outcomes = {why: refused(edge, identity) for why, identity in strangers(authority, tmp_path).items()}
        without = edge.request("POST", "/mcp", headers=FORGED, body=b"")
        agent = edge.request("POST", "/mcp", body=b"", on=edge.connect(identity=authority.issue(AGENT)))

    assert outcomes.pop("no certificate") is False
    assert outcomes == dict.fromkeys(outcomes, True)
    assert without.seen("X-Client-Subject") == []
    assert len(agent.seen("X-Client-Subject")) == 1


def test_A6_nginx_hands_on_nobody_whom_it_did_not_verify(
    stub: StubServer, authority: Authority, tmp_path: Path
) -> None:
    drop_ins = {file: text.replace("client on", "client optional_no_ca") for file, text in clients("nginx").items()}

    with running("nginx", stub.port, drop_ins=drop_ins, client_ca=authority.file) as edge:
        stranger = edge.connect(identity=Authority(tmp_path, "others").issue(AGENT))
        answer = edge.request("POST", "/mcp", headers=FORGED, body=b"", on=stranger)

    assert answer.seen("X-Client-Subject") == []


def test_A6_host_is_the_name_of_the_handshake_where_caddy_asks_for_certificates(authority: Authority) -> None:
    with running("caddy", 1, drop_ins=clients("caddy"), client_ca=authority.file) as edge:
        connection = edge.connect(identity=authority.issue(AGENT))
        answer = edge.request("POST", "/mcp", headers=[("Host", "other.example.com")], body=b"", on=connection)

    assert answer.status == 421


@pytest.mark.parametrize(("name", "subjects"), [("nginx", ["CN=root", "CN=agent-7"]), ("caddy", ["CN=root"])])
def test_A6_subject_with_two_names(name: str, subjects: list[str], stub: StubServer, authority: Authority) -> None:
    twice = authority.issue([(NameOID.COMMON_NAME, "agent-7"), (NameOID.COMMON_NAME, "root")])

    with running(name, stub.port, drop_ins=clients(name), client_ca=authority.file) as edge:
        answer = edge.request("POST", "/mcp", body=b"", on=edge.connect(identity=twice))

    # The server refuses two; of what Caddy leaves it cannot know.
    assert answer.seen("X-Client-Subject") == [",".join(subjects)]


@pytest.mark.parametrize("name", CONFIGS)
def test_A6_new_client_authority_counts_after_a_reload(name: str, stub: StubServer, tmp_path: Path) -> None:
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    drop_ins = clients(name)

    with running(name, stub.port, drop_ins=drop_ins, client_ca=old.file) as edge:
        assert refused(edge, new.issue(AGENT))
        # Another file, as Kubernetes does it: nginx keeps what it read if neither file nor second changed.
        new.file.replace(edge.folder / "client-ca" / "ca.crt")
        os.kill(edge.pid, RELOAD[name])

        until(lambda: not refused(edge, new.issue(AGENT)))
        until(lambda: refused(edge, old.issue(AGENT)))


# --- the edge's own -----------------------------------------------------------------------------------------------


def trusted(edge: Edge, port: int) -> bool:
    """Tell whether the certificate that is served is the one in the file."""
    try:
        edge.connect(port=port).close()
    except ssl.SSLCertVerificationError:
        return False
    return True


@pytest.mark.parametrize("name", CONFIGS)
def test_D3_D4_renewed_certificate_is_served_and_open_streams_go_on(name: str, stub: StubServer) -> None:
    wish = json.dumps({"events": 8}).encode()

    with running(name, stub.port) as edge, edge.open("POST", "/mcp", body=wish) as stream:
        first = stream.read1(65536)
        make_certificate(edge.folder)
        if name == "caddy":  # nginx reads it at each handshake
            os.kill(edge.pid, RELOAD[name])
        until(lambda: trusted(edge, edge.public) and trusted(edge, edge.peers))
        rest = stream.read()

    assert (first + rest).count(b"data: ") == 8
