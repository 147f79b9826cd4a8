"""Your tools, a module a subject."""
