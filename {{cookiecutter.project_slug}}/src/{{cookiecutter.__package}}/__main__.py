"""The command of this server; `python -m` does the same."""

from mcp_chassis.cli import main as run

from .server import server


def main() -> None:
    """Run the command line."""
    run(server)


if __name__ == "__main__":
    main()
