"""What the chassis costs and what it protects, measured: `make bench`."""
