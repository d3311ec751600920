"""What a run is: its recipe, its parts, its folder, and what can be taken from it."""
