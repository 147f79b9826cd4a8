"""`probe`: each trouble has its exit code and its check, and nothing secret is said (G3, G5)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import jwt
import pytest
from starlette.responses import Response

from mcp_chassis.checks.target import Target
from mcp_chassis.checks.wire import STATELESS
from mcp_chassis.schema import digest_of, text_of
from tests.gates.between import Exchange, between, serving
from tests.gates.conftest import Running
from tests.gates.deployments import CODES, DEPLOYED
from tests.gates.probing import STEP, invoke, probe
from tests.gates.saboteurs import KEY, Saboteur, keys
from tests.live.authority import make_certificate
from tests.live.edges import Edge
from tests.live.edges import running as edge_running
from tests.support.ports import free_port

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("gates")]


@pytest.fixture
def digest(running: Running, tmp_path: Path) -> Path:
    """Return the digest of the contract that the server has."""
    text = text_of(anyio.run(Target(running.url, running.tokens["all"]).contract, STATELESS))
    (tmp_path / "tools.sha256").write_text(f"{digest_of(text)}  tools.json\n", encoding="utf-8")
    return tmp_path / "tools.sha256"


def test_G3_good_server_is_good_with_the_probe_s_own_key(running: Running, digest: Path) -> None:
    said = probe(running.url, "--token-file", running.files["probe"], "--expect-schema", digest, "--stream")

    assert said.code == 0, said.text
    passed = {name for name, item in said.results.items() if item["result"] == "pass"}
    assert passed == {
        *("dns", "handshake", "stateless", "admitted", "tools", "agreement", "drift", "ping", "refusal", "streaming")
    }
    assert "add_note, countdown, search_notes" in said.results["tools"]["found"]
    assert set(said.results["ping"]) == {
        *("id", "name", "result", "expected", "found", "where", "fix", "required", "seconds")
    }


def test_G3_first_line_tells_the_target_its_version_and_the_moment(running: Running) -> None:
    code, text = invoke(running.url, "--token-file", running.files["probe"])

    assert code == 0
    assert re.match(rf"{re.escape(running.url)}  acme-notes 0\.1\.0  20\d\d-\d\d-\d\dT[\d:]+\+00:00\n", text)
    assert "\x1b" not in text


@pytest.mark.parametrize("saboteur", DEPLOYED, ids=str)
def test_G3_each_saboteur_of_a_deployment_has_its_exit_code(saboteur: Saboteur, running: Running, digest: Path) -> None:
    keys[KEY] = running.tokens["all"]

    with between(running.url, saboteur.meddle) as url:
        said = probe(url, "--token-file", running.files["probe"], "--expect-schema", digest, "--stream", *STEP)

    assert said.bad == saboteur.caught, said.text
    assert said.code in {CODES.get(name) for name in saboteur.caught}
    assert all(said.results[name]["fix"] for name in said.bad)
    assert "secret" not in said.text


@pytest.mark.parametrize(("version", "code", "bad"), [("0.1.0", 0, set()), ("0.2.0", 5, {"release"})])
def test_G3_another_release_than_the_expected_is_told(version: str, code: int, bad: set[str], running: Running) -> None:
    said = probe(running.url, "--token-file", running.files["probe"], "--expect-version", version)

    assert (said.code, said.bad) == (code, bad), said.text
    assert "acme-notes 0.1.0" in said.results["release"]["found"]


def test_G3_dead_server_is_one_failure_with_one_remedy() -> None:
    said = probe(f"http://127.0.0.1:{free_port()}/mcp", "--stream")

    assert said.code == 3
    assert said.bad == {"handshake"}
    assert "no answer: ConnectError" in said.results["handshake"]["found"]
    assert "see that the server runs" in said.results["handshake"]["fix"]
    assert said.results["tools"]["result"] == "skip"


def test_G5_name_without_address_is_told_as_such() -> None:
    said = probe("https://nobody.invalid/mcp")

    assert (said.code, said.bad) == (3, {"dns"})


@contextmanager
def tls(url: str, folder: Path, *, host: str = "localhost", days: float = 30) -> Iterator[str]:
    """Serve over TLS with a certificate signed by itself."""
    make_certificate(folder, host, timedelta(days=days))
    with between(url, certificate=folder) as address:
        yield address


@pytest.mark.parametrize(
    ("host", "days", "trusted", "told", "bad"),
    [
        ("localhost", 30, True, "valid for localhost", set()),
        ("localhost", 30, False, "self-signed certificate", {"tls"}),
        ("localhost", -1, True, "certificate has expired", {"tls"}),
        ("elsewhere.example", 30, True, "Hostname mismatch", {"tls"}),
        ("localhost", 0.1, True, "0.1 days left", {"certificate"}),
    ],
    ids=["good", "self-signed", "expired", "wrong host", "ends soon"],
)
def test_G5_certificate_is_seen_as_clients_see_it(
    host: str,
    days: float,
    trusted: bool,
    told: str,
    bad: set[str],
    running: Running,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with tls(running.url, tmp_path, host=host, days=days) as url:
        if trusted:
            monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "tls.crt"))
        said = probe(url, "--token-file", running.files["probe"], "--days", "7")

    assert said.bad == bad, said.text
    assert told in said.results["certificate" if bad == {"certificate"} else "tls"]["found"]
    assert said.code == {"tls": 3, "certificate": 1}.get(next(iter(bad), ""), 0)


def test_G5_port_that_does_not_speak_tls_is_told() -> None:
    with serving(lambda scope, receive, send: None) as port:  # type: ignore[arg-type,return-value]
        said = probe(f"https://127.0.0.1:{port}/mcp", *STEP)

    assert (said.code, said.bad) == (3, {"tls"})
    assert "no TLS connection" in said.results["tls"]["found"]


def test_G5_key_that_ends_soon_is_told_in_time(running: Running) -> None:
    said = probe(running.url, "--token-file", running.files["ending"])
    patient = probe(running.url, "--token-file", running.files["ending"], "--days", "1")

    assert (said.code, said.bad) == (4, {"credential"})
    assert "2.0 days left" in said.results["credential"]["found"]
    assert "ops keys rotate" in said.results["credential"]["fix"]
    assert patient.code == 0


@pytest.mark.parametrize(
    ("lived", "lives", "code"),
    [(300, 3600, 0), (3500, 3600, 4), (20 * 86_400, 90 * 86_400, 0), (88 * 86_400, 90 * 86_400, 4)],
    ids=["fresh of an hour", "hour nearly over", "fresh of 90 days", "two days of 90"],
)
def test_G5_token_that_ends_soon_is_told_by_its_own_lifetime(
    lived: int, lives: int, code: int, running: Running, tmp_path: Path
) -> None:
    begun = datetime.now(UTC) - timedelta(seconds=lived)
    token = jwt.encode({"iat": begun, "exp": begun + timedelta(seconds=lives)}, "a key that nobody here knows it by")
    (tmp_path / "token").write_text(token, encoding="utf-8")

    async def exchanged(x: Exchange) -> Response | None:
        if x.headers.get("authorization") == f"Bearer {token}":
            x.headers["authorization"] = f"Bearer {running.tokens['probe']}"
        return None

    with between(running.url, exchanged) as url:
        said = probe(url, "--token-file", tmp_path / "token")

    assert said.code == code, said.text
    assert said.bad == ({"credential"} if code else set())


def test_G5_without_a_credential_where_one_is_needed_says_how_to_give_it(running: Running) -> None:
    said = probe(running.url)

    assert (said.code, said.bad) == (4, {"admitted"})
    assert "--token-file" in said.results["admitted"]["fix"]


@pytest.mark.parametrize("buffering", [False, True], ids=["passes", "buffers"])
def test_T4_real_edge_that_buffers_is_told_from_one_that_does_not(
    buffering: bool, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The server asks nginx not to buffer, which would hide that the configuration does.
    word = f"proxy_buffering {'on' if buffering else 'off'}; proxy_ignore_headers X-Accel-Buffering;"
    with edge_running("nginx", urlsplit(running.url).port or 0, edits={"proxy_buffering off;": word}) as edge:
        monkeypatch.setenv("SSL_CERT_FILE", str(edge.certificate))
        said = probe(address(edge), "--token-file", running.files["probe"], "--stream", "--days", "0")

    assert (said.code, said.bad) == ((6, {"streaming"}) if buffering else (0, set())), said.text


def address(edge: Edge) -> str:
    """Return the endpoint behind an edge."""
    return f"https://localhost:{edge.public}/mcp"
