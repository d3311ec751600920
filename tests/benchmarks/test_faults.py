"""The long forms of docs/reliability.md in their quick form: real kills, and a disk that is really full."""

import os
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(script, *arguments):
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def test_a_dozen_kills_lose_and_change_nothing():
    found = run("kills.py", "--kills", "12")
    assert found.returncode == 0, found.stderr
    assert "| 12 kills (" in found.stdout and "0 lost, 0 different" in found.stdout


def test_a_full_disk_is_one_sentence_and_costs_nothing_that_was_saved():
    found = run("full_disk.py", "--every", "7")
    assert found.returncode == 0, found.stderr
    assert "no room at each of 2 writes" in found.stdout and ": 0 without one sentence" in found.stdout
