"""One small trained run, shared by the tests of probes, reports, resume and the command line."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fullrank import Run, door, train
from fullrank.data import SOURCES
from fullrank.diagnosis.causes import CAUSES
from fullrank.encoders import ENCODERS
from fullrank.heads import HEADS
from fullrank.objectives import OBJECTIVES

REGISTRIES = (HEADS, OBJECTIVES, ENCODERS, SOURCES, CAUSES)

# The tensors of these tests are too small to share between threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

# Two epochs of a thin net on 300 digits: every part takes part, in about a second.
QUICK = {"encoder": "tiny-resnet,width=8", "limit": 300, "batch_size": 64, "epochs": 2, "monitor_every": 2}


@pytest.fixture(scope="session")
def quick_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run that tests read and never write to."""
    return train("digits", out=tmp_path_factory.mktemp("quick") / "run", head="mlp:16", **QUICK)


@pytest.fixture(autouse=True)
def only_our_parts() -> Iterator[None]:
    """What a test registers or imports through the door is unknown to the next one."""
    known = {registry: {entry.name for entry in registry} for registry in REGISTRIES}
    imported = dict(door.imported)
    yield
    for registry, names in known.items():
        for entry in [entry for entry in registry if entry.name not in names]:
            registry.unregister(entry.name)
    door.imported.clear()
    door.imported.update(imported)
    door._points.cache_clear()


@pytest.fixture
def quick_folder(tmp_path: Path) -> Path:
    return tmp_path / "run"
