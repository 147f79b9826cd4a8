"""A real PostgreSQL in its own folder, run as an unprivileged user, with an owner's and a server's role."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.ports import free_port

_START_SECONDS = 30.0
OWNER, SERVER, DATABASE = "notes_owner", "notes_server", "notes"


def _program(name: str) -> str:
    """Return the path of a program of the newest PostgreSQL here; Debian keeps them off PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    path = str(found[-1]) if found else shutil.which(name)
    assert path, f"{name} is missing: apt-get install postgresql"
    return path


def _as_nobody(command: Sequence[str]) -> list[str]:
    """Return `command` for a user that is not root: PostgreSQL refuses to serve as root."""
    if os.geteuid() != 0:
        return list(command)
    nobody = pwd.getpwnam("nobody")
    return ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups", *command]


class Postgres:
    """One server process.

    Args:
        folder: Where it keeps everything; below a folder that other users may enter.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, role: str) -> str:
        """Where it listens, for `role`, as `MCP_DATABASE_URL` wants it."""
        return f"postgresql://{role}:{role}@127.0.0.1:{self.port}/{DATABASE}"

    @property
    def pid(self) -> int:
        """Its first process."""
        assert self._process is not None, "PostgreSQL does not run"
        return self._process.pid

    @property
    def log(self) -> str:
        """What it wrote: every statement with the application's name."""
        return (self._folder / "log").read_text(encoding="utf-8")

    def start(self) -> None:
        """Start, and return when it answers."""
        data = self._folder / "data"
        settings = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
            "log_statement": "all",
            "log_line_prefix": "%a|",
        }
        options = [f"-c{name}={value}" for name, value in settings.items()]
        with (self._folder / "log").open("ab") as log:
            command = _as_nobody([_program("postgres"), "-D", str(data), *options])
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        end = time.monotonic() + _START_SECONDS
        while not self._answers():
            assert self._process.poll() is None, self.log
            assert time.monotonic() < end, "PostgreSQL does not answer"
            time.sleep(0.05)

    def _answers(self) -> bool:
        asked = [_program("pg_isready"), "--quiet", "--host=127.0.0.1", f"--port={self.port}"]
        return subprocess.run(asked).returncode == 0

    def prepare(self) -> None:
        """Make the files of a new server, its roles and its database."""
        self._folder.mkdir(parents=True)
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(self._folder, nobody.pw_uid, nobody.pw_gid)
        made = [
            _program("initdb"),
            "--auth=trust",
            "--username=postgres",
            "--no-sync",
            "-D",
            str(self._folder / "data"),
        ]
        subprocess.run(_as_nobody(made), check=True, capture_output=True, cwd="/")
        self.start()
        for role in (OWNER, SERVER):
            self.ask(f"CREATE ROLE {role} LOGIN PASSWORD '{role}' NOSUPERUSER", database="postgres")
        self.ask(f"CREATE DATABASE {DATABASE} OWNER {OWNER}", database="postgres")

    def ask(self, statement: str, *, role: str = "postgres", database: str = DATABASE) -> str:
        """Return what one statement prints, without decoration."""
        where = ["--host=127.0.0.1", f"--port={self.port}", f"--username={role}", f"--dbname={database}"]
        command = [_program("psql"), "--no-psqlrc", "--tuples-only", "--no-align", *where, f"--command={statement}"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def stop(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = None


@contextmanager
def running(folder: Path) -> Iterator[Postgres]:
    """Run a PostgreSQL for as long as the context lasts."""
    postgres = Postgres(folder)
    postgres.prepare()
    try:
        yield postgres
    finally:
        postgres.stop()
