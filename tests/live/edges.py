"""Render the two edges, run the real programs, and talk to them over HTTP/1.1 and TLS."""

import contextlib
import http.client
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2

from tests.live.authority import make_certificate
from tests.live.stub_server import DEADLINE
from tests.support.ports import free_port

TEMPLATE = Path(__file__).parents[2] / "{{cookiecutter.project_slug}}" / "deploy"
ANSWERS = {
    "project_name": "Acme Notes",
    "project_slug": "acme-notes",
    "public_url": "https://acme-notes.example.com",
    "tool_timeout": "120",
    "edge": "nginx",
}
CONFIGS = {"nginx": "nginx/nginx.conf", "caddy": "caddy/Caddyfile"}
FLUSH = "flush_interval -1"
NOBODY = 65534
POST = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\n"

Headers = Sequence[tuple[str, str]]


def render(folder: Path, **answers: str) -> Path:
    """Write `deploy/` of a project with these answers, with the environment that both engines use."""
    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    )
    for source in (path for name in CONFIGS for path in (TEMPLATE / name).rglob("*") if path.is_file()):
        target = folder / source.relative_to(TEMPLATE)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(environment.from_string(source.read_text()).render(cookiecutter=ANSWERS | answers))
    return folder


def program(name: str) -> str:
    """Return the path of nginx, caddy or gixy, or say how to get it."""
    places = [sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"]
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        raise FileNotFoundError(f"{name} is missing: apt-get install nginx; caddy and gixy are Python packages")
    return found


def edit(path: Path, edits: Mapping[str, str], *, all_there: bool = True) -> None:
    """Replace text that must be there: an edit that finds nothing would test the unedited file."""
    text = path.read_text()
    missing = [old for old in edits if old not in text]
    if missing and all_there:
        raise ValueError(f"{path.name} holds no {missing}")
    # In one pass: what one edit writes is not what another one seeks.
    path.write_text(re.sub("|".join(map(re.escape, edits)), lambda found: edits[found[0]], text))


@dataclass(frozen=True)
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def seen(self, name: str) -> list[str]:
        """Return what the server behind the edge received under this header name."""
        return [value for key, value in json.loads(self.body)["headers"] if key.lower() == name.lower()]


@dataclass(frozen=True)
class Edge:
    """A running nginx or Caddy."""

    name: str
    public: int
    internal: int
    peers: int
    folder: Path
    pid: int = 0

    @property
    def certificate(self) -> Path:
        """What clients verify it by."""
        return self.folder / "tls.crt"

    @property
    def output(self) -> Path:
        """Everything it said on both streams."""
        return self.folder / "output"

    def connect(
        self,
        protocols: Sequence[str] = ("http/1.1",),
        *,
        port: int = 0,
        host: str = "127.0.0.1",
        identity: Path | None = None,
    ) -> ssl.SSLSocket:
        """Return a connection to the public port or another, with a client's certificate and key if it has one."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        context.set_alpn_protocols(list(protocols))
        if identity is not None:
            context.load_cert_chain(identity)
        plain = socket.create_connection((host, port or self.public), DEADLINE)
        return context.wrap_socket(plain, server_hostname="localhost")

    @contextlib.contextmanager
    def open(
        self,
        method: str,
        path: str,
        *,
        headers: Headers = (),
        body: bytes | None = None,
        internal: bool = False,
        on: ssl.SSLSocket | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a request as it stands, for its answer still unread: nothing is normalised on the way."""
        # Over TLS the host is the name in the certificate: Caddy compares them where clients show one as well.
        connection = http.client.HTTPConnection(
            "127.0.0.1" if internal else "localhost", self.internal, timeout=DEADLINE
        )
        if not internal:
            connection.sock = on or self.connect()
        names = {name.lower() for name, _ in headers}
        connection.putrequest(method, path, skip_host="host" in names, skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value)
        if body is not None and not {"content-length", "transfer-encoding"} & names:
            connection.putheader("Content-Length", str(len(body)))
        # A refusal may come before the body went out.
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            connection.endheaders(body)
        with contextlib.closing(connection), connection.getresponse() as response:
            yield response

    def request(
        self,
        method: str,
        path: str,
        *,
        headers: Headers = (),
        body: bytes | None = None,
        internal: bool = False,
        on: ssl.SSLSocket | None = None,
    ) -> Answer:
        """Return the answer, from the public listener, the internal one, or at the end of a connection."""
        with self.open(method, path, headers=headers, body=body, internal=internal, on=on) as response:
            return Answer(response.status, response.getheaders(), response.read())

    def exchange(self, request: bytes) -> bytes:
        """Send raw bytes and return everything until the edge closes the connection."""
        with self.connect() as connection:
            connection.sendall(request)
            answer = b""
            while part := connection.recv(65536):
                answer += part
            return answer

    def access_line(self, request_id: str) -> dict[str, Any]:
        """Wait for the access log's line of this request."""
        until = time.monotonic() + DEADLINE
        while time.monotonic() < until:
            for line in self.output.read_text().splitlines():
                if request_id in line:
                    entry: dict[str, Any] = json.loads(line)
                    return entry
            time.sleep(0.02)
        raise TimeoutError(f"no line about {request_id} in {self.output.read_text()}")


@contextlib.contextmanager
def running(
    name: str,
    upstream: int,
    *,
    edits: Mapping[str, str] | None = None,
    drop_ins: Mapping[str, str] | None = None,
    client_ca: Path | None = None,
    read_only_root: bool = False,
    like: Edge | None = None,
) -> Iterator[Edge]:
    """Run one edge in front of port `upstream` as an unprivileged user, and stop it at the end.

    It shows the certificate of the edge `like`, as all edges of one server do, or one of its own.
    """
    folder = Path(tempfile.mkdtemp(prefix="edge-"))
    process: subprocess.Popen[bytes] | None = None
    try:
        render(folder)
        if like is None:
            make_certificate(folder)
        else:
            for file_name in ("tls.key", "tls.crt"):
                shutil.copy(like.folder / file_name, folder)
        edge = Edge(name, free_port(), free_port(), free_port(), folder)
        config = folder / CONFIGS[name]
        if edits:
            edit(config, edits)
        (config.parent / "conf.d").mkdir(exist_ok=True)
        for file_name, text in (drop_ins or {}).items():
            (config.parent / "conf.d" / file_name).write_text(text)
        if client_ca is not None:
            (folder / "client-ca").mkdir()
            shutil.copy(client_ca, folder / "client-ca" / "ca.crt")
        place(config, edge, upstream)
        process = start(edge, config, read_only_root=read_only_root)
        wait_until_open(edge, process)
        yield replace(edge, pid=process.pid)
    finally:
        if process is not None:
            stop(process)
        shutil.rmtree(folder)


def place(config: Path, edge: Edge, upstream: int) -> None:
    """Move ports and paths so that edges can run side by side on any machine."""
    folder = edge.folder
    moves = {
        "8443": str(edge.public),
        "9090": str(edge.internal),
        "9443": str(edge.peers),
        "127.0.0.1:8080": f"127.0.0.1:{upstream}",
        "/etc/edge/tls/": f"{folder}/",
        " /tmp/": f" {folder}/scratch/",
    }
    edit(config, moves)
    for drop_in in (config.parent / "conf.d").glob("*.*.*"):
        edit(drop_in, moves | {"/etc/edge/client-ca/": f"{folder}/client-ca/"}, all_there=False)
    (folder / "scratch").mkdir()
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    (folder / "scratch").chmod(0o777)


def command(name: str, config: Path, *, check: bool = False) -> list[str]:
    if name == "nginx":
        return [program("nginx"), "-e", "stderr", "-c", str(config), *(["-t"] if check else ["-g", "daemon off;"])]
    return [program("caddy"), "validate" if check else "run", "--adapter", "caddyfile", "--config", str(config)]


def start(edge: Edge, config: Path, *, read_only_root: bool) -> subprocess.Popen[bytes]:
    arguments = command(edge.name, config)
    user = NOBODY if os.geteuid() == 0 else None
    if read_only_root:
        scratch = config.parents[1] / "scratch"
        script = f"mount --bind {scratch} {scratch}; mount -o remount,bind,ro /; "
        script += f'exec unshare --user --map-user={NOBODY} --map-group={NOBODY} -- "$@"'
        # A user namespace gives everybody the right to mount, in a tree of their own.
        arguments = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", script, "sh", *arguments]
    with edge.output.open("wb") as output:
        edge.output.chmod(0o666)  # nginx opens its standard output by name
        return subprocess.Popen(
            arguments,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={"HOME": "/nonexistent"},
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(DEADLINE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_until_open(edge: Edge, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + DEADLINE
    for port in (edge.public, edge.internal, edge.peers):
        while socket.socket().connect_ex(("127.0.0.1", port)) != 0:
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{edge.name} does not run: {edge.output.read_text()}")
            time.sleep(0.02)
