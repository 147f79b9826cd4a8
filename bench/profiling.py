"""The generated server under a profiler while it serves: `python -m bench.profiling MODULE FILE`.

It runs with the project's own interpreter, so it imports nothing but the chassis and what that serves with. The
profiler sees the thread of the event loop, from the moment the server listens until it is asked to stop; start-up and
drain are left out.
"""

from __future__ import annotations

import cProfile
import sys
from contextlib import AbstractContextManager
from importlib import import_module
from unittest.mock import patch

import uvicorn

from mcp_chassis.serve import serve


def profile(file: str) -> AbstractContextManager[object]:
    """Return what, while it lasts, leaves in `file` what the server's main loop and all beside it take."""
    inside = uvicorn.Server.main_loop
    profiler = cProfile.Profile()

    async def main_loop(self: uvicorn.Server) -> None:
        profiler.enable()
        try:
            await inside(self)
        finally:
            profiler.disable()
            profiler.dump_stats(file)

    return patch.object(uvicorn.Server, "main_loop", main_loop)


if __name__ == "__main__":
    module, file = sys.argv[1:]
    with profile(file):
        serve(import_module(module).server)
