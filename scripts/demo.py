"""`make demo`: a server from nothing, in both protocol eras, as a transcript.

It renders a project with the default answers, starts it as a process of its own, lets the official client and curl talk
to it, and stops it. It exits with 1 if anything was not as the transcript claims.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue
from typing import Any, Final

import anyio
import copier
import httpx2
from mcp import Client
from mcp_types import TextContent

ROOT: Final = Path(__file__).resolve().parents[1]
SLUG: Final = "acme-notes"
PATIENCE: Final = 30.0
"""Seconds that any single step may take before the demo gives up."""

COLOUR: Final = sys.stdout.isatty() and "NO_COLOR" not in os.environ


class Off(Exception):
    """Something was not as the transcript claims."""


def paint(text: str, code: str) -> str:
    """Return `text` in a colour where somebody can see it."""
    return f"\033[{code}m{text}\033[0m" if COLOUR else text


def heading(text: str) -> None:
    """Begin a section of the transcript."""
    print(f"\n{paint(text, '1')}\n", flush=True)


def say(text: str) -> None:
    """Write a line of the transcript."""
    print(f"  {text}", flush=True)


def expect(what: str, *, holds: bool) -> None:
    """Tick off a claim, or stop."""
    if not holds:
        raise Off(what)
    say(f"{paint('✓', '32')} {what}")


@contextmanager
def step(text: str) -> Iterator[None]:
    """Show what is being done and how long it took."""
    print(f"  {text} … ", end="", flush=True)
    started = time.monotonic()
    yield
    print(paint(f"{time.monotonic() - started:.1f} s", "2"), flush=True)


class Process:
    """The rendered server, running."""

    def __init__(self, project: Path) -> None:
        command = [str(project / ".venv/bin" / SLUG), "serve"]
        variables = {name: value for name, value in os.environ.items() if not name.startswith(("MCP_", "NOTES_"))}
        self._process = subprocess.Popen(
            command, cwd=project, env=variables | {"MCP_PORT": "0"}, stdout=subprocess.PIPE, text=True
        )
        self.output: list[str] = []
        self._lines: Queue[dict[str, Any]] = Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.started = self.wait_for("server_started")
        self.url = str(self.started["url"])

    def _read(self) -> None:
        for line in self._process.stdout or ():
            self.output.append(line)
            self._lines.put(json.loads(line))

    def wait_for(self, event: str) -> dict[str, Any]:
        """Return the next log line of this event."""
        try:
            while (line := self._lines.get(timeout=PATIENCE))["event"] != event:
                pass
        except Empty:
            raise Off(f"the server wrote no {event} line within {PATIENCE:.0f} s") from None
        return line

    def stop(self) -> int:
        """Ask the server to end and return its exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(PATIENCE)


def render(folder: Path) -> Path:
    """Render a project with the default answers and install it."""
    project = folder / SLUG
    with step("copier copy --defaults"):
        copier.run_copy(str(ROOT), project, vcs_ref="HEAD", defaults=True, quiet=True)
    with step("uv sync"):
        subprocess.run(["uv", "sync", "--quiet", "--no-dev"], cwd=project, check=True, env=uv_environment())
    return project


def uv_environment() -> dict[str, str]:
    """Return variables that keep uv on the project's own environment."""
    return {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}


async def talk(url: str, era: str) -> None:
    """Let the official client list the tools, write a note, find it, and break a rule."""
    async with Client(url, mode="legacy" if era == "handshake" else "2026-07-28") as client:
        tools = [tool.name for tool in (await client.list_tools()).tools]
        say(f"list_tools → {', '.join(tools)}")
        expect("the tools are there", holds={"add_note", "search_notes", "countdown", "ping"} <= set(tools))
        await client.call_tool("add_note", {"text": f"Written in the {era} era"})
        found = await client.call_tool("search_notes", {"query": f"the {era} era"})
        say(f"add_note, then search_notes → {json.dumps(found.structured_content)}")
        expect("the note is found again", holds=f"the {era} era" in json.dumps(found.structured_content))
        refused = await client.call_tool("add_note", {"text": 5})
        text = refused.content[0].text if isinstance(refused.content[0], TextContent) else ""
        say(f"add_note with text=5 → {text}")
        told = text.endswith("text must be a valid string")
        expect("a wrong argument is refused with the field and the rule", holds=told)


