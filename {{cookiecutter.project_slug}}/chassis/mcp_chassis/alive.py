"""Ask the server on this machine whether it lives, or is ready: for a container's health check and exec probes.

    python -m mcp_chassis.alive [live | ready]

It loads nothing of the server, because it runs every few seconds beside it.
"""

from __future__ import annotations

import os
import sys
from http.client import HTTPConnection, HTTPException

_QUESTIONS = ("live", "ready")
_SECONDS = 3.0


def main(arguments: list[str]) -> int:
    """Return 0 for yes, 1 for no, 2 for a question that nobody understands."""
    question = arguments[0] if arguments else "live"
    if question not in _QUESTIONS or len(arguments) > 1:
        print("usage: python -m mcp_chassis.alive [live | ready]", file=sys.stderr)
        return 2
    host, port = os.environ.get("MCP_HOST", "127.0.0.1"), int(os.environ.get("MCP_PORT", "8080"))
    connection = HTTPConnection(host, port, timeout=_SECONDS)
    try:
        connection.request("GET", f"/health/{question}")
        answer = connection.getresponse()
        told = answer.read().decode("utf-8", "replace")
    except (OSError, HTTPException) as error:
        print(f"no answer from {host}:{port} ({type(error).__name__})", file=sys.stderr)
        return 1
    finally:
        connection.close()
    print(told)
    return 0 if answer.status == 200 else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
