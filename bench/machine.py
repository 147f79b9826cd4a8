"""On what the numbers were taken."""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Final

_PACKAGES: Final = ("mcp", "uvicorn", "starlette", "pydantic", "structlog", "redis")


def facts() -> dict[str, str]:
    """Return what a reader has to know to compare; nothing that names the machine."""
    found = {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB",
        "load before": f"{os.getloadavg()[0]:.2f}",
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        **{package: version(package) for package in _PACKAGES},
    }
    if shutil.which("redis-server") is not None:
        told = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=False).stdout
        found["redis-server"] = "".join(re.findall(r"v=(\S+)", told))
    return found


def _processor() -> str:
    listed = Path("/proc/cpuinfo")
    text = listed.read_text(encoding="utf-8") if listed.exists() else ""
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return named.group(1) if named else platform.processor() or platform.machine()


def processor_seconds(pid: int) -> float:
    """Return what a process has used of the processor."""
    user, system = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def processor_seconds_of_ended() -> float:
    """Return what all programs have used that this process started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
