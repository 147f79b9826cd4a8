"""What is declared with a tool beside its signature."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mcp_chassis.environment import Problem
from mcp_chassis.request import EVERY_SCOPE, PROBE_SCOPE

_TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")
"""What every client can send, log and show (2026-07-28, tool names)."""
_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,128}")
_RESERVED: Final = frozenset({EVERY_SCOPE, PROBE_SCOPE})


@dataclass(frozen=True, slots=True)
class ToolPolicy:
    """The rules of one tool.

    Args:
        timeout: Seconds one call may take; None is the server's longest (E5).
        scopes: What a caller must hold, all of it (A11).

    Raises:
        ValueError: If the timeout is not above 0, or a scope is not one word of RFC 6749, 3.3, or one of ours.
    """

    timeout: float | None = None
    scopes: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.timeout is not None and not self.timeout > 0:
            raise ValueError(f"timeout is {self.timeout} s; it must be above 0")
        if bad := sorted(scope for scope in self.scopes if not _SCOPE.fullmatch(scope) or scope in _RESERVED):
            raise ValueError(f"{bad[0]!r} cannot be a tool's scope; use one word, like notes:write")


def check_name(name: str, *, taken: bool) -> None:
    """Refuse a name that a client could not use.

    Raises:
        ValueError: If the name is malformed or taken.
    """
    if not _TOOL_NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot be a tool's name; use 1 to 128 of A-Z, a-z, 0-9, _, . and -, like add_note")
    if taken:
        raise ValueError(f"two tools are named {name}; give one of them another name=")


def too_long(policies: Mapping[str, ToolPolicy], longest: float) -> list[Problem]:
    """Return the tools that may take longer than the whole server's longest call (T8).

    Args:
        policies: By the tool's name.
        longest: Seconds, from `MCP_TOOL_TIMEOUT`.
    """
    return [
        Problem(
            "MCP_TOOL_TIMEOUT",
            f"{longest:g}",
            f"must be at least {policy.timeout:g}, which the tool {name} declares: raise it everywhere at once with "
            f"copier update --data tool_timeout={math.ceil(policy.timeout)}",
        )
        for name, policy in policies.items()
        if policy.timeout is not None and policy.timeout > longest
    ]
