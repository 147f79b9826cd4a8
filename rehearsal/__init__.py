"""Rolling restarts under load, and every call counted: `make rehearsal` (S4)."""
