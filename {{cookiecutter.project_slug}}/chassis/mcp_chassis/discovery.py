"""What a server finds out about its own package: its name, and its tools (S1)."""

from __future__ import annotations

import importlib
import pkgutil
import traceback
from importlib import metadata
from pathlib import Path
from types import ModuleType

from mcp_chassis.environment import ConfigurationError, Problem


def import_tools(package: ModuleType) -> None:
    """Import all modules of `package`, subpackages included.

    Raises:
        ConfigurationError: If one fails, or a folder would be passed over in silence.
    """
    folders = [Path(folder) for folder in package.__path__]
    problems = [
        Problem(str(_shown(path.parent, folder)), None, "holds modules and no __init__.py, so nothing would serve them")
        for folder in folders
        for path in sorted(folder.rglob("*.py"))
        if path.parent != folder and not (path.parent / "__init__.py").is_file()
    ]
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.", onerror=lambda _name: None):
        try:
            importlib.import_module(found.name)
        except ConfigurationError:
            raise
        except Exception as error:
            problems.append(_problem(error, folders[0]))
    if problems:
        raise ConfigurationError(list(dict.fromkeys(problems)))


def _problem(error: Exception, folder: Path) -> Problem:
    """Name the author's line: the last one of the failure that is theirs."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return Problem(f"{_shown(Path(error.filename), folder)}:{error.lineno}", None, f"SyntaxError: {error.msg}")
    frames = traceback.extract_tb(error.__traceback__)
    source = folder.parent
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(source)]
    last = (own or list(frames))[-1]
    return Problem(f"{_shown(Path(last.filename), folder)}:{last.lineno}", None, f"{type(error).__name__}: {error}")


def _shown(path: Path, folder: Path) -> Path:
    """Return a path as it is called inside the project."""
    source = folder.parent.parent
    return path.relative_to(source) if path.is_relative_to(source) else path


def identity_of(name: str | None, package: str | None) -> tuple[str, str, str | None]:
    """Return the name, version and summary to tell clients.

    Raises:
        ValueError: If there is neither a name nor a package to take it from.
    """
    if package is None:
        if name is None:
            raise ValueError('give the server a name, Server("notes"), or its tools, Server(tools=tools)')
        return name, "0", None
    found = metadata.metadata(package)
    return name or found["Name"], found["Version"], found["Summary"]
