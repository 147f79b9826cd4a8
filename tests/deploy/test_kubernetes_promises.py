"""What the manifests promise beyond what a schema can say (T5, T8, S3, S4, D5, D6)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
import yaml
from typer.testing import CliRunner

from mcp_chassis import Server
from mcp_chassis.cli import application
from tests.deploy.kubernetes_build import (
    OVERLAY,
    built,
    containers,
    edited,
    of_kind,
    only,
    parse,
    pods,
    production,
    server_pod,
    with_ingress,
)
from tests.render.support import Answers, by_copier, is_yours, label, matrix

pytestmark = pytest.mark.xdist_group("kubernetes")

PRE_STOP: Final = 15
EDGES: Final = ("nginx", "caddy")

every_answer = pytest.mark.parametrize("answers", matrix(), ids=label)
each_edge = pytest.mark.parametrize("edge", EDGES)
each_timeout = pytest.mark.parametrize("timeout", [1, 120, 300, 3600])


def seconds(text: str) -> int:
    """Read `300s`."""
    return int(text.removesuffix("s"))


@each_timeout
def test_T8_one_answer_moves_every_time_limit_of_the_cluster(timeout: int) -> None:
    answers = (("tool_timeout", str(timeout)),)
    objects, floor = parse(production(answers)), max(300, timeout + 30)
    pod = server_pod(objects)
    (server,) = pod["containers"]

    assert server["lifecycle"]["preStop"] == {"sleep": {"seconds": PRE_STOP}}
    # The drain is 5 s longer than the longest call, and closing takes less than 10 s.
    assert pod["terminationGracePeriodSeconds"] == PRE_STOP + (timeout + 5) + 10
    stream, call = only(objects, "HTTPRoute")["spec"]["rules"]
    assert stream["matches"] == [{"method": "GET", "path": {"type": "Exact", "value": "/mcp"}}]
    assert (seconds(stream["timeouts"]["request"]), seconds(call["timeouts"]["request"])) == (0, floor)
    notes = only(parse(edited(answers, with_ingress)), "Ingress")["metadata"]["annotations"]
    nginx, alb = "nginx.ingress.kubernetes.io/proxy-", "alb.ingress.kubernetes.io/load-balancer-attributes"
    assert (notes[f"{nginx}read-timeout"], notes[f"{nginx}send-timeout"]) == (str(floor), str(floor))
    assert notes[alb] == f"idle_timeout.timeout_seconds={floor}"
    assert notes[f"{nginx}buffering"] == "off"


@each_edge
def test_D5_edge_is_a_native_sidecar_that_is_asked_alone(edge: str) -> None:
    pod = server_pod(built(edge=edge))
    (sidecar,), (server,) = pod["initContainers"], pod["containers"]

    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["startupProbe"]["httpGet"] == sidecar["livenessProbe"]["httpGet"]
    # Through the server it would wait for what waits for it.
    assert sidecar["startupProbe"]["httpGet"] == {"path": "/edge", "port": "internal"}
    assert {port["name"]: port["containerPort"] for port in sidecar["ports"]} == {
        "public": 8443,
        "internal": 9090,
        "peers": 9443,
    }
    assert {kind: server[kind]["httpGet"] for kind in server if kind.endswith("Probe")} == {
        "startupProbe": {"path": "/health/live", "port": 9090},
        "livenessProbe": {"path": "/health/live", "port": 9090},
        "readinessProbe": {"path": "/health/ready", "port": 9090},
    }
    assert "ports" not in server


@each_edge
def test_D5_hung_edge_is_restarted_before_the_server_behind_it(edge: str) -> None:
    pod = server_pod(built(edge=edge))
    edges, servers = (
        one["livenessProbe"]["periodSeconds"] * one["livenessProbe"]["failureThreshold"]
        for one in [*pod["initContainers"], *pod["containers"]]
    )

    assert edges < servers


@each_edge
def test_D5_edge_runs_the_files_of_the_project(edge: str) -> None:
    objects = built(edge=edge)
    deploy = by_copier((("edge", edge),)) / "deploy" / edge

    (sidecar,) = server_pod(objects)["initContainers"]

    (texts,) = [one["data"] for one in of_kind(objects, "ConfigMap") if one["metadata"]["name"].startswith("edge-")]
    mounted = {one["mountPath"]: one.get("subPath") for one in sidecar["volumeMounts"] if one["name"] == "edge"}
    assert texts == {name: (deploy / name).read_text(encoding="utf-8") for name in texts}
    assert mounted == {f"/etc/{edge}/{name}": name for name in texts}
    # Whatever lies beside the configuration is read by it.
    assert {path.name for path in deploy.iterdir()} == {*texts, "kustomization.yaml"}


@each_edge
def test_D5_drop_ins_reach_the_pod(edge: str, tmp_path: Path) -> None:
    answers = (("edge", edge),)
    listed = "configMapGenerator: [{name: edge-conf-d, files: [robots.public.conf]}]\n"

    def drop_in(project: Path) -> None:
        folder = project / "deploy" / edge / "conf.d"
        folder.mkdir()
        (folder / "robots.public.conf").write_text("# mine\n", encoding="utf-8")
        (folder / "kustomization.yaml").write_text(listed, encoding="utf-8")
        path = project / OVERLAY / "kustomization.yaml"
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("# - ../../../", "- ../../../"), encoding="utf-8")

    objects = parse(edited(answers, drop_in))

    (found,) = [one for one in of_kind(objects, "ConfigMap") if one["metadata"]["name"].startswith("edge-conf-d-")]
    assert found["data"] == {"robots.public.conf": "# mine\n"}
    (volume,) = [one for one in server_pod(objects)["volumes"] if one["name"] == "edge-conf-d"]
    assert volume["configMap"]["name"] == found["metadata"]["name"]
    seeded = server_pod(parse(production(answers)))["volumes"]
    assert {"name": "edge-conf-d", "configMap": {"name": "edge-conf-d", "optional": True}} in seeded


def test_S4_a_pod_is_ready_before_another_leaves() -> None:
    objects = built()
    deployment, scaler = only(objects, "Deployment")["spec"], only(objects, "HorizontalPodAutoscaler")["spec"]

    assert deployment["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    # The autoscaler's business: applying the manifest again must not undo it.
    assert "replicas" not in deployment
    assert 2 <= scaler["minReplicas"] <= scaler["maxReplicas"]
    (metric,) = scaler["metrics"]
    assert metric["containerResource"]["container"] == "server"
    budget = only(objects, "PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1
    assert "minAvailable" not in budget
    spread = server_pod(objects)["topologySpreadConstraints"]
    assert [one["topologyKey"] for one in spread] == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]


@every_answer
def test_D5_pods_stay_within_the_restricted_profile(answers: Answers) -> None:
    objects = parse(production(answers))
    found = dict(pods(objects))

    given = dict(answers)
    assert len(found) == 1 + (given["database"] == "postgres") + (given["delivery"] == "gitops")
    for name, pod in found.items():
        security = pod["securityContext"]
        assert (security["runAsNonRoot"], security["runAsUser"]) == (True, 10001), name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False), name
        assert {next(iter(one.keys() - {"name"})) for one in pod["volumes"]} <= {"configMap", "emptyDir", "secret"}
        for one in containers(pod):
            own = one["securityContext"]
            assert (own["allowPrivilegeEscalation"], own["readOnlyRootFilesystem"]) == (False, True), one["name"]
            assert own["capabilities"]["drop"] == ["ALL"], one["name"]
            assert set(own["capabilities"].get("add", [])) <= {"NET_BIND_SERVICE"}, one["name"]
            assert {"cpu", "memory"} == one["resources"]["requests"].keys() == one["resources"]["limits"].keys()
            assert "/tmp" in {mount["mountPath"] for mount in one["volumeMounts"]}, one["name"]
    assert only(objects, "ServiceAccount")["automountServiceAccountToken"] is False
    enforced = only(objects, "Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
    assert enforced == "restricted"


def test_D6_migration_is_a_command_that_exists_with_rights_that_the_server_lacks() -> None:
    objects = built(database="postgres")
    job, deployment = only(objects, "Job"), only(objects, "Deployment")
    (migration,) = job["spec"]["template"]["spec"]["containers"]
    (server,) = deployment["spec"]["template"]["spec"]["containers"]

    helped = CliRunner().invoke(application(Server("notes")), [*migration["args"], "--help"])

    assert helped.exit_code == 0
    assert migration["image"] == server["image"]
    secrets = [
        [one["secretRef"]["name"] for one in both["envFrom"] if "secretRef" in one] for both in (server, migration)
    ]
    assert secrets == [["acme-notes"], ["acme-notes", "acme-notes-migration"]]
    # No Service sends it a request.
    labels = job["spec"]["template"]["metadata"]["labels"]
    for service in of_kind(objects, "Service"):
        assert not service["spec"]["selector"].items() <= labels.items()


def test_D6_probe_looks_at_the_public_url_each_minute_and_one_look_fits_into_it() -> None:
    objects = built()
    job, deployment = only(objects, "CronJob"), only(objects, "Deployment")
    once = job["spec"]["jobTemplate"]["spec"]
    (probe,), (server,) = (found["containers"] for found in (once["template"]["spec"], server_pod(objects)))
    options = CliRunner().invoke(application(Server("notes")), ["probe", "--help"]).output

    assert job["spec"]["schedule"] == "* * * * *"
    assert once["activeDeadlineSeconds"] < 60
    assert (probe["image"], probe["args"][:2]) == (server["image"], ["probe", "https://acme-notes.example.com/mcp"])
    assert all(word in options for word in probe["args"] if word.startswith("--"))
    assert deployment["metadata"]["name"] + "-probe" == job["metadata"]["name"]  # as McpProbeFailed calls its Jobs
    labels = once["template"]["metadata"]["labels"]
    for service in of_kind(objects, "Service"):
        assert not service["spec"]["selector"].items() <= labels.items()


@every_answer
def test_O6_rules_of_the_cluster_are_those_of_the_project(answers: Answers) -> None:
    written = (by_copier(answers) / "deploy" / "monitoring" / "rules.yaml").read_text(encoding="utf-8")

    assert only(parse(production(answers)), "PrometheusRule")["spec"] == yaml.safe_load(written)


def test_O5_prometheus_finds_the_port_and_calls_the_job_what_the_rules_call_it() -> None:
    objects = built()
    monitor, deployment = only(objects, "PodMonitor")["spec"], only(objects, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]

    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    assert labels[monitor["jobLabel"]] == "acme-notes"
    (endpoint,) = monitor["podMetricsEndpoints"]
    (sidecar,) = server_pod(objects)["initContainers"]
    assert {one["name"]: one["containerPort"] for one in sidecar["ports"]}[endpoint["port"]] == 9090


def test_M4_overlay_is_yours_and_the_rest_is_not() -> None:
    names = [path.relative_to(by_copier()) for path in (by_copier() / "deploy" / "kubernetes").rglob("*.yaml")]

    yours = {str(name) for name in names if is_yours(str(name))}

    assert yours == {str(name) for name in names if "overlays" in name.parts}
    assert len(yours) <= 5
    assert len(names) - len(yours) <= 11


@pytest.mark.parametrize("answers", [(("edge", edge),) for edge in (*EDGES, "mesh")], ids=str)
def test_M2_only_the_chosen_edge_is_mounted(answers: Answers) -> None:
    deploy = by_copier(answers) / "deploy"

    found = {name for name in EDGES if (deploy / name / "kustomization.yaml").exists()}

    assert found == {dict(answers)["edge"]} - {"mesh"}


def test_D6_first_step_of_an_upgrade_applies_all_but_the_server() -> None:
    objects = built(database="postgres")

    held_back = [one for one in objects if one["metadata"]["labels"].get("app.kubernetes.io/component") == "server"]

    # `kubectl apply -l app.kubernetes.io/component!=server`, as docs/kubernetes.md says.
    assert {one["kind"] for one in held_back} == {"Deployment", "HorizontalPodAutoscaler", "PodDisruptionBudget"}
