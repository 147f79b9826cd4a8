"""One engine for every check, and its profiles: `timeouts` and `manifests` (DESIGN 11)."""
