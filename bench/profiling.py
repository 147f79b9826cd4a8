"""The generated server under a profiler while it serves: `python -m bench.profiling MODULE FILE`.

It runs with the project's own interpreter, so it imports nothing but the chassis and what that serves with. The
profiler sees the thread of the event loop, from the moment the server listens until it is asked to stop; start-up and
drain are left out.
"""

from __future__ import annotations

import cProfile
import sys
from importlib import import_module

import uvicorn

from mcp_chassis.serve import serve


def profile(file: str) -> None:
    """Leave in `file` what the main loop of the server, and all that runs beside it, takes."""
    inside = uvicorn.Server.main_loop
    profiler = cProfile.Profile()

    async def main_loop(self: uvicorn.Server) -> None:
        profiler.enable()
        try:
            await inside(self)
        finally:
            profiler.disable()
            profiler.dump_stats(file)

    setattr(uvicorn.Server, "main_loop", main_loop)  # noqa: B010


if __name__ == "__main__":
    module, file = sys.argv[1:]
    profile(file)
    serve(import_module(module).server)
