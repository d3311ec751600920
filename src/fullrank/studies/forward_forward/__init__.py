"""Forward-Forward: layers that each learn a pretext task for themselves, beside twins by back-propagation."""
