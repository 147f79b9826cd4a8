"""Turn this process into a program in a network of its own, where given addresses are listened on.

Run as a script below `unshare --net`: namespace.py ADDRESS… -- PROGRAM ARGUMENT…
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
import sys

_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1


def isolated() -> tuple[str, ...]:
    """Return the command that gives a program a network of its own.

    Raises:
        RuntimeError: If this machine lets nobody but root do that.
    """
    for command in (("unshare", "--net"), ("unshare", "--map-root-user", "--net")):
        if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
            return command
    raise RuntimeError(
        "unshare --net is refused: run the tests as root, or allow user namespaces "
        "(sysctl kernel.apparmor_restrict_unprivileged_userns=0)"
    )


def main(*arguments: str) -> None:
    """Open the loopback device, listen, and become the program."""
    split = arguments.index("--")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as device:
        fcntl.ioctl(device, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", _IFF_UP))
    for address in arguments[:split]:
        listener = socket.create_server((address, 0))
        # Held open by the program that takes this process over, and by nothing else.
        os.set_inheritable(listener.detach(), True)
    program = arguments[split + 1 :]
    os.execv(program[0], program)


if __name__ == "__main__":
    main(*sys.argv[1:])
