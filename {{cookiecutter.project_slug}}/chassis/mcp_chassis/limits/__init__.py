"""How much a caller may do, and what happens when it does not stop."""
