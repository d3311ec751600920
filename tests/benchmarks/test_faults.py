"""The long forms of docs/reliability.md in their quick form: real kills, and a disk that is really full."""

import os
import subprocess
import sys
from pathlib import Path

from refusals import assert_names

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(script, *arguments):
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def test_kills_lose_and_change_nothing():
    done = run("kills.py", "--kills", "5")
    assert done.returncode == 0, done.stderr
    assert "| 5 kills (" in done.stdout and "0 lost, 0 different" in done.stdout


def test_a_full_disk_is_one_sentence_and_costs_nothing_that_was_saved():
    done = run("full_disk.py", "--every", "7")
    assert done.returncode == 0, done.stderr
    assert_names(done.stdout, "2 writes", "0 without")
