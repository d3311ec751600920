"""The page of a reproduced table."""
