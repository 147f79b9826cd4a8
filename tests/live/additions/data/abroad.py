"""A tool that calls another service, for the spans and the ids of such calls."""

import os

from mcp_chassis import downstream

from ..server import server

database = server.database()
crm = downstream.client("crm", base_url=os.environ.get("CRM_URL", "http://127.0.0.1:1"), trust_env=False)


@server.tool()
async def both_worlds(secret: str) -> int:
    """Wait for a connection, then call the service."""
    async with database.session():
        answer = await crm.get(f"/{secret}", params={"q": secret})
    return answer.status_code
