"""Run every test; the few that fail while others keep the machine busy are heard once more, alone.

Processes, sockets and proxies of these tests are real, and four run at a time: a test's patience may end before a busy
machine answers. Who fails twice, or beside many others, or counts lost calls, has failed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

_FAILED: Final = Path(".pytest_cache/v/cache/lastfailed")
_TESTS_FAILED: Final = 1
_MOST_HEARD_TWICE: Final = 3
_HEARD_ONCE: Final = "test_rehearsal"


def main() -> int:
    """Return the exit status: pytest's own, or of the second hearing."""
    _FAILED.unlink(missing_ok=True)
    status = subprocess.run(["pytest", "-n", "4", "--dist", "loadgroup", *sys.argv[1:]], check=False).returncode
    failed = list(json.loads(_FAILED.read_text(encoding="utf-8"))) if _FAILED.exists() else []
    if status != _TESTS_FAILED or len(failed) > _MOST_HEARD_TWICE or any(_HEARD_ONCE in name for name in failed):
        return status
    print(f"\nheard once more, alone: {', '.join(failed)}", flush=True)
    return subprocess.run(["pytest", *failed], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
