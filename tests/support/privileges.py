"""Programs that a file's permissions hold for, also where the tests run as root."""

from __future__ import annotations

import os
from collections.abc import Sequence


def without_override(command: Sequence[str]) -> list[str]:
    """Return `command`, without root's right to ignore permissions if it has that."""
    if os.geteuid() != 0:
        return list(command)
    dropped = "-dac_override,-dac_read_search"
    return ["setpriv", f"--bounding-set={dropped}", f"--inh-caps={dropped}", *command]
