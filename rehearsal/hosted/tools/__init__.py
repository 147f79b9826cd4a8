"""Copied into the rendered project as it stands."""
