"""D2, T8: compose.yaml, as Compose itself reads it, for every combination of answers."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.machine import compose
from tests.deploy.play import in_order, normalised, seconds
from tests.live.edges import program
from tests.render.support import Answers, by_copier, label, matrix

DRAIN_MARGIN, CLOSING = 5, 10
"""Seconds after the longest call until the drain's deadline, and from there until the process is gone."""


@functools.cache
def config(answers: Answers) -> dict[str, Any]:
    """Return what Compose makes of a render's file."""
    return normalised(by_copier(answers) / "deploy")


def check(file: Path) -> subprocess.CompletedProcess[str]:
    """Let Compose judge one file."""
    return subprocess.run(
        [str(compose()), "--file", str(file), "config", "--quiet"], capture_output=True, text=True, timeout=60
    )


@functools.cache
def fits_the_schema(text: str) -> bool:
    """Tell what the published schema says of a text; most answers leave the file as it is."""
    command = [program("check-jsonschema"), "--default-filetype=yaml", "--builtin-schema=vendor.compose-spec", "-"]
    return subprocess.run(command, input=text, text=True, capture_output=True, timeout=60).returncode == 0


@pytest.mark.parametrize("answers", matrix(), ids=label)
def test_D2_compose_and_its_schema_accept_the_file(answers: Answers) -> None:
    file = by_copier(answers) / "deploy" / "compose.yaml"

    judged = check(file)

    assert (judged.returncode, judged.stderr) == (0, "")
    assert fits_the_schema(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("condition: service_healthy", "condition: service_happy"),
        ('network_mode: "service:edge"', 'network_mode: "service:egde"'),
        ("stop_grace_period: 135s", "stop_grace_period: 135 seconds"),
        ("networks: [data]", "networks: [date]"),
    ],
)
def test_D2_compose_sees_a_fault(tmp_path: Path, old: str, new: str) -> None:
    text = (by_copier() / "deploy" / "compose.yaml").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "compose.yaml").write_text(text.replace(old, new, 1), encoding="utf-8")

    assert check(tmp_path / "compose.yaml").returncode != 0


@pytest.mark.parametrize("answers", matrix(), ids=label)
def test_D2_server_lives_in_the_edges_network_and_nothing_else_is_published(answers: Answers) -> None:
    services = config(answers)["services"]

    assert services["server"]["network_mode"] == "service:edge"
    assert "ports" not in services["server"]
    published = {
        name: [port["target"] for port in service["ports"]] for name, service in services.items() if "ports" in service
    }
    assert published == {"edge": [8443]}


@pytest.mark.parametrize("answers", matrix(), ids=label)
def test_T8_stopping_takes_longer_than_the_drain(answers: Answers) -> None:
    longest = float(dict(answers).get("tool_timeout", "120"))

    grace = seconds(config(answers)["services"]["server"]["stop_grace_period"])

    assert grace == longest + DRAIN_MARGIN + CLOSING


@pytest.mark.parametrize("answers", matrix(), ids=label)
def test_D2_every_service_may_do_little(answers: Answers) -> None:
    for name, service in config(answers)["services"].items():
        limits = service["deploy"]["resources"]["limits"]
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert {"cpus", "memory", "pids"} <= set(limits), name
        assert service["restart"] == ("no" if name == "migrate" else "unless-stopped"), name
        assert not service.get("privileged"), name
        # The server's image says its own user; the test of the image reads it.
        assert "build" in service or service["user"].partition(":")[0] not in ("", "0", "root"), name


def test_D2_only_caddy_keeps_a_capability_and_says_why() -> None:
    kept = {edge: config((("edge", edge),))["services"]["edge"].get("cap_add") for edge in ("nginx", "caddy", "mesh")}

    assert kept == {"nginx": None, "caddy": ["NET_BIND_SERVICE"], "mesh": None}


