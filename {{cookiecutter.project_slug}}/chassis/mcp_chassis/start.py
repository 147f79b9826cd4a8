"""What every way of starting a server does first: settings, logs, tools; nothing opens before they are right (S1)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal, TextIO

import anyio

from mcp_chassis import request as requests
from mcp_chassis.environment import ConfigurationError, Problem, ServerSettings, load, unknown_variables
from mcp_chassis.fetching import Fetcher
from mcp_chassis.pins import LOCK, Unpinnable, read_lock
from mcp_chassis.request import Caller
from mcp_chassis.resources import Copies, Resources, use
from mcp_chassis.server import Server
from mcp_chassis.settings import Settings
from mcp_chassis.telemetry.gate import configure, log_crashes, own_stream
from mcp_chassis.telemetry.logging import log


def start(server: Server, *, stream: TextIO) -> Settings:
    """Read the environment, open the log on `stream` and import the tools.

    Raises:
        ConfigurationError: If the environment does not make this server.
    """
    settings, own = load(Settings, *server.own_settings)
    for loaded in own:
        ServerSettings.use(loaded)
    stream = own_stream(stream)
    configure(
        style=settings.log_format or _style(settings, stream),
        level=settings.log_level,
        trusted=settings.log_trusted_loggers,
        stream=stream,
    )
    log.payloads = settings.log_payloads
    if settings.log_payloads:
        log.warning("payloads_logged", hint="lines hold arguments and texts; production refuses this")
    for name, nearest in unknown_variables(Settings, *server.own_settings):
        log.warning("unknown_variable", variable=name, nearest=nearest or "", hint="nothing reads it")
    server.prepare(settings)
    speaker = Caller(settings.stdio_caller, settings.stdio_tenant, frozenset(settings.stdio_scopes))
    requests.local_caller.set(speaker)
    # From here on callers' data is near; before, the text of a failed import helps its author.
    log_crashes()
    return settings


def pinned(server: Server, settings: Settings) -> Resources:
    """Return the pinned resources of `server`, each with a verified copy (C1).

    Raises:
        ConfigurationError: If one has none, or the lock is wrong.
    """
    try:
        pins = read_lock()
    except Unpinnable as error:
        raise ConfigurationError([Problem(str(LOCK), None, str(error))]) from None
    cache = settings.resource_cache or Path(tempfile.gettempdir()) / f"{server.name}-resources"
    fetcher = Fetcher(internal_hosts=settings.resource_hosts)
    resources = Resources(pins, copies=Copies(cache), fetcher=fetcher, interval=settings.resource_interval)
    if pins:
        anyio.run(resources.prepare)
    use(resources)
    return resources


def _style(settings: Settings, stream: TextIO) -> Literal["json", "console"]:
    return "console" if settings.environment == "development" and stream.isatty() else "json"
