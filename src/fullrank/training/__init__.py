"""Training: a recipe in, a run out."""
