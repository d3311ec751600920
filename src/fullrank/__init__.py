"""Train and diagnose joint-embedding encoders."""
