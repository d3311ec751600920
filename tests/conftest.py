"""One small trained run, shared by the tests of probes, reports, resume and the command line."""

from pathlib import Path

import pytest
import torch

from fullrank import Run, train

# The tensors of these tests are too small to share between threads.
torch.set_num_threads(1)

# Two epochs of a thin net on 300 digits: every part takes part, in about a second.
QUICK = {"encoder": "tiny-resnet,width=8", "limit": 300, "batch_size": 64, "epochs": 2, "monitor_every": 2}


@pytest.fixture(scope="session")
def quick_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run that tests read and never write to."""
    return train("digits", out=tmp_path_factory.mktemp("quick") / "run", head="mlp:16", **QUICK)


@pytest.fixture
def quick_folder(tmp_path: Path) -> Path:
    return tmp_path / "run"
