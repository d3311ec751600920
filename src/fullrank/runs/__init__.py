"""A run: its recipe, its parts, its folder, and exports from it."""
