"""`python -m mcp_chassis.checks`: the probe by itself, where no server is."""

import typer

from mcp_chassis.checks.commands import add_probe

if __name__ == "__main__":
    application = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    add_probe(application)
    application()
