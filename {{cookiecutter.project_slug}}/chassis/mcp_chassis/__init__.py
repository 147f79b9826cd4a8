"""What a tool author uses; everything else here belongs to the chassis."""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mcp_chassis.environment import ServerSettings
    from mcp_chassis.errors import ToolFailure
    from mcp_chassis.policy import PerDay, Rate
    from mcp_chassis.request import Caller
    from mcp_chassis.server import Server

__all__ = ["Caller", "PerDay", "Rate", "Server", "ServerSettings", "ToolFailure"]

_HOMES: Final = {
    "Caller": "request",
    "PerDay": "policy",
    "Rate": "policy",
    "Server": "server",
    "ServerSettings": "environment",
    "ToolFailure": "errors",
}


def __getattr__(name: str) -> object:
    """Load what is asked for: `python -m mcp_chassis.alive` runs every few seconds and needs none of it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
