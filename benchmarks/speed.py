"""Every table of docs/speed.md, one after the other.

    uv run --group benchmark python benchmarks/speed.py
    uv run --group benchmark python benchmarks/speed.py --quick

Losses, views, probes and training, each program in a process of its own, as it is run alone. The status is 1
if any of them found a wrong answer. `--quick` takes small sizes and one round, two minutes: it shows that all
run and agree, and its figures are not to be quoted. On an idle machine the whole takes about half an hour.
"""

import argparse
import subprocess
import sys
from pathlib import Path

# Program -> its arguments for a quick look.
PROGRAMS: dict[str, tuple[str, ...]] = {
    "losses.py": ("--rows", "256", "--rounds", "1"),
    "views.py": ("--sizes", "32:32", "--images", "32", "--rounds", "1"),
    "probes.py": ("--rows", "600", "--rounds", "1"),
    "training_rate.py": ("--rounds", "1", "--epochs", "1", "--workers", "0"),
}


def main() -> int:
    """Run all programs; 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes and one round")
    quick = parser.parse_args().quick
    failed = []
    for name, smaller in PROGRAMS.items():
        print(f"\n## {name}\n", flush=True)
        command = [sys.executable, str(Path(__file__).with_name(name)), *(smaller if quick else ())]
        if subprocess.run(command, check=False).returncode != 0:
            failed.append(name)
    for name in failed:
        print(f"{name} failed or found a wrong answer", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
