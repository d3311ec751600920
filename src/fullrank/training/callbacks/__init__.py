"""What watches a training run: curves, online probes, checkpoints, finite steps, stopping."""
