"""Two processes compute every objective as one does: the same loss, and on average the same gradient."""

import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parent / "one_share.py"
spec = spec_from_file_location("one_share", SCRIPT)
one_share = module_from_spec(spec)
spec.loader.exec_module(one_share)


@pytest.fixture(scope="module")
def shares(tmp_path_factory):
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("shares")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [sys.executable, SCRIPT, str(rank), folder / "meeting", folder / f"{rank}.pt"], env=environment
        )
        for rank in range(2)
    ]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize(("name", "one_view"), one_share.cases())
def test_two_processes_have_the_loss_and_gradient_of_one(shares, name, one_view):
    value, *gradients = one_share.measured(name, slice(None), one_view)
    first, second = (share[f"{name}, one view {one_view}"] for share in shares)
    views = 1 if one_view else 2
    for found in (first, second):
        torch.testing.assert_close(found[0], value, rtol=1e-6, atol=0)
    for number, gradient in enumerate(gradients, start=1):
        # DistributedDataParallel averages: over rows that is their sum over processes, halved.
        parts = first[number], second[number]
        average = torch.cat(parts) / 2 if number <= views else sum(parts) / 2
        torch.testing.assert_close(average, gradient, rtol=1e-6, atol=1e-12)
