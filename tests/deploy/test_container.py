"""D1, T5: the image, built from the Dockerfile as it stands and run as the smallest thing that may run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.deploy.images import BASE, Images
from tests.live.edges import program
from tests.live.project import Project, ServerProcess
from tests.render.support import Answers, by_copier, label, matrix

pytestmark = pytest.mark.xdist_group("containers")

UID = "10001"
HARDENED = (
    "--read-only",
    "--read-only-tmpfs=false",
    "--tmpfs=/tmp",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
)
PRODUCTION = {"MCP_AUTH": "mtls", "MCP_SINGLE_REPLICA": "true"}
"""The least that production starts with: one replica, callers by certificate."""
MODULES = ("pip", "ensurepip", "hatchling", "uv", "pytest", "ruff")
COMPILERS = ("cc", "gcc", "g++", "clang", "ld", "make", "cargo", "pip", "pip3", "uv")


def command(images: Images, *options: str, **given: str) -> tuple[str, ...]:
    """Return `podman run` for an image that comes last, on a network of its own without a way out."""
    variables = [f"--env={name}={value}" for name, value in given.items()]
    return (
        *images.podman_command("run", "--rm", "--network=none", "--no-healthcheck"),
        *HARDENED,
        *variables,
        *options,
    )


def inside(images: Images, image: str, script: str) -> str:
    """Run Python in a container that does nothing else."""
    return images.podman("run", "--rm", "--network=none", *HARDENED, "--entrypoint=python", image, "-c", script)


def edited(project: Project, target: Path, edits: dict[str, Callable[[str], str]]) -> Path:
    """Copy a project and change files of it."""
    shutil.copytree(project.root, target)
    for name, change in edits.items():
        text = (target / name).read_text(encoding="utf-8")
        assert change(text) != text
        (target / name).write_text(change(text), encoding="utf-8")
    return target


@pytest.mark.parametrize("answers", matrix(), ids=label)
def test_D1_dockerfile_has_no_known_fault(answers: Answers) -> None:
    found = subprocess.run(
        [program("hadolint"), by_copier(answers) / "deploy" / "Dockerfile"], capture_output=True, text=True, timeout=60
    )

    assert (found.returncode, found.stdout) == (0, "")


def test_D1_linter_sees_a_fault(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM debian\nRUN cd /tmp && sudo true\nCMD serve\n", encoding="utf-8")

    found = subprocess.run([program("hadolint"), tmp_path / "Dockerfile"], capture_output=True, text=True, timeout=60)

    assert found.returncode == 1
    assert {"DL3006", "DL3004", "DL3025"} <= set(re.findall(r"DL\d+", found.stdout))


def test_D1_image_says_what_it_is_and_how_it_runs(images: Images, image: str) -> None:
    found = images.inspect(image)
    config = found["Config"]

    assert (config["Entrypoint"], config["Cmd"]) == (["acme-notes"], ["serve"])
    assert config["User"] == f"{UID}:{UID}"
    assert config["StopSignal"] == "SIGTERM"
    assert found["Healthcheck"]["Test"] == ["CMD", "python", "-m", "mcp_chassis.alive"]
    assert "MCP_ENVIRONMENT=production" in config["Env"]
    assert not config.get("ExposedPorts")
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    assert labels["title"] == "Acme Notes"
    assert labels["description"] == "Keeps short notes and finds them again."
    assert {"version", "revision", "source", "licenses"} <= set(labels)


def test_D1_server_is_process_1_of_a_hardened_container_and_ends_with_0(
    images: Images, image: str, project: Project
) -> None:
    name = "process-1"
    with ServerProcess(project, image, command=command(images, f"--name={name}", **PRODUCTION)) as server:
        assert server.url == "http://127.0.0.1:8080/mcp"
        look = "import pathlib; [print(pathlib.Path(f'/proc/1/{name}').read_text()) for name in ('cmdline', 'status')]"
        cmdline, _, status = images.podman("exec", name, "python", "-c", look).partition("\n")
        healthy = subprocess.run(images.podman_command("exec", name, "python", "-m", "mcp_chassis.alive"), timeout=30)

        assert server.stop() == 0

    assert cmdline.split("\0")[1:3] == ["/app/server/bin/acme-notes", "serve"]
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert set(facts["Uid"].split()) == set(facts["Gid"].split()) == {UID}
    assert (int(facts["CapBnd"], 16), facts["NoNewPrivs"], facts["PPid"]) == (0, "1", "0")
    assert healthy.returncode == 0
    assert server.lines[-1]["event"] == "server_stopped"
    assert server.errors == []


def test_T5_nothing_but_loopback_is_listened_on_in_the_container(images: Images, image: str, project: Project) -> None:
    name = "loopback"
    with ServerProcess(project, image, command=command(images, f"--name={name}", **PRODUCTION)) as server:
        server.wait_for("server_started")
        look = "print(*(open(f'/proc/net/{name}').read() for name in ('tcp', 'tcp6')))"
        table = images.podman("exec", name, "python", "-c", look)

    listening = [line.split()[1] for line in table.splitlines() if " 0A " in line]
    assert listening == ["0100007F:1F90"]


@pytest.mark.parametrize(
    ("given", "said"),
    [({"MCP_HOST": "0.0.0.0"}, "MCP_HOST=0.0.0.0"), ({"MCP_AUTH": "none"}, "MCP_AUTH=none")],
    ids=["host", "auth"],
)
def test_T5_bad_configuration_stops_the_container_with_78(
    images: Images, image: str, given: dict[str, str], said: str
) -> None:
    done = subprocess.run([*command(images, **(PRODUCTION | given)), image], capture_output=True, text=True, timeout=60)

    assert done.returncode == 78
    assert said in done.stderr


def test_O4_health_check_fails_where_nothing_serves(images: Images, image: str) -> None:
    check = [*command(images, "--entrypoint=python"), image, "-m", "mcp_chassis.alive"]

    assert subprocess.run(check, capture_output=True, timeout=60).returncode == 1


def test_D1_final_stage_holds_neither_compiler_nor_installer_nor_source(images: Images, image: str) -> None:
    script = f"""