def show_stream(url: str) -> None:
    """Let curl show that events arrive one by one."""
    message = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {
            "name": "countdown",
            "arguments": {"seconds": 1.5, "steps": 3},
            "_meta": {
                "progressToken": "demo",
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientCapabilities": {},
            },
        },
    }
    headers = (
        ("Content-Type", "application/json"),
        ("Accept", "text/event-stream"),
        ("MCP-Protocol-Version", "2026-07-28"),
        ("Mcp-Method", "tools/call"),
        ("Mcp-Name", "countdown"),
    )
    command = ["curl", "--silent", "--no-buffer", "--max-time", "20", url, "--data", json.dumps(message)]
    command += [part for name, value in headers for part in ("--header", f"{name}: {value}")]
    say("curl --no-buffer … tools/call countdown(seconds=1.5, steps=3)")
    arrivals = []
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as curl:
        for line in curl.stdout or ():
            if line.startswith("data:"):
                arrivals.append(time.monotonic() - started)
                say(paint(f"{arrivals[-1]:4.1f} s  ", "36") + line.strip())
    expect(f"{len(arrivals)} events arrived", holds=len(arrivals) == 4)
    expect("one by one, not in a batch", holds=arrivals[2] - arrivals[0] > 0.8)


def show_metrics(url: str) -> None:
    """Show the numbers of the calls that were made."""
    lines = httpx2.get(url.removesuffix("/mcp") + "/metrics", timeout=PATIENCE).text.splitlines()
    for line in lines:
        if line.startswith(("mcp_tool_calls_total{", "mcp_progress_calls_total{", "mcp_active_sessions ")):
            say(line)
    expect(
        "the refused calls count as such", holds='mcp_tool_calls_total{status="rejected",tool="add_note"} 2.0' in lines
    )
    expect("no note is a label", holds=not any("Written in" in line for line in lines))


def main() -> int:
    """Run the demo; return its exit code."""
    try:
        with tempfile.TemporaryDirectory(prefix="mcp-chassis-demo-") as folder:
            heading("A project from the template")
            project = render(Path(folder))
            demonstrate(project)
    except (Off, subprocess.CalledProcessError) as error:
        print(f"\n{paint('The demo failed:', '31')} {error}", file=sys.stderr)
        return 1
    print(f"\n{paint('All of it held.', '1;32')} Make one of your own: README.md, “The first hour”.")
    return 0


def demonstrate(project: Path) -> None:
    """Start the server, talk to it, stop it."""
    with step(f"{SLUG} serve"):
        server = Process(project)
    try:
        say(json.dumps(server.started))
        heading("The official client, handshake era (2025)")
        anyio.run(talk, server.url, "handshake")
        heading("The official client, stateless era (2026-07-28)")
        anyio.run(talk, server.url, "stateless")
        heading("An event stream, as curl sees it")
        show_stream(server.url)
        heading("What the server wrote about that call")
        while (line := server.wait_for("tool_called"))["tool_name"] != "countdown":
            pass
        say(json.dumps(line, separators=(",", ":")))
        whole = "".join(server.output)
        expect(f"{whole.count('tool_called')} calls are in the log", holds=whole.count('"tool_called"') == 7)
        expect("no note is: arguments and results never get there", holds="Written in" not in whole)
        heading("What /metrics says")
        show_metrics(server.url)
        heading("The end")
    finally:
        code = server.stop()
    expect(f"SIGTERM ends the server with exit code {code}", holds=code == 0)


if __name__ == "__main__":
    sys.exit(main())
