"""Evaluate a run: probes, groups, shifts and factors at places."""
