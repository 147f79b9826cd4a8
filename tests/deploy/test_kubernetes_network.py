"""Who reaches the server's pod, and whom it reaches; with a mesh in the edge's place, too (T5, D5)."""

from __future__ import annotations

import ipaddress

import pytest

from tests.deploy.kubernetes_build import Object, built, of_kind, only, parse, production, server_pod
from tests.render.support import Answers, label, matrix

pytestmark = pytest.mark.xdist_group("kubernetes")

every_answer = pytest.mark.parametrize("answers", matrix(), ids=label)


def test_T5_behind_a_mesh_every_listener_leads_to_loopback() -> None:
    objects = built(edge="mesh")
    pod = server_pod(objects)
    (server,) = pod["containers"]

    listeners = only(objects, "Sidecar")["spec"]["ingress"]

    assert "initContainers" not in pod
    assert {one["defaultEndpoint"] for one in listeners} == {"127.0.0.1:8080"}
    assert {one["port"]["number"] for one in listeners} == {one["containerPort"] for one in server["ports"]}
    commands = {kind: server[kind]["exec"]["command"] for kind in server if kind.endswith("Probe")}
    asked = {kind: command[-1] for kind, command in commands.items()}
    assert asked == {"startupProbe": "live", "livenessProbe": "live", "readinessProbe": "ready"}
    assert {tuple(command[:-1]) for command in commands.values()} == {("python", "-m", "mcp_chassis.alive")}


def test_D5_mesh_has_what_the_edges_listeners_are_elsewhere() -> None:
    objects = built(edge="mesh")

    policies = {one["spec"]["action"]: one["spec"]["rules"] for one in of_kind(objects, "AuthorizationPolicy")}
    rules = policies["ALLOW"]
    routes = only(objects, "HTTPRoute")["spec"]["rules"]

    paths = {rule["to"][0]["operation"]["ports"][0]: rule["to"][0]["operation"].get("paths") for rule in rules}
    assert paths.keys() == {"8080", "9090", "9443"}
    assert {match["path"]["value"] for rule in routes for match in rule["matches"]} == set(paths["8080"])
    removed = [rule["filters"][0]["requestHeaderModifier"]["remove"] for rule in routes]
    assert removed == [["X-Client-Subject", "X-Peer-Assertion"]] * 2
    refused = {rule["when"][0]["key"]: rule["to"][0]["operation"]["ports"] for rule in policies["DENY"]}
    assert refused == {f"request.headers[{name}]": ["8080"] for name in removed[0]}
    names = {one["metadata"]["name"] for one in objects}
    assert not of_kind(objects, "BackendTLSPolicy")
    assert not [name for name in names if name.startswith("edge-")]


def ports(rule: Object) -> set[int]:
    """Return the ports of one rule of a policy; none would mean all."""
    return {one["port"] for one in rule["ports"]}


@every_answer
def test_D5_network_lets_in_and_out_what_is_named(answers: Answers) -> None:
    policies = of_kind(parse(production(answers)), "NetworkPolicy")
    given = dict(answers)
    inward, outward = (one["spec"] for one in sorted(policies, key=lambda one: str(one["metadata"]["name"])))

    assert (inward["policyTypes"], outward["policyTypes"]) == (["Ingress"], ["Egress"])
    assert [ports(rule) for rule in inward["ingress"]] == [{8080 if given["edge"] == "mesh" else 8443}, {9443}, {9090}]
    assert all(rule["from"] for rule in inward["ingress"])
    extra = ({5432} if given["database"] == "postgres" else set()) | ({15012} if given["edge"] == "mesh" else set())
    assert [ports(rule) for rule in outward["egress"]] == [{53}, {9443}, {6379, 4318} | extra, {443}]
    assert all(rule["to"] for rule in outward["egress"])


@pytest.mark.parametrize(
    ("address", "expected"), [("169.254.169.254", False), ("10.0.0.1", False), ("93.184.215.14", True)]
)
def test_D5_tools_reach_the_internet_and_neither_metadata_nor_neighbours(address: str, expected: bool) -> None:
    _, outward = of_kind(built(), "NetworkPolicy")
    (rule,) = [rule for rule in outward["spec"]["egress"] if ports(rule) == {443}]

    asked = ipaddress.ip_address(address)
    found = False
    for block in (one["ipBlock"] for one in rule["to"]):
        network = ipaddress.ip_network(block["cidr"])
        except_for = [ipaddress.ip_network(one) for one in block.get("except", [])]
        found = found or (asked in network and not any(asked in one for one in except_for))

    assert found is expected
