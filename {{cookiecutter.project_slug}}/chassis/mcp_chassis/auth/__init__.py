"""Who may call, and how it is known."""
