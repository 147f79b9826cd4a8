"""One prober for many servers, again and again, and what Prometheus learns of it (G5)."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mcp_chassis.checks import METRICS
from tests.gates.between import between
from tests.gates.conftest import Running
from tests.gates.deployments import vanished
from tests.gates.probing import invoke
from tests.live.project import DEADLINE, environment, folder
from tests.live.prometheus import until, watching
from tests.render.support import by_copier, succeed
from tests.support.ports import free_port

pytestmark = pytest.mark.xdist_group("gates")


def targets(place: Path, *lines: str) -> Path:
    """Write a targets file."""
    (place / "fleet.txt").write_text("# our servers\n\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return place / "fleet.txt"


def test_G5_fleet_is_looked_at_in_one_run_and_each_server_has_its_line(running: Running, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(running.tokens["probe"], encoding="utf-8")
    with between(running.url, vanished) as broken:
        file = targets(
            tmp_path,
            f"{running.url} name=notes token-file=token  # beside this file",
            f"{broken} name=broken token-file={running.files['probe']}",
            f"http://127.0.0.1:{free_port()}/mcp name=dead",
        )
        code, text = invoke("--targets", file, "--json")
        people, said = invoke("--targets", file)

    looks = {look["target"]: look for look in map(json.loads, text.splitlines())}
    assert {name: look["code"] for name, look in looks.items()} == {"notes": 0, "broken": 1, "dead": 3}
    assert looks["notes"]["server"] == "acme-notes 0.1.0"
    assert set(looks["dead"]) == {"target", "url", "server", "at", "code", "results"}
    assert (code, people) == (1, 1)  # of the first in the file that is not good
    assert "did not introduce itself" in said


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("https://a.example/mcp colour=red", "fleet.txt:3: colour is not known"),
        ("notes.example.com", "fleet.txt:3: notes.example.com is no address"),
        ("https://a.example/mcp token-file=nothing", "nothing cannot be read"),
        ("https://a.example/mcp\nhttps://a.example/mcp", "fleet.txt:4: another line is called a.example"),
    ],
)
def test_G5_wrong_line_of_a_fleet_is_named(line: str, told: str, tmp_path: Path) -> None:
    code, said = invoke("--targets", targets(tmp_path, line))

    assert code == 2
    assert told in said


def test_G5_text_file_holds_the_metrics_as_promtool_wants_them(running: Running, tmp_path: Path) -> None:
    file = tmp_path / "mcp.prom"

    code, _ = invoke(running.url, "--token-file", running.files["ending"], "--stream", "--textfile", file)

    page = file.read_text(encoding="utf-8")
    subprocess.run(["promtool", "check", "metrics"], input=page, text=True, check=True)
    families = {family.name: family for family in text_string_to_metric_families(page)}
    assert code == 4
    assert set(families) == {f"mcp_probe_{name}" for name in METRICS}
    for name, (labels, meaning) in METRICS.items():
        family = families[f"mcp_probe_{name}"]
        assert family.documentation == meaning
        assert all(set(sample.labels) == {"target", *labels} for sample in family.samples)
    values = {sample.labels["check"]: sample.value for sample in families["mcp_probe_check"].samples}
    assert {name for name, value in values.items() if value == 0} == {"credential"}
    assert 0.8 < families["mcp_probe_stream_spread_ratio"].samples[0].value < 2
    assert families["mcp_probe_tools"].samples[0].value == 3
    assert running.tokens["ending"] not in page


@contextmanager
def watch(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Run a prober that goes on for ever."""
    command = [sys.executable, "-m", "mcp_chassis.checks", *map(str, arguments)]
    process = subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_G5_prober_goes_on_until_a_signal_and_reads_its_files_anew(
    number: signal.Signals, running: Running, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text(running.tokens["probe"], encoding="utf-8")
    codes = []
    with watch(running.url, "--token-file", token, "--every", "0.2", "--json") as process:
        assert process.stdout is not None
        codes.append(json.loads(process.stdout.readline())["code"])
        token.unlink()
        while (code := json.loads(process.stdout.readline())["code"]) == 0:
            pass
        codes.append(code)
        token.write_text(running.tokens["probe"], encoding="utf-8")
        while (code := json.loads(process.stdout.readline())["code"]) != 0:
            pass
        process.send_signal(number)
        _, said = process.communicate(timeout=DEADLINE)

    assert codes == [0, 4]
    assert (process.returncode, said) == (0, "stopped\n")


def test_G5_prober_ends_quietly_when_nobody_reads_its_report(running: Running) -> None:
    with watch(running.url, "--token-file", str(running.files["probe"]), "--every", "0.1", "--json") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        process.wait(DEADLINE)
        assert process.stderr is not None
        said = process.stderr.read()

    assert (process.returncode, said) == (0, "")


def test_O6_real_prometheus_learns_from_the_prober_and_the_project_s_own_rules_fire(running: Running) -> None:
    rules = by_copier() / "deploy" / "monitoring" / "rules.yaml"
    port = free_port()
    place = folder()
    trouble = False

    async def meddle(x: object) -> object:
        return await vanished(x) if trouble else None  # type: ignore[arg-type]

    with between(running.url, meddle) as url:  # type: ignore[arg-type]
        file = targets(place, f"{url} name=acme-notes.example.com token-file={running.files['probe']}")
        arguments = ("--targets", file, "--every", "0.3", "--listen", f"127.0.0.1:{port}")
        with watch(*arguments), watching(place, rules, "prober", [f"127.0.0.1:{port}"]) as prometheus:
            until(lambda: prometheus.query("mcp_probe_success == 1"), "the prober is not scraped")
            assert not [alert for alert in prometheus.firing() if alert.name.startswith("McpProbe")]
            trouble = True
            until(lambda: "McpProbeFailed" in {alert.name for alert in prometheus.firing()}, "it did not fire")
            trouble = False
            until(lambda: "McpProbeFailed" not in {alert.name for alert in prometheus.firing()}, "it did not clear")


def test_G5_page_of_the_prober_is_served_on_loopback_unless_told_otherwise(running: Running) -> None:
    port = free_port()
    with watch(running.url, "--every", "60", "--listen", f":{port}", "--json") as process:
        assert process.stdout is not None
        process.stdout.readline()
        page = httpx2.get(f"http://127.0.0.1:{port}/metrics", trust_env=False)

    assert page.status_code == 200
    assert "mcp_probe_success" in page.text


def test_G3_probe_by_itself_needs_no_project(tmp_path: Path) -> None:
    said = succeed(sys.executable, "-m", "mcp_chassis.checks", "--help", cwd=tmp_path)

    assert "Look at any MCP server from outside" in said
    assert "Exit codes: 0 good" in said
