"""Both edges' files as they are rendered: syntax, format, owners, time limits, drop-ins (D3, D4, M4, T8)."""

import http.client
import inspect
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from cryptography.x509.oid import NameOID

from tests.live.authority import Authority, make_certificate
from tests.live.edges import (
    CONFIGS,
    FLUSH,
    TEMPLATE,
    command,
    edit,
    program,
    render,
    running,
)
from tests.live.stub_server import DEADLINE, StubServer
from tests.support.ports import free_port

pytestmark = pytest.mark.xdist_group("edges")

SECOND = 1_000_000_000
"""Caddy writes durations in nanoseconds."""

FLOOR = 300
"""Seconds below which no idle or read timeout may fall (T8)."""

PING = 15
"""Longest silence on a stream in seconds (T4)."""

HOST_SPOOFING = "the server needs the host as the client sent it, port included, and checks it against its own name"
GIXY_SKIPS = {"host_spoofing": HOST_SPOOFING}

TEMPLATE_OWNED = "# Template-owned: updates replace it"
CHASSIS = TEMPLATE.parent / "chassis" / "mcp_chassis"
BROKEN = {"nginx": {"proxy_buffering off": "proxy_bufering off"}, "caddy": {FLUSH: "flush_intervall -1"}}

PAGE = (Path(__file__).parents[2] / "docs" / "edges.md").read_text(encoding="utf-8")
TITLES = {"nginx": "nginx", "caddy": "Caddy"}
DROP_IN = re.compile(r"\(`([\w.]+)`\)[^`]*(?:`[^`]+`[^`]*)*```\w+\n(.*?)```", re.DOTALL)


@pytest.fixture
def rendered(tmp_path: Path) -> Path:
    """Both configs with certificates that exist and scratch paths that are ours."""
    render(tmp_path)
    make_certificate(tmp_path)
    for config in CONFIGS.values():
        edit(tmp_path / config, {"/etc/edge/tls/": f"{tmp_path}/", " /tmp/": f" {tmp_path}/"})
    return tmp_path


