"""`python -m fullrank`, which is what torchrun starts."""

from fullrank.cli import main

main()
