"""The tool of all contenders, as the user of a generated server writes it."""

from pydantic import BaseModel

from ..server import server


class Echo(BaseModel):
    """What was said."""

    query: str
    limit: int


@server.tool()
async def echo(query: str, limit: int) -> Echo:
    """Say it again."""
    return Echo(query=query, limit=limit)
