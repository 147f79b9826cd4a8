"""The pages about gates and the probe show what is so (G1, G2, G3, G4, G5)."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from mcp_chassis.checks import probe
from mcp_chassis.checks.protocol import GATE as CHECKS
from mcp_chassis.checks.target import CHECKS as ALL
from tests.gates.between import Meddle, between, honest
from tests.gates.conftest import Running
from tests.gates.deployments import CODES, DEPLOYED
from tests.gates.probing import invoke
from tests.gates.saboteurs import GATE, collected
from tests.live.authority import make_certificate
from tests.render.support import ROOT

pytestmark = pytest.mark.xdist_group("gates")

GATES = (ROOT / "docs" / "gates.md").read_text(encoding="utf-8")
PROBE = (ROOT / "docs" / "probe.md").read_text(encoding="utf-8")
URL = "https://acme-notes.example.com/mcp"

ELSEWHERE = [
    ("2, schema", "A tool is removed, renamed or added", "its class", "test_G2_each_change_is_told_with_its_meaning"),
    ("2, schema", "An argument's bound is tightened", "`breaking`", "test_G2_each_change_is_told_with_its_meaning"),
    ("2, schema", "A description is rewritten", "`text-only`", "test_G2_each_change_is_told_with_its_meaning"),
    ("2, schema", "A hand or a merge changed the files", "digest", "test_G2_contract_that_a_hand_or_a_merge_changed"),
    ("2, schema", "The server does not start", "its own words", "test_G2_server_that_does_not_start_says_so"),
    ("3, probe", "Nobody listens", "`handshake` → 3", "test_G3_dead_server_is_one_failure"),
    ("3, probe", "The name is gone from DNS", "`dns` → 3", "test_G5_name_without_address"),
    (
        "3, probe",
        "The certificate expired, is self-signed or another host's",
        "`tls` → 3",
        "test_G5_certificate_is_seen",
    ),
    ("3, probe", "The certificate ends soon", "`certificate` → 1", "test_G5_certificate_is_seen"),
    ("3, probe", "The probe's key ends soon", "`credential` → 4", "test_G5_key_that_ends_soon"),
    ("3, probe", "nginx buffers `/mcp`", "`streaming` → 6", "test_T4_real_edge_that_buffers"),
    (
        "publish",
        "The recorded URL is this machine's or a private one",
        "`reachable`",
        "test_G4_address_that_readers_cannot",
    ),
    ("publish", "The recorded URL is http", "`recorded`", "test_G4_entry_that_is_wrong"),
    ("publish", "server.json has another version than the release", "`version`", "test_G4_entry_that_is_wrong"),
    ("publish", "Production still runs the release before", "`release`", "test_G4_release_that_does_not_run_yet"),
    ("publish", "The tools have vanished, or calls fail", "`tools`, `ping`", "test_G4_server_that_does_not_work"),
    ("files", "A drop-in sets proxy_read_timeout 60s", "`nginx_limits`", "test_T8_each_broken_limit_is_told"),
    ("files", "A manifest breaks any of 40 invariants", "its own check", "test_D5_each_broken_invariant_is_told"),
]
"""What other tests break."""


def table() -> str:
    """Return the table of saboteurs as the tests have it."""
    rows = ["| gate | what is broken | caught by |", "|---|---|---|"]
    rows += [f"| 1, protocol | {one.story} | {', '.join(f'`{name}`' for name in sorted(one.caught))} |" for one in GATE]
    rows += [f"| {gate} | {story} | {caught} |" for gate, story, caught, _ in ELSEWHERE if gate == "2, schema"]
    for one in DEPLOYED:
        (code,) = {CODES[name] for name in one.caught if name in CODES}
        rows.append(f"| 3, probe | {one.story} | {', '.join(f'`{name}`' for name in sorted(one.caught))} → {code} |")
    rows += [f"| {gate} | {story} | {caught} |" for gate, story, caught, _ in ELSEWHERE if gate != "2, schema"]
    return "\n".join(rows) + "\n"


def test_G1_page_lists_every_saboteur() -> None:
    assert table() in GATES, f"docs/gates.md must contain:\n{table()}"
    assert len(table().splitlines()) > 22


@pytest.mark.parametrize("name", sorted({row[3] for row in ELSEWHERE}))
def test_G1_saboteur_that_the_page_names_is_let_loose_somewhere(name: str) -> None:
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))

    assert f"def {name}" in tests


def checks_table() -> str:
    """Return the table of all checks of a server."""
    probed = {check.name for check in probe.checks_of(stream=True, release=True)}
    profiles = {"gate 1": set(CHECKS), "probe": probed, "publish": {"release"}}
    rows = ["| check | row | what must hold | asked by |", "|---|---|---|---|"]
    for check in ALL:
        asked = ", ".join(profile for profile, names in profiles.items() if check.name in names)
        rows.append(f"| `{check.name}` | {check.id} | {check.rule} | {asked} |")
    return "\n".join(rows) + "\n"


def test_G5_page_lists_every_check_of_a_server() -> None:
    assert checks_table() in PROBE, f"docs/probe.md must contain:\n{checks_table()}"


def test_G3_page_tells_every_exit_code() -> None:
    codes = re.findall(r"^\| (\d) \|", PROBE, flags=re.MULTILINE)

    assert codes == [str(code) for code in range(7)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, running: Running) -> Path:
    """Return a folder with a certificate that is trusted, and the probe's key."""
    make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "tls.crt"))
    monkeypatch.chdir(tmp_path)
    shutil.copy(running.files["probe"], tmp_path / "probe.key")
    return tmp_path


def masked(text: str) -> str:
    """Return a report without what differs from machine to machine."""
    text = re.sub(r"https://localhost:\d+/mcp", URL, text).replace("localhost", "acme-notes.example.com")
    text = re.sub(r"\d{4}-\d\d-\d\d[T ][\d:]+(\+00:00| UTC)", "MOMENT", text)
    return re.sub(r"\d+(\.\d+)+|\d+", "N", text).strip()


@pytest.mark.parametrize(("meddle", "number"), [(honest, 0), (collected, 1)], ids=["good", "buffered"])
def test_G3_page_shows_what_the_command_says(meddle: Meddle, number: int, place: Path, running: Running) -> None:
    shown = re.findall(r"```console\n\$ uv run acme-notes probe [^\n]+\n(.*?)```", PROBE, flags=re.DOTALL)[number]

    with between(running.url, meddle, certificate=place) as url:
        code, said = invoke(url, "--token-file", "probe.key", "--stream", "--days", "0")

    if number:  # the page shows its end
        said = said[said.index("FAILED") :]
    assert masked(said) == masked(shown), said
    assert code == (6 if number else 0)
