"""The stock server, and the tool that both servers have."""
