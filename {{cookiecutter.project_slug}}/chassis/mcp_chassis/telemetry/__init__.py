"""What a server tells about itself, and what it never tells."""
