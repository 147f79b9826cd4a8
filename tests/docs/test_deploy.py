"""docs/deploy.md, run as it is written: two replicas behind each edge, in a network of their own (S5, D3, D4)."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import namespace
from tests.live.project import environment
from tests.render.conftest import _apart as _apart
from tests.render.support import by_copier, succeed

pytestmark = pytest.mark.xdist_group("live")

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "deploy.md").read_text(encoding="utf-8")
DEADLINE = 120.0
"""Seconds for the whole page; the machine may be busy."""

_HEAD = """\
set -euo pipefail
trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT
listening() { until (exec 3<>/dev/tcp/127.0.0.1/"$1") 2>/dev/null; do kill -0 "$2" && sleep 0.1; done; }
"""


def blocks() -> dict[tuple[str, str], str]:
    """Return the marked blocks by what is done with them, run or start, and their name."""
    found = re.findall(r"<!-- (run|start): (.+?) -->\n```sh\n(.*?)```", PAGE, re.DOTALL)
    return {(kind, name): text for kind, name, text in found}


def script(edge: str) -> str:
    """Return the page as one script: what is started runs beside the rest, and is there before the next step."""
    parts = [_HEAD]
    for (kind, name), text in blocks().items():
        word, _, port = name.partition(" ")
        if word in ("nginx", "caddy") and word != edge:
            continue
        if kind == "start":
            *before, command = text.strip().splitlines()
            # As a terminal of its own: what it sets stays there.
            lines = "\n".join([*before, f"exec {command}"])
            parts.append(f"( {lines}\n) >'{word}.log' 2>&1 &\nlistening {port} $!\n")
        elif word == "key":
            parts.append(f"KEY=$( {text} )\n")
        else:
            parts.append(f"{{ {text} }} >'{word}.out'\n")
    return "".join(parts)


@pytest.fixture
def project(_apart: None) -> Iterator[Path]:
    """Return a project as the first hour leaves it, where the edge's user may enter."""
    home = Path(tempfile.mkdtemp(prefix="deploy-"))
    home.chmod(0o755)
    target = home / "acme-notes"
    shutil.copytree(by_copier(), target)
    succeed("uv", "sync", "--quiet", cwd=target)
    yield target
    shutil.rmtree(home)


def play(project: Path, edge: str) -> None:
    """Run the page in a network where no port is taken."""
    (project / "page.sh").write_text(script(edge), encoding="utf-8")
    inside = [sys.executable, namespace.__file__, "--", shutil.which("bash") or "/bin/bash", "page.sh"]
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    process = subprocess.Popen(
        [*namespace.isolated(), *inside],
        cwd=project,
        env=environment({"UV_OFFLINE": "1", "MCP_STATE_TIMEOUT": "2", "PATH": path}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )
    try:
        said, _ = process.communicate(timeout=DEADLINE)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    logs = [f"--- {log.name}\n{log.read_text(encoding='utf-8')[-3000:]}" for log in sorted(project.glob("*.log"))]
    assert process.returncode == 0, "\n".join([said, *logs])


@pytest.mark.parametrize("edge", ["nginx", "caddy"])
def test_S5_page_leads_to_two_replicas_behind_a_tls_edge(project: Path, edge: str) -> None:
    play(project, edge)

    answers = [json.loads(line) for line in (project / "call.out").read_text(encoding="utf-8").splitlines() if line]
    assert answers[0]["result"]["serverInfo"]["name"] == "acme-notes"
    notes = [answer["result"]["structuredContent"] for answer in answers[1:]]
    # One after the other in one place, so one replica has them all.
    assert [note["number"] for note in notes] == [1, 2, 3, 4]
    counted = (project / "count.out").read_text(encoding="utf-8")
    forwarded = re.findall(r'^mcp_forwarded_requests_total\{outcome="answered"\} (\S+)', counted, re.MULTILINE)
    assert sum(map(float, forwarded)) >= 2, counted
    ends = [(project / f"{name}.log").read_text(encoding="utf-8") for name in ("first", "second")]
    assert all('"environment":"production"' in said and '"event":"drained"' in said for said in ends)


def test_S5_without_the_peers_address_the_page_fails(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = re.sub(r" MCP_PEER_(URL|SECRET_FILE)=\S+", "", PAGE)
    monkeypatch.setattr(f"{__name__}.PAGE", alone)

    with pytest.raises(AssertionError, match="404"):
        play(project, "nginx")
