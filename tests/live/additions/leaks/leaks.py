"""Tools whose authors do all that brings an argument into a log, on purpose and by accident."""

import asyncio
import contextlib
import logging
import os
import subprocess
import sys
import threading
import traceback
import warnings
from typing import Any

import anyio
import structlog
from mcp.server.mcpserver import Context
from sqlalchemy import text as sql

from mcp_chassis import ToolFailure, downstream

from ..server import server

_url = os.environ.get("ELSEWHERE", "http://127.0.0.1:1")
elsewhere = downstream.client("elsewhere", base_url=_url)
failing = downstream.client("failing", base_url=_url)
holder = downstream.client("holder", base_url=_url)
database = server.database()
_tasks: set[asyncio.Task[None]] = set()


async def answer(text: str, data: Any) -> str:
    return f"{text} {data}"


async def fail(text: str, data: Any) -> None:
    raise ToolFailure(f"no room for {text} {data}")


async def crash(text: str, data: Any) -> None:
    raise RuntimeError(f"cannot take {text}", data)


async def crash_from(text: str, data: Any) -> None:
    try:
        raise KeyError(text)
    except KeyError as error:
        error.add_note(f"note {text}")
        raise ValueError(text, data) from error


async def crash_in_a_group(text: str, data: Any) -> None:
    raise ExceptionGroup(text, [ValueError(text), OSError(5, text, str(data))])


async def leave(text: str, data: Any) -> None:
    sys.exit(f"{text} {data}")


async def hang(text: str, data: Any) -> None:
    try:
        await anyio.sleep(60)
    finally:
        logging.getLogger("leaks").error("stopped with %s %s", text, data)


async def standard_logger(text: str, data: Any) -> None:
    logging.getLogger(f"leaks.{text[:60]}").error("got %s %r", text, data, extra={"tool_name": text})
    logging.error(f"got {text}")
    try:
        raise ValueError(text)
    except ValueError:
        logging.exception("got %s", text, stack_info=True)


async def structured_logger(text: str, data: Any) -> None:
    structlog.get_logger(text).bind(reason=text).error(text, tool_name=text, data=data)


async def warning(text: str, data: Any) -> None:
    warnings.warn(f"{text} {data}", UserWarning, stacklevel=1)


async def printing(text: str, data: Any) -> None:
    print(text, data)
    print(text, data, file=sys.stderr, flush=True)


async def original_streams(text: str, _data: Any) -> None:
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            print(text.encode(errors="replace"), file=stream, flush=True)


async def descriptors(text: str, _data: Any) -> None:
    os.write(1, text.encode(errors="replace")[:4000] + b"\n")
    os.write(2, text.encode(errors="replace")[:4000])


async def child(text: str, _data: Any) -> None:
    given = text.encode(errors="replace")
    await asyncio.to_thread(subprocess.run, ["sh", "-c", "tee /dev/stderr"], input=given, check=True)


async def printed_traceback(text: str, data: Any) -> None:
    try:
        raise ValueError(text, data)
    except ValueError:
        traceback.print_exc()
        traceback.print_exc(file=sys.stdout)


async def forgotten_task(text: str, data: Any) -> None:
    async def forgotten() -> None:
        raise ValueError(text, data)

    task = asyncio.get_running_loop().create_task(forgotten(), name=text[:60])
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    await asyncio.sleep(0)


async def callback(text: str, data: Any) -> None:
    def called() -> None:
        raise ValueError(text, data)

    asyncio.get_running_loop().call_soon(called)
    await asyncio.sleep(0)


async def thread(text: str, data: Any) -> None:
    def run() -> None:
        raise ValueError(text, data)

    dying = threading.Thread(target=run, name=text[:60].encode(errors="replace").decode())
    dying.start()
    dying.join()


async def finalizer(text: str, _data: Any) -> None:
    class Fragile:
        def __del__(self) -> None:
            raise ValueError(text)

    Fragile()


async def exception_named_after_it(text: str, _data: Any) -> None:
    raise type(text[:60].replace("\0", ""), (ValueError,), {"__module__": text[:60]})


async def broken_statement(text: str, _data: Any) -> None:
    async with database.session() as session:
        await session.execute(sql("SELECT * FROM nothing_of_the_kind WHERE x = :given"), {"given": text})


async def statement_of_text(text: str, _data: Any) -> None:
    async with database.session() as session:
        await session.execute(sql("SELECT '" + text[:50].replace("'", "").replace(":", "") + "' FROM nothing"))


async def reached(text: str, _data: Any) -> None:
    await elsewhere.get("/ok", params={"q": text[:500].encode(errors="replace")})


async def upstream_error(text: str, _data: Any) -> None:
    answered = await failing.post("/fail", params={"q": text[:500].encode(errors="replace")}, json={"q": text[:50]})
    answered.raise_for_status()


async def unreachable(text: str, _data: Any) -> None:
    client = downstream.client("nowhere", base_url="http://127.0.0.1:1", timeout=1)
    await client.post("/", params={"q": text[:500].encode(errors="replace")})


async def limited(text: str, data: Any) -> None:
    logging.error("%s %s", text, data)


WAYS = [
    *(answer, fail, crash, crash_from, crash_in_a_group, leave, hang, standard_logger, structured_logger, warning),
    *(printing, original_streams, descriptors, child, printed_traceback, forgotten_task, callback, thread, finalizer),
    *(exception_named_after_it, broken_statement, statement_of_text, reached, upstream_error, unreachable, limited),
]


def register(way: Any) -> None:
    @server.tool(name=f"leak_{way.__name__}", timeout=0.3 if way is hang else 10)
    async def leak(text: str, context: Context, data: Any = None) -> str:
        """Leak what it was given."""
        with contextlib.suppress(UnicodeError):
            await context.report_progress(1, 2, text)
        return str(await way(text, data))


for _way in WAYS:
    register(_way)


@server.tool()
async def hold(text: str) -> str:
    """Wait for somebody who does not answer."""
    await holder.post("/hold", content=text)
    return text
