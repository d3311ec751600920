"""One page for several runs and studies."""
