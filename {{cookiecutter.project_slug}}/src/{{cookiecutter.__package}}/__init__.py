"""Your server: `server.py` is the file to open first."""
