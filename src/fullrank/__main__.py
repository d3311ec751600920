"""`python -m fullrank`, which is what torchrun starts."""

from fullrank.cli import main

if __name__ == "__main__":
    main()
