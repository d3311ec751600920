"""Every table of docs/speed.md, one after the other.

    uv run --group benchmark python benchmarks/speed.py
    uv run --group benchmark python benchmarks/speed.py --quick

Losses, SIGReg, views, probes and training each run in their own process, as they do alone. The exit status
is 1 if any of them finds a wrong answer. On an idle machine all take about half an hour. `--quick` uses small
sizes and one round and takes two minutes. It shows that all programs run and agree; do not quote its figures.
"""

import argparse
import subprocess
import sys
from pathlib import Path

# Program -> its arguments for --quick.
PROGRAMS: dict[str, tuple[str, ...]] = {
    "losses.py": ("--rows", "256", "--rounds", "1"),
    "sigreg.py": ("--rows", "256", "--rounds", "1"),
    "views.py": ("--sizes", "32:32", "--images", "32", "--rounds", "1"),
    "probes.py": ("--rows", "600", "--rounds", "1"),
    "training_rate.py": ("--rounds", "1", "--epochs", "1", "--workers", "0"),
}


def main() -> int:
    """Run all programs; return 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="use small sizes and one round")
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
