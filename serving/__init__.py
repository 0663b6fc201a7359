"""The parameter service and its client: raw ids in, vectors out."""
