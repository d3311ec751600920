"""The long forms of docs/reliability.md in their quick form: real kills, and a disk that is really full."""

import runpy
import sys
from pathlib import Path

import forked
from refusals import assert_names

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run_script(script, *arguments):
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(BENCHMARKS))
    runpy.run_path(str(BENCHMARKS / script), run_name="__main__")


def said_by(output, *command):
    """What a program prints in a process that has loaded torch and computed nothing; it must succeed."""
    assert forked.finish([forked.start(output, run_script, *command)]) == [0], output.read_text()
    return output.read_text()


def test_kills_lose_and_change_nothing(tmp_path):
    said = said_by(tmp_path / "said.txt", "kills.py", "--kills", "5")
    assert "| 5 kills (" in said and "0 lost, 0 different" in said


def test_a_full_disk_is_one_sentence_and_costs_nothing_that_was_saved(tmp_path):
    said = said_by(tmp_path / "said.txt", "full_disk.py", "--every", "7")
    assert_names(said, "a tmpfs", "2 writes", "0 without")
