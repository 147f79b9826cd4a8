"""Limits that no test reaches by accident, and patience with a Redis that shares the machine with many tests."""

from __future__ import annotations

from typing import Final

UNLIMITED: Final = {
    "caller_limit": "100000/100000",
    "tool_limit": "100000/100000",
    "session_limit": "100000/100000",
    "session_limit_per_caller": "100000/100000",
    "max_sessions_per_caller": "1000",
    "suspension_refusals": "0",
    "state_timeout": "2",
}
"""Settings by name; as variables they are called `MCP_` and the name in capitals."""
VARIABLES: Final = {f"MCP_{name.upper()}": value for name, value in UNLIMITED.items()}
