"""Theory of dimensional collapse (P1)."""
