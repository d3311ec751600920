"""Watching any training loop for collapse."""
