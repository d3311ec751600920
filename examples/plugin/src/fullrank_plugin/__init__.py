"""A head, an objective and a source that fullrank finds by their entry points."""
