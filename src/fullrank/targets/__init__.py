"""Targets: what a command looks at, be it a run, anybody's model, or a file of embeddings."""
