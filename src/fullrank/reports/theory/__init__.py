"""The page of a theorem."""
