"""What a run is worth: probes, groups, shifts and factors at places."""
