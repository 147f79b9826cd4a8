"""D5: `check manifests` sees what no schema sees, on anybody's YAML."""

from __future__ import annotations

from io import StringIO

import anyio
import pytest

from mcp_chassis.checks import Result, examine, failed
from mcp_chassis.checks.manifests import given, manifests
from tests.chassis.checks_streams import GOOD, MESH, MESH_SABOTEURS, SABOTEURS


@pytest.fixture(autouse=True)
def answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the answer that only a rendered project has."""
    monkeypatch.setattr("mcp_chassis.checks.cluster.answer", lambda _: "120")


def checked(text: str) -> list[Result]:
    """Return what the profile says of a stream."""
    return anyio.run(examine, manifests, given(["-"], StringIO(text)))


def broken(text: str, old: str, new: str) -> list[Result]:
    """Return what is wrong with a stream in which a text was exchanged."""
    assert old in text
    return [item for item in checked(text.replace(old, new)) if failed([item])]


def test_D5_a_good_stream_passes_every_check() -> None:
    found = {item.name: item for item in checked(GOOD)}

    assert {name: item for name, item in found.items() if item.result != "pass"} == {}
    assert set(found) == {check.name for check in manifests}


def test_D5_a_pod_without_an_edge_is_a_mesh_s_and_asked_by_exec() -> None:
    assert [item for item in checked(MESH) if item.result == "fail"] == []


@pytest.mark.parametrize(("old", "new", "name"), SABOTEURS, ids=[f"{row[2]}-{row[1].strip()}" for row in SABOTEURS])
def test_D5_each_broken_invariant_is_told_by_its_check_alone(old: str, new: str, name: str) -> None:
    found = broken(GOOD, old, new)

    assert {item.name for item in found if item.result == "fail"} == {name}
    assert all(item.where.startswith("stdin:") and item.fix and item.expected for item in found)


@pytest.mark.parametrize(("old", "new", "name"), MESH_SABOTEURS)
def test_T5_in_a_mesh_each_broken_invariant_is_told_by_its_check_alone(old: str, new: str, name: str) -> None:
    assert {item.name for item in broken(MESH, old, new)} == {name}


def test_D5_every_check_has_a_saboteur() -> None:
    told = {row[2] for row in [*SABOTEURS, *MESH_SABOTEURS]}

    assert told | {"server_found", "guarded"} == {check.name for check in manifests}


def test_D5_line_of_the_fault_is_told() -> None:
    (found,) = broken(GOOD, "port: 8443}, {port: internal}", "port: 8443}, {port: 8080}")

    line = next(number for number, text in enumerate(GOOD.splitlines(), 1) if "podSelector" in text)
    assert (found.name, found.where) == ("policy_ports", f"stdin:{line}")


@pytest.mark.parametrize("hook", ["exec: {command: [sh, -c, sleep 15]}", "sleep: {seconds: 0}"])
def test_S4_pre_stop_sleeps_natively(hook: str) -> None:
    found = broken(GOOD, "preStop: {sleep: {seconds: 15}}", f"preStop: {{{hook}}}")

    assert {item.name for item in found} == {"pre_stop_sleep"}


@pytest.mark.parametrize("text", ["", "kind: Service\nmetadata: {name: x}\n", GOOD.replace("MCP_", "MY_")])
def test_D5_a_stream_without_a_server_never_passes(text: str) -> None:
    found = {item.name: item for item in checked(text)}["server_found"]

    assert (found.result, failed([found])) == ("unseen", True)


def test_D5_what_a_secret_elsewhere_may_hold_is_unseen_and_no_failure() -> None:
    text = GOOD.replace("kind: Secret\n", "kind: Elsewhere\n").replace("- {name: MCP_STATE_URL", "- {name: OTHER")
    text = text.replace("envFrom: [{", "envFrom: [{secretRef: {name: notes}}, {")

    found = [item for item in checked(text) if item.result != "pass"]

    assert {(item.name, item.result) for item in found} == {("references", "unseen"), ("shared_state", "unseen")}
    assert not failed(found)


@pytest.mark.parametrize("kind", ["NetworkPolicy", "PodDisruptionBudget", "HorizontalPodAutoscaler"])
def test_D5_what_guards_a_server_and_is_absent_is_unseen_and_no_failure(kind: str) -> None:
    found = [item for item in checked(GOOD.replace(f"kind: {kind}", "kind: Elsewhere")) if item.name == "guarded"]

    assert [(item.result, item.found, failed([item])) for item in found] == [("unseen", f"no {kind}", False)]


def test_S5_a_peer_address_in_a_config_map_is_not_expanded() -> None:
    text = GOOD.replace('            - {name: MCP_PEER_URL, value: "https://$(POD_IP):9443"}\n', "")

    found = broken(text, 'MCP_HOST: "127.0.0.1"', 'MCP_PEER_URL: "https://$(POD_IP):9443"')

    assert {item.name for item in found} == {"peer_address"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("drop: [ALL]", "drop: [ALL], add: [NET_BIND_SERVICE]"),
        ("MCP_ENVIRONMENT: production,", "MCP_ENVIRONMENT: production, MCP_AUTH: mtls,"),
        ("{maxSurge: 1, maxUnavailable: 0}", "{maxSurge: 1, maxUnavailable: 99%}"),
        ("targetPort: public}]", "targetPort: 8443}]"),
        ("https://$(POD_IP):9443", "https://[$(POD_IP)]:9443"),
    ],
)
def test_D5_what_is_allowed_passes(old: str, new: str) -> None:
    assert broken(GOOD, old, new) == []


def test_D5_state_in_memory_is_no_shared_state() -> None:
    old = "valueFrom: {secretKeyRef: {name: notes, key: state}}"

    assert {item.name for item in broken(GOOD, old, "value: 'memory://'")} == {"shared_state"}


def test_D5_edge_beside_the_server_is_no_sidecar() -> None:
    moved = GOOD.replace("      containers:\n", "").replace("      initContainers:\n", "      containers:\n")

    assert {item.name for item in checked(moved) if failed([item])} == {"sidecar_native"}


@pytest.mark.parametrize("value", ["4096", "true", "/etc/notes/token", "$(OTHER)", ""])
def test_D5_a_name_like_a_secret_s_may_hold_what_is_none(value: str) -> None:
    text = GOOD.replace("{MCP_ENVIRONMENT: production,", f"{{MCP_ENVIRONMENT: production, MAX_TOKENS: '{value}',")

    assert not failed(checked(text))


def test_D5_a_container_beside_the_edge_is_not_taken_for_it() -> None:
    exporter = "        - {name: exporter, image: 'e:1', ports: [{containerPort: 9187}], securityContext: *restricted,"
    exporter += " resources: {requests: {cpu: 1m, memory: 1Mi}, limits: {memory: 1Mi}}}\n"

    assert not failed(checked(GOOD.replace("      volumes:\n", f"{exporter}      volumes:\n")))


def test_D5_list_of_kubectl_is_taken_apart() -> None:
    items = "".join("  - " + text.replace("\n", "\n    ").strip() + "\n" for text in GOOD.split("---\n"))

    assert not failed(checked(f"kind: List\nitems:\n{items}"))
