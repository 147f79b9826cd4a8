"""What a tool author uses; everything else here belongs to the chassis."""

from mcp_chassis.environment import ServerSettings
from mcp_chassis.errors import ToolFailure
from mcp_chassis.request import Caller
from mcp_chassis.server import Server

__all__ = ["Caller", "Server", "ServerSettings", "ToolFailure"]
