"""The layers of a request, a file each; `mcp_chassis.app` lists them in order."""
