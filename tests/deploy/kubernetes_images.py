"""Stand-ins for the edges' own images, from this machine's programs: nothing is fetched.

What matters of the real ones is kept: where the program is, the signal that ends it, and the file capability that
caddy carries.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Final

from tests.deploy.images import Images
from tests.live.edges import program

SIGNALS: Final = {"nginx": "SIGQUIT", "caddy": "SIGTERM"}
"""What the images' `STOPSIGNAL` is."""
_BINDS_LOW_PORTS: Final = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
"""`cap_net_bind_service=ep`, as the kernel keeps it with a file."""


def provide(images: Images, name: str, tag: str) -> None:
    """Put the stand-in for `name` into the store."""
    tree = images.folder / name
    binary = tree / "usr" / "bin" / name
    for folder in ("usr/bin", "etc", "tmp", "proc", "sys", "dev"):
        (tree / folder).mkdir(parents=True)
    (tree / "tmp").chmod(0o1777)
    source = Path(program(name)).resolve()
    shutil.copy(source, binary)
    libraries = subprocess.run(["ldd", str(source)], capture_output=True, text=True, check=False).stdout
    for library in map(Path, re.findall(r"(/\S+) \(0x", libraries)):
        (tree / library.relative_to("/")).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, tree / library.relative_to("/"))
    dockerfile = f"FROM scratch\nCOPY . /\nENV PATH=/usr/bin\nSTOPSIGNAL {SIGNALS[name]}\n"
    (images.folder / f"{name}.Dockerfile").write_text(dockerfile, encoding="utf-8")
    if name == "caddy":
        os.setxattr(binary, "security.capability", _BINDS_LOW_PORTS)
    file = str(images.folder / f"{name}.Dockerfile")
    images.podman("build", "--quiet", f"--file={file}", f"--tag=localhost/{name}:{tag}", str(tree))