import importlib.util, json, os, pathlib, shutil
print(json.dumps({{
    "programs": [name for name in {COMPILERS!r} if shutil.which(name)],
    "modules": [name for name in {MODULES!r} if importlib.util.find_spec(name)],
    "app": sorted(os.listdir("/app")),
    "source": os.path.exists("/source"),
    "compiled": importlib.util.find_spec("mcp_chassis.serve").cached,
    "is_compiled": os.path.exists(importlib.util.find_spec("mcp_chassis.serve").cached),
    "writable": [str(path) for path in pathlib.Path("/app").rglob("*") if os.access(path, os.W_OK)],
}}))
"""
    found = json.loads(inside(images, image, script))

    assert found["programs"] == found["modules"] == found["writable"] == []
    assert found["app"] == [".venv", "apt-packages.txt", "migrations", "server"]
    assert found["is_compiled"], found["compiled"]
    assert not found["source"]


def test_D1_base_image_of_these_tests_has_an_installer_to_lose(images: Images) -> None:
    assert "pip" in images.podman("run", "--rm", "--network=none", BASE, "python3", "-m", "pip", "--version")


def test_C3_secrets_and_history_are_not_sent_to_the_build(images: Images, project: Project, tmp_path: Path) -> None:
    context = edited(project, tmp_path / "project", {})
    (context / "resources.lock.json").write_text('{"format": 1, "resources": {}}\n', encoding="utf-8")
    for name in (".env", "keys.json", ".git/config", "deploy/secrets/tls.key", "src/acme_notes/__pycache__/x.pyc"):
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        (context / name).write_text("secret", encoding="utf-8")
    (context / "all").write_text(f"FROM {BASE}\nCOPY . /sent\n", encoding="utf-8")
    assert images.build(context, "localhost/sent", file="all").returncode == 0

    sent = images.podman("run", "--rm", "--network=none", "localhost/sent", "find", "/sent", "-type", "f").splitlines()

    tops = {Path(name).relative_to("/sent").parts[0] for name in sent}
    assert tops == {"README.md", "chassis", "deploy", "pyproject.toml", "resources.lock.json", "src", "uv.lock"}
    assert [name for name in sent if "/deploy/" in name] == ["/sent/deploy/apt-packages.txt"]
    assert not [name for name in sent if "__pycache__" in name]


def test_C3_stale_lock_stops_the_build_and_names_the_way_out(images: Images, project: Project, tmp_path: Path) -> None:
    more = {"pyproject.toml": lambda text: text.replace('["mcp-chassis"]', '["mcp-chassis", "humanize>=4"]')}

    built = images.build(edited(project, tmp_path / "project", more), "localhost/stale")

    assert built.returncode != 0
    assert "needs to be updated" in built.stdout
    assert "uv run acme-notes refresh, then commit uv.lock" in built.stdout


@pytest.mark.parametrize("package", ["idna", "hatchling"], ids=["dependency", "build backend"])
def test_C3_package_of_another_hash_stops_the_build(
    images: Images, project: Project, tmp_path: Path, package: str
) -> None:
    def tampered(text: str) -> str:
        head, mark, rest = text.partition(f'name = "{package}"\nversion')
        mine, end, after = rest.partition("[[package]]")
        return head + mark + re.sub(r"sha256:[0-9a-f]{8}", "sha256:00000000", mine) + end + after

    built = images.build(edited(project, tmp_path / "project", {"uv.lock": tampered}), f"localhost/tampered-{package}")

    assert built.returncode != 0
    assert re.search("[Hh]ash mismatch", built.stdout), built.stdout[-2000:]


def test_D1_change_of_code_moves_a_small_layer_alone(
    images: Images, image: str, project: Project, tmp_path: Path
) -> None:
    def edit(text: str) -> str:
        return text + "\nCHANGED = True\n"

    built = images.build(edited(project, tmp_path / "project", {"src/acme_notes/server.py": edit}), "localhost/changed")

    assert built.returncode == 0, built.stdout
    assert "True" in inside(images, "localhost/changed", "from acme_notes.server import CHANGED; print(CHANGED)")
    before, after = (images.layers(name) for name in (image, "localhost/changed"))
    new = [size for digest, size in after.items() if digest not in before]
    assert sum(after.values()) > 50_000_000 > 5_000_000 > sum(new) > 0


def test_D1_debian_packages_of_the_user_are_in_the_image(images: Images, project: Project, tmp_path: Path) -> None:
    def wanted(text: str) -> str:
        return text + "\nlibmagic1t64  # for the type of a file\n  \nmedia-types\n"

    context = edited(project, tmp_path / "project", {"deploy/apt-packages.txt": wanted})

    built = images.build(context, "localhost/packages")

    assert built.returncode == 0, built.stdout
    look = ["--entrypoint=dpkg-query", "localhost/packages", "--show", "libmagic1t64", "media-types"]
    found = images.podman("run", "--rm", "--network=none", *look)
    assert len(found.splitlines()) == 2
