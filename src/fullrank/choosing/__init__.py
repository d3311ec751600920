"""Choosing a run and a place without labels: candidates, criteria, vetoes, the frozen rule, its regret."""
