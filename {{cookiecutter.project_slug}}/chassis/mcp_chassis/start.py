"""What every way of starting a server does first: settings, logs, tools; nothing opens before they are right (S1)."""

from __future__ import annotations

from typing import Final, Literal, TextIO

from mcp_chassis.environment import EnvironmentSettings, ServerSettings, load, unknown_variables
from mcp_chassis.server import Server
from mcp_chassis.settings import Settings
from mcp_chassis.telemetry.logging import configure, log

_PREFIX: Final = "MCP_"


def start(server: Server, *, stream: TextIO) -> Settings:
    """Read the environment, open the log on `stream` and import the tools.

    Raises:
        ConfigurationError: If the environment does not make this server.
    """
    classes: list[type[EnvironmentSettings]] = [Settings]
    if server.own_settings is not None:
        classes.append(server.own_settings)
    settings, *own = load(*classes)
    if not isinstance(settings, Settings):
        raise TypeError("load returns its classes in their order")
    for loaded in own:
        ServerSettings.use(loaded)
    configure(
        style=settings.log_format or _style(settings, stream),
        level=settings.log_level,
        trusted=settings.log_trusted_loggers,
        stream=stream,
    )
    for name, nearest in unknown_variables(_PREFIX, classes):
        log.warning("unknown_variable", variable=name, nearest=nearest or "", hint="nothing reads it")
    server.prepare(settings)
    return settings


def _style(settings: Settings, stream: TextIO) -> Literal["json", "console"]:
    return "console" if settings.environment == "development" and stream.isatty() else "json"
