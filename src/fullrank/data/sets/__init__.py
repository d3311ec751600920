"""Common data sets, and readers of a user's own files."""