@pytest.mark.parametrize("answers", matrix(), ids=label)
def test_D2_images_are_pinned_by_version(answers: Answers) -> None:
    for name, service in config(answers)["services"].items():
        _, _, tag = service["image"].partition(":")
        assert "build" in service or re.match(r"v?\d+", tag), f"{name}: {service['image']}"


@pytest.mark.parametrize("answers", matrix(), ids=label)
def test_D2_passwords_are_files_and_never_variables_or_arguments(answers: Answers) -> None:
    found = config(answers)

    used = {secret["source"] for service in found["services"].values() for secret in service.get("secrets", [])}
    assert used == set(found["secrets"])
    for secret in found["secrets"].values():
        assert Path(secret["file"]).parent.name == "secrets"
    for name, service in found["services"].items():
        for variable, value in (service.get("environment") or {}).items():
            assert "PASSWORD" not in variable or variable.endswith("_FILE"), name
            assert "://" not in value, f"{name}: {variable}"
            if variable.endswith("_FILE"):
                assert value in [secret["target"] for secret in service["secrets"]], f"{name}: {variable}"


@pytest.mark.parametrize("answers", matrix(), ids=label)
def test_D2_start_order_is_gated_by_health(answers: Answers) -> None:
    services = config(answers)["services"]
    order = in_order(services)

    needed = {name: how["condition"] for name, how in services["server"]["depends_on"].items()}
    assert (needed["edge"], needed["redis"]) == ("service_healthy", "service_healthy")
    assert services["server"]["depends_on"]["edge"]["restart"]
    assert order.index("edge") < order.index("server")
    if "postgres" in services:
        assert needed["migrate"] == "service_completed_successfully"
        assert services["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            assert how["condition"] != "service_healthy" or "healthcheck" in services[other], name
    # Asked through the server, the edge would wait for a server that waits for the edge.
    assert services["edge"]["healthcheck"]["test"][-1].endswith(":9090/edge")


def test_D2_what_the_file_mounts_is_in_the_project() -> None:
    for answers in matrix():
        for name, service in config(answers)["services"].items():
            for mount in service.get("volumes", []):
                assert mount["type"] == "volume" or Path(mount["source"]).exists(), f"{name}: {mount['source']}"


def test_D2_override_adds_and_replaces_without_touching_the_file(tmp_path: Path) -> None:
    override = """
services:
  server:
    environment: {MCP_AUTH: jwt, MCP_JWT_ISSUER: "https://login.example.com"}
  prometheus:
    ports: ["127.0.0.1:9091:9090"]
"""
    shutil.copytree(by_copier() / "deploy", tmp_path / "deploy")
    (tmp_path / "deploy" / "compose.override.yaml").write_text(override, encoding="utf-8")

    found = normalised(tmp_path / "deploy")["services"]

    assert found["server"]["environment"]["MCP_AUTH"] == "jwt"
    assert found["server"]["environment"]["MCP_STATE_URL_FILE"] == "/run/secrets/state_url"
    assert found["prometheus"]["ports"][0]["host_ip"] == "127.0.0.1"


def test_D2_secrets_folder_keeps_its_files_out_of_git(tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(by_copier(), project)
    (project / "deploy" / "secrets" / "tls.key").write_text("secret", encoding="utf-8")
    for command in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", *command], cwd=project, check=True, capture_output=True)

    listed = subprocess.run(["git", "ls-files", "deploy/secrets"], cwd=project, capture_output=True, text=True).stdout

    assert listed.split() == ["deploy/secrets/.gitignore"]


def test_D2_monitoring_finds_the_edge_by_the_name_that_it_has_here() -> None:
    deploy = by_copier() / "deploy"
    scraped = yaml.safe_load((deploy / "monitoring" / "prometheus.yaml").read_text(encoding="utf-8"))["scrape_configs"]
    services = config(())["services"]

    [target] = scraped[0]["static_configs"][0]["targets"]

    assert target.partition(":")[0] in services["edge"]["networks"]["default"]["aliases"]
    assert "default" in services["prometheus"]["networks"], json.dumps(services["prometheus"]["networks"])
