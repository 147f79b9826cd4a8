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

from mcp_chassis.checks import Result, examine, failed
from mcp_chassis.checks.manifests import given, manifests
from mcp_chassis.checks.timeouts import Project, timeouts
from tests.deploy.kubernetes_build import build
from tests.deploy.timeouts_saboteurs import DEPLOYMENT, OVERLAY, SABOTEURS, append, exchange, patch
from tests.live.project import Project as Installed
from tests.live.project import environment
from tests.render.support import ROOT, Answers, by_copier, matrix, run


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a default project that a test may change; it is the working folder."""
    monkeypatch.setattr("mcp_chassis.checks.cluster.answer", lambda _: "120")
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


def masked(text: str) -> str:
    """Return a report without the numbers of lines, which move when somebody comments a file."""
    return re.sub(r":\d+\)", ":N)", text.strip())


def documented(command: str) -> list[str]:
    """Return what the page shows as the output of a command, and in the block after it."""
    page = (ROOT / "docs" / "checks.md").read_text(encoding="utf-8")
    found = re.findall(r"```console\n(.*?)```", page, flags=re.DOTALL)
    first = next(number for number, block in enumerate(found) if command in block.splitlines()[0])
    return [masked(block.partition("\n")[2] if block.startswith("$") else block) for block in found[first : first + 2]]


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
    monkeypatch.setattr("mcp_chassis.checks.cluster.answer", lambda _: str(tool_timeout))
    monkeypatch.chdir(by_copier((("edge", edge), ("tool_timeout", tool_timeout))))

    found = checked(countdown=1)

    assert {name for name, (item, *_) in found.items() if item.result != "pass"} == set()


def test_T8_a_tool_that_declares_more_than_the_longest_call_is_named(project: Path) -> None:
    (found,) = checked(slow=300)["declared_calls"]

    assert (found.result, found.found) == ("fail", "slow 300 s of 120 s")
    assert "copier update" in found.fix


def test_T8_a_longer_call_from_the_environment_is_too_long_for_what_was_rendered(project: Path) -> None:
    results = anyio.run(examine, timeouts, Project(Path(), {"MCP_TOOL_TIMEOUT": "400"}, dict))

    told = {item.name for item in results if failed([item])}
    assert told == {"nginx_limits", "caddy_limits", "compose_grace"}


def raised_in_compose() -> None:
    """Raise the longest call in compose, and what compose itself waits."""
    append(
        "deploy/compose.override.yaml",
        "services: {server: {environment: {MCP_TOOL_TIMEOUT: 600}, stop_grace_period: 615s}}\n",
    )


def raised_in_an_overlay_s_map() -> None:
    """Raise it in the overlay's ConfigMap, with grace and route."""
    exchange(f"{OVERLAY}/kustomization.yaml", "- MCP_AUTH=keys", "- MCP_TOOL_TIMEOUT=600")
    raised_pod("terminationGracePeriodSeconds: 630")


def raised_in_an_overlay_s_patch() -> None:
    """Raise it in the pod's own variables."""
    variable = "{name: MCP_TOOL_TIMEOUT, value: '600'}"
    raised_pod("terminationGracePeriodSeconds: 630, containers: [{name: server, env: [" + variable + "]}]")


def raised_pod(text: str) -> None:
    """Patch the pod, and the route above the longer call."""
    patch(DEPLOYMENT % text)
    route = "kind: HTTPRoute\nmetadata: {name: acme-notes}\nspec: {rules: [{timeouts: {request: 630s}}]}\n"
    patch(f"---\napiVersion: gateway.networking.k8s.io/v1\n{route}")


@pytest.mark.parametrize("raised", [raised_in_compose, raised_in_an_overlay_s_map, raised_in_an_overlay_s_patch])
def test_T8_a_longer_call_counts_at_the_edge_wherever_it_is_set(raised: Callable[[], None], project: Path) -> None:
    raised()

    assert {name for name, _ in wrong()} == {"nginx_limits", "caddy_limits"}
    assert checked(slow=600)["declared_calls"][0].result == "pass"


def test_T8_a_route_without_its_server_is_held_to_the_project_s_longest_call(project: Path) -> None:
    raised_in_compose()
    notes = "nginx.ingress.kubernetes.io/proxy-read-timeout: '300'"
    append("deploy/kubernetes/mine.yaml", "kind: HTTPRoute\nspec: {rules: [{timeouts: {request: 300s}}]}\n---\n")
    append("deploy/kubernetes/mine.yaml", f"kind: Ingress\nmetadata: {{annotations: {{{notes}}}}}\n")

    places = {place for name, place in wrong() if name in ("route_timeouts", "ingress_timeouts")}

    assert places == {"deploy/kubernetes/mine.yaml:2", "deploy/kubernetes/mine.yaml:5"}


def test_T8_an_overlay_that_takes_the_ingress_is_held_to_its_own_call(project: Path) -> None:
    exchange(f"{OVERLAY}/kustomization.yaml", "- MCP_AUTH=keys", "- MCP_TOOL_TIMEOUT=200")
    patch(DEPLOYMENT % "terminationGracePeriodSeconds: 230")
    exchange(f"{OVERLAY}/kustomization.yaml", "  # - ../../ingress", "  - ../../ingress")

    assert {name for name, _ in wrong()} >= {"balancer_delay"}


def test_T8_an_overlay_that_raises_both_ends_is_right(project: Path) -> None:
    exchange(f"{OVERLAY}/kustomization.yaml", "- MCP_AUTH=keys", "- MCP_TOOL_TIMEOUT=200")
    patch(DEPLOYMENT % "terminationGracePeriodSeconds: 230")

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
    (root / "deploy/nginx/conf.d").mkdir()
    (root / "deploy/nginx/conf.d/slow.public.conf").write_text("proxy_read_timeout 60s;\n", encoding="utf-8")
    bad, told = run(*command, "timeouts", "--json", cwd=root), run(*command, "timeouts", cwd=root)
    elsewhere = run(*command, "timeouts", cwd=root / "src")
    unbuilt = run(*command, "manifests", "--file", "deploy/kubernetes", cwd=root)
    absent = run(*command, "manifests", "--file", "nowhere.yaml", cwd=root)

    assert (good.returncode, good.stdout.splitlines()[-1]) == (0, f"{len(timeouts) - 1} pass, 1 skip"), good.stdout
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
