"""Measures derived again from their definitions, in float64 NumPy, before their author saw the code."""
