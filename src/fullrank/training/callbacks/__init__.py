"""Callbacks of a training run: curves, online probes, checkpoints, finite steps, stopping."""
