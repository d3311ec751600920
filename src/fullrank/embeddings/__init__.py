"""Embeddings in files: features (N, D) with labels, in the formats that people write."""
