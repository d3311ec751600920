"""The page of a choice without labels."""
