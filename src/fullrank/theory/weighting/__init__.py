"""Theory of feature weighting by depth (P2)."""
