"""How values become embeddings: one module for each method."""
