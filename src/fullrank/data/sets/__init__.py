"""Data sets that the field trains on, and a user's own files."""
