"""What a tool author uses; everything else here belongs to the chassis."""

from mcp_chassis.environment import ServerSettings
from mcp_chassis.errors import ToolFailure
from mcp_chassis.limits.rates import PerDay, Rate
from mcp_chassis.request import Caller
from mcp_chassis.server import Server

__all__ = ["Caller", "PerDay", "Rate", "Server", "ServerSettings", "ToolFailure"]
