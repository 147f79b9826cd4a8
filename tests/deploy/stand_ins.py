"""One image with what the other images of compose.yaml hold, from this machine's programs: nothing is fetched."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.deploy.images import Images
from tests.live.edges import program

IMAGE: Final = "localhost/stand-ins"
_PROGRAMS: Final = ("busybox", "caddy", "nginx", "prometheus", "redis-cli", "redis-server")
_TOOLS: Final = ("sh", "sed", "wget", "cat", "echo")
"""What busybox plays here."""
_USERS: Final = "root:x:0:0::/:/bin/sh\ndatabase:x:70:70::/var/lib/postgresql:/bin/sh\n"
_DOCKERFILE: Final = """\
FROM scratch
COPY . /
# Owners as in the images that these folders come from: a new volume takes them over.
RUN ["/bin/busybox", "chown", "-R", "70:70", "/var/lib/postgresql"]
RUN ["/bin/busybox", "chown", "999:1000", "/data"]
RUN ["/bin/busybox", "chown", "65534:65534", "/prometheus"]
ENV PATH=/bin:/usr/lib/postgresql/bin
"""
_FIRST_START: Final = """\
#!/bin/sh
# What PostgreSQL's own image does at its first start, as far as compose.yaml leans on it.
set -eu
export PGDATA=/var/lib/postgresql/data
initdb --no-sync --username=postgres --auth-local=trust --auth-host=scram-sha-256 --pwfile="$POSTGRES_PASSWORD_FILE"
echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
pg_ctl --wait --options="-c listen_addresses=''" start
for script in /docker-entrypoint-initdb.d/*.sql; do
  psql --no-psqlrc --set ON_ERROR_STOP=1 --username=postgres --file="$script"
done
pg_ctl --wait --mode=fast stop
exec postgres -c listen_addresses='*'
"""
POSTGRES: Final = ["/bin/postgres-first-start"]


def provide(images: Images) -> None:
    """Put the image into the store."""
    tree = images.folder / "stand-ins"
    for name in (
        "bin",
        "data",
        "prometheus",
        "tmp",
        "var/run/postgresql",
        "var/lib/postgresql/data",
        "etc",
        "proc",
        "dev",
        "sys",
    ):
        (tree / name).mkdir(parents=True, exist_ok=True)
    for name in ("tmp", "var/run/postgresql"):
        (tree / name).chmod(0o1777)  # podman gives a tmpfs the mode of what it covers
    for name in _PROGRAMS:
        shutil.copy(Path(program(name)).resolve(), tree / "bin" / name)
    for name in _TOOLS:
        (tree / "bin" / name).symlink_to("busybox")
    (tree / "etc" / "passwd").write_text(_USERS, encoding="utf-8")
    (tree / "bin" / "postgres-first-start").write_text(_FIRST_START, encoding="utf-8")
    (tree / "bin" / "postgres-first-start").chmod(0o755)
    _postgres(tree)
    for library in sorted(set(_libraries(tree))):
        target = tree / library.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)
    (tree.parent / "stand-ins.Dockerfile").write_text(_DOCKERFILE, encoding="utf-8")
    built = images.build(tree, IMAGE, file="../stand-ins.Dockerfile")
    assert built.returncode == 0, built.stdout


def _postgres(tree: Path) -> None:
    """Copy the newest PostgreSQL of this machine to where it looks for its own files."""
    home = max(Path("/usr/lib/postgresql").glob("*"), key=lambda path: int(path.name))
    for part in (home, Path("/usr/share/postgresql") / home.name):
        ignored = shutil.ignore_patterns("bitcode", "man", "pgxs")
        shutil.copytree(part, tree / part.relative_to("/"), symlinks=False, ignore=ignored)
    (tree / "usr/lib/postgresql/bin").symlink_to(home / "bin")


def _libraries(tree: Path) -> Iterator[Path]:
    """Yield what the programs in the tree are linked with."""
    for path in (*(tree / "bin").iterdir(), *(tree / "usr" / "lib").rglob("*")):
        if path.is_file() and not path.is_symlink() and (path.suffix == ".so" or path.parent.name == "bin"):
            found = subprocess.run(["ldd", str(path)], capture_output=True, text=True).stdout
            yield from map(Path, re.findall(r"(/\S+) \(0x", found))
