"""The examples run as they stand, and what they print is what they promise."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str) -> str:
    command = [sys.executable, "-W", "ignore", str(EXAMPLES / name)]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # on busy cores more threads only wait for each other
    finished = subprocess.run(command, capture_output=True, text=True, check=False, env=one_thread)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_every_example_is_tested():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {
        "bare_loop.py",
        "timm_cut_below_head.py",
        "lightly_pipeline.py",
    }


def test_a_bare_loop_learns():
    printed = run("bare_loop.py")
    first, *_, last = (float(value) for value in re.findall(r"loss ([\d.]+)", printed))
    assert last < first < 5.6
    assert float(re.search(r"linear probe on h: ([\d.]+)", printed)[1]) > 80


def test_timms_net_gives_the_same_features():
    printed = run("timm_cut_below_head.py")
    assert float(re.search(r"differs by ([\d.e+-]+)", printed)[1]) < 1e-5
    assert all(place in printed for place in ("layer3.0", "h:", "head.1", "z:"))


def test_lightlys_views_and_head_train_under_our_loss():
    pytest.importorskip("lightly")
    losses = [float(value) for value in re.findall(r"loss ([\d.]+)", run("lightly_pipeline.py"))]
    assert len(losses) == 10 and sum(losses[-3:]) < sum(losses[:3])
