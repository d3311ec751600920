"""Two targets on the same rows: how alike they are, and which one is better."""
