"""T8: `check timeouts` on a rendered project, as it is and as its team may break it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import anyio
import pytest

from mcp_chassis.checks.manifests import given, manifests
from mcp_chassis.checks.report import Result, examine, failed
from mcp_chassis.checks.timeouts import Project, timeouts
from tests.deploy.kubernetes_build import build
from tests.live.project import Project as Installed
from tests.live.project import environment
from tests.render.support import ROOT, Answers, by_copier, matrix, run

OVERLAY = "deploy/kubernetes/overlays/production"
PATCH = f"{OVERLAY}/patches.yaml"
DEPLOYMENT = (
    "\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: acme-notes}\nspec: {template: {spec: {%s}}}\n"
)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a default project that a test may change; it is the working folder."""
    monkeypatch.setattr("mcp_chassis.checks.cluster.answered_call", lambda: 120.0)
    shutil.copytree(by_copier(), tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def checked(**declared: float) -> dict[str, list[Result]]:
    """Return what the profile says of the working folder, by check."""
    found: dict[str, list[Result]] = {}
    for item in anyio.run(examine, timeouts, Project(Path(), {}, lambda: {"countdown": 70.0, **declared})):
        found.setdefault(item.name, []).append(item)
    return found


def wrong(**declared: float) -> set[tuple[str, str]]:
    """Return the checks that failed and the places they name."""
    results = [item for items in checked(**declared).values() for item in items]
    return {(item.name, item.where) for item in results if failed([item])}


def append(name: str, text: str) -> str:
    """Add text to a file, which may be new, and return the place of its last line."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    path.write_text(before + text, encoding="utf-8")
    return f"{name}:{len((before + text).splitlines())}"


def exchange(name: str, old: str, new: str) -> str:
    """Exchange a text that is there, and return its place."""
    path = Path(name)
    before = path.read_text(encoding="utf-8")
    assert old in before, f"{name} holds no {old!r}"
    path.write_text(before.replace(old, new), encoding="utf-8")
    return f"{name}:{before[: before.index(old)].count(chr(10)) + 1}"


def masked(text: str) -> str:
    """Return a report without the numbers of lines, which move when somebody comments a file."""
    return re.sub(r":\d+\)", ":N)", text.strip())


def documented(command: str) -> list[str]:
    """Return what the page shows as the output of a command, and in the block after it."""
    page = (ROOT / "docs" / "checks.md").read_text(encoding="utf-8")
    found = re.findall(r"```console\n(.*?)```", page, flags=re.DOTALL)
    first = next(number for number, block in enumerate(found) if command in block.splitlines()[0])
    return [masked(block.partition("\n")[2] if block.startswith("$") else block) for block in found[first : first + 2]]


SABOTEURS: dict[str, tuple[str, Callable[[], str]]] = {
    "a drop-in shortens the public listener": (
        "nginx_limits",
        lambda: append("deploy/nginx/conf.d/x.public.conf", "# mine\nproxy_read_timeout 1m;\n"),
    ),
    "nginx cuts idle clients": (
        "nginx_limits",
        lambda: exchange("deploy/nginx/nginx.conf", "keepalive_timeout 300s", "keepalive_timeout 75s"),
    ),
    "nginx keeps what the server closed": (
        "nginx_to_server",
        lambda: exchange("deploy/nginx/nginx.conf", "keepalive_timeout 4s", "keepalive_timeout 60s"),
    ),
    "nginx cannot be read": (
        "readable",
        lambda: append("deploy/nginx/conf.d/x.public.conf", "client_max_body_size 4m;\n}\n"),
    ),
    "Caddy waits a minute": (
        "caddy_limits",
        lambda: exchange("deploy/caddy/Caddyfile", "read_timeout 300s", "read_timeout 1m"),
    ),
    "Caddy cuts idle clients": (
        "caddy_limits",
        lambda: append("deploy/caddy/conf.d/x.servers.caddy", "timeouts {\n\tidle 30s\n}\n").replace(":3", ":2"),
    ),
    "Caddy ends streams": (
        "caddy_streams",
        lambda: exchange("deploy/caddy/Caddyfile", "write_idle 60s", "write 60s"),
    ),
    "Caddy keeps what the server closed": (
        "caddy_to_server",
        lambda: exchange("deploy/caddy/Caddyfile", "keepalive 4s", "keepalive 90s"),
    ),
    "compose kills a drain": (
        "compose_grace",
        lambda: append(
            "deploy/compose.override.yaml", "services:\n  server:\n    environment: {A: b}\n    stop_grace_period: 2m\n"
        ),
    ),
    "compose drains longer than it waits": (
        "compose_grace",
        lambda: (
            append("deploy/compose.override.yaml", "services: {server: {environment: [MCP_DRAIN_TIMEOUT=300]}}\n")
            and exchange("deploy/compose.yaml", "stop_grace_period", "stop_grace_period")
        ),
    ),
    "an overlay shortens the grace": (
        "grace_period",
        lambda: append(PATCH, DEPLOYMENT % "terminationGracePeriodSeconds: 60"),
    ),
    "an overlay shortens it by a JSON patch": (
        "grace_period",
        lambda: exchange(
            f"{OVERLAY}/kustomization.yaml",
            "  - path: patches.yaml",
            "  - {target: {kind: Deployment}, patch: "
            """'[{"op":"replace", "value":60, "path":"/spec/template/spec/terminationGracePeriodSeconds"}]'}""",
        ),
    ),
    "an overlay drains longer": (
        "grace_period",
        lambda: (
            exchange(f"{OVERLAY}/kustomization.yaml", "- MCP_AUTH=keys", "- MCP_DRAIN_TIMEOUT=200")
            and exchange(
                "deploy/kubernetes/base/server.yaml", "terminationGracePeriodSeconds", "terminationGracePeriodSeconds"
            )
        ),
    ),
    "an overlay's route is short": (
        "route_timeouts",
        lambda: append(
            PATCH,
            "\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: acme-notes}\n"
            "spec:\n  rules:\n    - timeouts: {request: 30s}\n",
        ),
    ),
    "a manifest beside the overlays": (
        "ingress_timeouts",
        lambda: append(
            "deploy/kubernetes/mine.yaml",
            "kind: Ingress\nmetadata:\n  annotations:\n"
            "    alb.ingress.kubernetes.io/load-balancer-attributes: a=b,idle_timeout.timeout_seconds=60\n",
        ),
    ),
    "a manifest cannot be read": ("readable", lambda: append("deploy/kubernetes/mine.yaml", "kind: [\n---\n")),
}


@pytest.mark.parametrize("story", SABOTEURS)
def test_T8_each_broken_limit_is_told_with_its_file_and_line(story: str, project: Path) -> None:
    name, sabotage = SABOTEURS[story]

    where = sabotage()

    assert {found for found in wrong() if found[0] == name} == {(name, where)}
    others = {item.name for items in checked().values() for item in items if item.result == "fail"}
    assert others == {name}


@pytest.mark.parametrize("story", [story for story in SABOTEURS if "an overlay" in story])
def test_T8_what_is_found_in_an_overlay_is_what_kustomize_builds(story: str, project: Path) -> None:
    name, sabotage = SABOTEURS[story]
    sabotage()

    built = anyio.run(examine, manifests, given(["-"], StringIO(build(project / OVERLAY))))

    assert [item.found for item in checked()[name]] == [item.found for item in built if item.name == name]


@pytest.mark.parametrize("tool_timeout", ["1", "120", "300", "3600"])
@pytest.mark.parametrize("edge", ["nginx", "caddy", "mesh"])
def test_T8_every_answer_renders_a_chain_that_holds(
    edge: str, tool_timeout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_chassis.checks.cluster.answered_call", lambda: float(tool_timeout))
    monkeypatch.chdir(by_copier((("edge", edge), ("tool_timeout", tool_timeout))))

    found = checked(countdown=1)

    assert {name for name, (item, *_) in found.items() if item.result != "pass"} == set()


def test_T8_a_tool_that_declares_more_than_the_longest_call_is_named(project: Path) -> None:
    (found,) = checked(slow=300)["declared_calls"]

    assert (found.result, found.found) == ("fail", "slow 300 s of 120 s")
    assert "copier update" in found.fix


def test_T8_an_overlay_that_raises_both_ends_is_right(project: Path) -> None:
    exchange(f"{OVERLAY}/kustomization.yaml", "- MCP_AUTH=keys", "- MCP_TOOL_TIMEOUT=200")
    append(PATCH, DEPLOYMENT % "terminationGracePeriodSeconds: 230")

    assert wrong() == set()


def test_T8_a_drop_in_s_own_backend_has_its_own_limits(project: Path) -> None:
    append(
        "deploy/nginx/conf.d/x.public.conf", "location /docs { proxy_read_timeout 5s; proxy_pass http://10.0.0.9; }\n"
    )
    append("deploy/caddy/conf.d/x.public.caddy", "reverse_proxy /docs 10.0.0.9 {\n\tstream_timeout 5s\n}\n")

    assert wrong() == set()


def test_T8_what_a_team_does_not_have_is_skipped_with_the_reason(project: Path) -> None:
    shutil.rmtree(project / "deploy")

    found = {name: items[0] for name, items in checked().items()}

    assert {item.result for item in found.values()} == {"pass", "skip"}
    assert found["grace_period"].found == "no deploy/kubernetes"
    assert found["nginx_limits"].found == "no deploy/nginx/nginx.conf"
    assert found["compose_grace"].found == "no compose.yaml"


def test_T8_command_proves_the_project_and_fails_with_the_reason(
    locked: Callable[[Answers], Installed], tmp_path: Path
) -> None:
    root = tmp_path / "project"
    shutil.copytree(locked(()).root, root)
    command = ["env", "-i", *(f"{name}={value}" for name, value in environment().items())]
    command += ["uv", "run", "--quiet", "acme-notes", "check"]

    good = run(*command, "timeouts", cwd=root)
    (root / "deploy/nginx/conf.d/slow.public.conf").write_text("proxy_read_timeout 60s;\n", encoding="utf-8")
    bad, told = run(*command, "timeouts", "--json", cwd=root), run(*command, "timeouts", cwd=root)
    elsewhere = run(*command, "timeouts", cwd=root / "src")
    unbuilt = run(*command, "manifests", "--file", "deploy/kubernetes", cwd=root)
    absent = run(*command, "manifests", "--file", "nowhere.yaml", cwd=root)

    assert (good.returncode, good.stdout.splitlines()[-1]) == (0, f"{len(timeouts)} pass"), good.stdout
    (found,) = [item for item in json.loads(bad.stdout) if item["result"] == "fail"]
    assert bad.returncode == 1
    assert (found["name"], found["where"]) == ("nginx_limits", "deploy/nginx/conf.d/slow.public.conf:1")
    assert [done.returncode for done in (elsewhere, unbuilt, absent)] == [2, 2, 2]
    assert "kustomize build" in unbuilt.stdout
    shown = documented("check timeouts")
    assert shown[0] == masked(good.stdout)
    assert masked(told.stdout).endswith(shown[1])


def test_D5_command_says_what_to_install_where_the_extra_is_missing(
    locked: Callable[[Answers], Installed], tmp_path: Path
) -> None:
    root = tmp_path / "project"
    shutil.copytree(locked(()).root, root)

    done = run("uv", "run", "--quiet", "--no-dev", "acme-notes", "check", "timeouts", cwd=root)

    assert (done.returncode, done.stdout) == (
        2,
        "check needs libraries that a server does not: uv add --dev 'mcp-chassis[checks]'\n",
    )


def test_T8_no_choice_is_left_out() -> None:
    assert {dict(answers)["edge"] for answers in matrix()} == {"nginx", "caddy", "mesh"}
