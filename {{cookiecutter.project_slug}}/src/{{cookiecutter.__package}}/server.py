"""The server: what it is called, what a model is told about it, where its tools are.

Name, version and summary come from `pyproject.toml`. Every module in `tools/` is imported at start:
a new file there is served without being listed anywhere.
"""

from mcp_chassis import Server

from . import tools
from .settings import Settings

server = Server(
    instructions="Keeps short notes. Search before you add, so that nothing is written down twice.",
    settings=Settings,
    tools=tools,
)