def run(*arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    environment = {"HOME": str(folder), "XDG_DATA_HOME": str(folder)}
    return subprocess.run(
        arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=DEADLINE, check=False
    )


def adapted(folder: Path) -> dict[str, Any]:
    """Return Caddy's own reading of the Caddyfile."""
    done = run(program("caddy"), "adapt", "--config", str(folder / CONFIGS["caddy"]), folder=folder)
    config: dict[str, Any] = json.loads(done.stdout)
    return config


def find(tree: object, key: str) -> list[Any]:
    """Return every value of this key, at any depth."""
    if isinstance(tree, dict):
        return [value for name, value in tree.items() if name == key] + find(list(tree.values()), key)
    return [found for branch in tree for found in find(branch, key)] if isinstance(tree, list) else []


def seconds(text: str, directive: str) -> list[int]:
    """Return every value of an nginx directive that is a time."""
    return [int(value) for value in re.findall(rf"^\s*{directive} (\d+)s;", text, re.MULTILINE)]


# --- syntax and format ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_D3_D4_program_accepts_its_config(name: str, rendered: Path) -> None:
    done = run(*command(name, rendered / CONFIGS[name], check=True), folder=rendered)

    assert done.returncode == 0, done.stderr
    assert "[emerg]" not in done.stderr


@pytest.mark.parametrize("name", CONFIGS)
def test_D3_D4_program_refuses_a_broken_config(name: str, rendered: Path) -> None:
    edit(rendered / CONFIGS[name], BROKEN[name])

    done = run(*command(name, rendered / CONFIGS[name], check=True), folder=rendered)

    assert done.returncode != 0


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("part", ["tls.crt", "tls.key"])
def test_D3_D4_certificate_that_is_missing_stops_the_start(name: str, part: str, rendered: Path) -> None:
    (rendered / part).unlink()

    assert run(*command(name, rendered / CONFIGS[name], check=True), folder=rendered).returncode != 0


def test_D4_caddyfile_is_formatted(rendered: Path) -> None:
    done = run(program("caddy"), "fmt", "--diff", str(rendered / CONFIGS["caddy"]), folder=rendered)

    assert done.returncode == 0
    assert [line for line in done.stdout.splitlines() if line.startswith(("+", "-"))] == []


def gixy(folder: Path) -> "subprocess.CompletedProcess[str]":
    return run(program("gixy"), "--skips", ",".join(GIXY_SKIPS), str(folder / CONFIGS["nginx"]), folder=folder)


def test_D3_gixy_finds_nothing_beyond_the_reasoned_skips(rendered: Path) -> None:
    done = gixy(rendered)

    assert done.returncode == 0, done.stdout


def test_D3_gixy_notices_a_weak_protocol(rendered: Path) -> None:
    edit(rendered / CONFIGS["nginx"], {"ssl_protocols TLSv1.2": "ssl_protocols TLSv1 TLSv1.2"})

    assert gixy(rendered).returncode != 0


@pytest.mark.parametrize("name", CONFIGS)
def test_M4_first_line_names_the_owner(name: str, tmp_path: Path) -> None:
    files = [path for path in (render(tmp_path) / name).rglob("*") if path.is_file()]

    yours = {path for path in files if path.read_text().startswith("# Yours")}
    ours = {path for path in files if path.read_text().startswith(TEMPLATE_OWNED)}
    assert yours == set()
    assert ours == set(files) != set()


def test_D3_nginx_writes_below_tmp_only(tmp_path: Path) -> None:
    text = (render(tmp_path) / CONFIGS["nginx"]).read_text()

    places = re.findall(r"^\s*(?:pid|\w+_temp_path) (\S+);", text, re.MULTILINE)
    assert len(places) == 6
    assert all(place.startswith("/tmp/") for place in places)


def test_D4_running_caddy_is_not_reconfigured(tmp_path: Path) -> None:
    assert adapted(render(tmp_path))["admin"] == {"disabled": True, "config": {"persist": False}}


def test_D3_D4_duties_on_the_page_are_what_the_files_say(tmp_path: Path) -> None:
    folder = render(tmp_path)
    page = (TEMPLATE.parents[1] / "docs" / "edges.md").read_text()
    table = page.partition("## The duties")[2].partition("```")[0]
    rows = [line.split("|")[3:5] for line in table.splitlines() if line.startswith("| ")][1:]

    for column, name in enumerate(CONFIGS):
        files = "".join(path.read_text() for path in (folder / name).iterdir() if path.is_file())
        directives = [found for row in rows for found in re.findall(r"`([^`]+)`", row[column])]
        assert len(directives) >= 18
        assert [directive for directive in directives if directive not in files] == []


# --- time limits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tool_timeout", "expected"), [(120, 300), (270, 300), (271, 301), (900, 930)])
def test_T8_edges_wait_longer_than_the_longest_call(tool_timeout: int, expected: int, tmp_path: Path) -> None:
    folder = render(tmp_path, tool_timeout=str(tool_timeout))

    nginx = seconds((folder / CONFIGS["nginx"]).read_text(), "proxy_read_timeout")
    caddy = adapted(folder)
    transports = find(caddy, "transport")
    waits = [
        transport[key] // SECOND for transport in transports for key in ("response_header_timeout", "read_timeout")
    ]

    assert set(nginx) == set(waits) == {expected}
    assert expected >= max(FLOOR, tool_timeout + 30)
    assert expected > PING


def test_T8_no_idle_limit_lies_below_the_floor_and_nothing_limits_a_whole_answer(tmp_path: Path) -> None:
    folder = render(tmp_path)
    nginx = (folder / CONFIGS["nginx"]).read_text()
    servers = adapted(folder)["apps"]["http"]["servers"].values()

    outside = nginx.replace(nginx[nginx.index("upstream server") : nginx.index("proxy_connect_timeout")], "")
    assert seconds(outside, "keepalive_timeout") == [FLOOR]
    assert [server["idle_timeout"] // SECOND for server in servers] == [FLOOR, FLOOR, FLOOR]
    assert not any("write_timeout" in server for server in servers)


def test_T8_idle_connections_to_the_server_are_dropped_before_the_server_drops_them(tmp_path: Path) -> None:
    folder = render(tmp_path)
    kept = inspect.signature(uvicorn.Config).parameters["timeout_keep_alive"].default

    nginx = re.search(
        r"upstream server \{.*?keepalive_timeout (\d+)s;", (folder / CONFIGS["nginx"]).read_text(), re.DOTALL
    )
    caddy = [keep["idle_timeout"] // SECOND for keep in find(adapted(folder), "keep_alive")]

    assert nginx is not None
    assert {int(nginx[1]), *caddy} == {kept - 1}


def test_D3_D4_sizes_are_the_same_in_both_and_in_the_server(tmp_path: Path) -> None:
    folder = render(tmp_path)
    nginx, caddy = (folder / CONFIGS["nginx"]).read_text(), adapted(folder)
    settings = (CHASSIS / "settings.py").read_text()
    body, headers = (
        int(value)
        for name in ("body", "header")
        for value in re.findall(rf"max_{name}_bytes: int = Field\(([\d_]+)", settings)
    )

    assert f"client_max_body_size {body // 1024**2}m;" in nginx
    assert set(find(caddy, "max_size")) == set(find(caddy, "request_buffers")) == {body}
    assert f"large_client_header_buffers 2 {headers // 2 // 1024}k;" in nginx
    assert set(find(caddy, "max_header_bytes")) == {headers}


def test_O3_request_id_has_one_form_in_both_and_in_the_server() -> None:
    form = "[A-Za-z0-9._-]{1,128}"

    assert f"^{form}$" in (TEMPLATE / CONFIGS["nginx"]).read_text()
    assert f"^{form}$" in (TEMPLATE / CONFIGS["caddy"]).read_text()
    assert f'"{form}"' in (CHASSIS / "http" / "boundary.py").read_text()


# --- drop-ins ------------------------------------------------------------------------------------------------------


def examples(name: str, beginning: str = "") -> dict[str, str]:
    """Return the examples of the drop-in page, by the file name that the page gives them."""
    page = PAGE.partition(f"### Drop-ins of {TITLES[name]}\n")[2].partition("\n##")[0]
    found = dict(DROP_IN.findall(page))
    if len(found) != page.count("```") // 2:
        raise ValueError(f"{name}: an example without a file name")
    return {file: text for file, text in found.items() if file.startswith(beginning)}


@pytest.mark.parametrize("name", CONFIGS)
def test_D3_D4_examples_of_the_drop_in_page_work_together(name: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    identity = authority.issue([(NameOID.COMMON_NAME, "agent-7")])

    with running(name, free_port(), drop_ins=examples(name), client_ca=authority.file) as edge:
        answer = edge.request("GET", "/robots.txt", on=edge.connect(identity=identity))

    assert answer.status == 200
    assert answer.body == b"User-agent: *\nDisallow: /\n"


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("trusted", "expected"), [("10.0.0.0/8", "127.0.0.1"), ("127.0.0.0/8", "203.0.113.9")])
def test_D3_D4_forwarded_address_is_believed_from_a_declared_balancer_alone(
    name: str, trusted: str, expected: str
) -> None:
    drop_ins = examples(name, "balancer")
    drop_ins = {file: text.replace("10.0.0.0/8", trusted) for file, text in drop_ins.items()}

    with StubServer() as stub, running(name, stub.port, drop_ins=drop_ins) as edge:
        told = [("X-Forwarded-For", "198.51.100.1, 203.0.113.9")]
        answer = edge.request("POST", "/mcp", headers=told, body=b"")

    assert answer.seen("X-Forwarded-For") == [expected]


@pytest.mark.parametrize("name", CONFIGS)
def test_D3_D4_every_listener_speaks_ipv6_too(name: str) -> None:
    """Fails on a machine without IPv6 on its loopback: sysctl net.ipv6.conf.lo.disable_ipv6=0 brings it back."""
    # Caddy's page has no such example: it needs none.
    with StubServer() as stub, running(name, stub.port, drop_ins=examples(name, "ipv6")) as edge:
        answers = [
            edge.request("GET", "/mcp", on=edge.connect(port=port, host=host))
            for port in (edge.public, edge.peers)
            for host in ("::1", "127.0.0.1")
        ]
        internal = http.client.HTTPConnection("::1", edge.internal, timeout=DEADLINE)
        internal.request("GET", "/edge")
        status = internal.getresponse().status
        internal.close()

    assert [answer.seen("X-Forwarded-For") for answer in answers] == [["::1"], ["127.0.0.1"]] * 2
    assert status == 204
