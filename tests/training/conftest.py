"""Runs that cost half a second: unlabelled images, so that no probe is fitted."""

import os
from collections.abc import Callable

import numpy as np
import pytest

from fullrank import Run, source, train
from fullrank.training.callbacks.curves import Monitor


@pytest.fixture(scope="session")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Settings of a run of three epochs of five steps on unlabelled digits; each test adds its own."""
    file = tmp_path_factory.mktemp("images") / "digits.npz"
    digits = source("digits").load("train").limited(220, seed=0)
    np.savez(file, train_images=digits.images[:200], test_images=digits.images[200:])
    return {
        "data": f"npz:{file}",
        "encoder": "tiny-resnet,width=4",
        "head": "none",
        "batch_size": 40,
        "epochs": 3,
        "monitor_every": 1,
    }


@pytest.fixture(scope="session")
def drawing(quick: dict[str, object]) -> dict[str, object]:
    """The same with parts that draw at each step from torch's own generator: the hard case for a resume."""
    return quick | {"head": "random-subvector:8,dropout=0.25", "objective": "infonce:0.2,groups=2"}


@pytest.fixture(scope="session")
def plain_run(quick: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of `quick` that tests read and never write to."""
    return train("digits", out=tmp_path_factory.mktemp("plain") / "run", **quick)


@pytest.fixture(scope="session")
def unbroken(drawing: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of `drawing` that tests read and never write to."""
    return train("digits", out=tmp_path_factory.mktemp("unbroken") / "run", **drawing)


@pytest.fixture
def at_batch(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Called with (epoch, batch, *actions): signals to send and functions to call when that batch is done."""
    plain = Monitor.on_train_batch_end

    def schedule(epoch: int, batch: int, *actions: int | Callable[..., object]) -> None:
        left = list(actions)

        def then(self, trainer, module, outputs, images, batch_idx):
            plain(self, trainer, module, outputs, images, batch_idx)
            while left and (trainer.current_epoch, batch_idx) == (epoch, batch):
                action = left.pop(0)
                if callable(action):
                    action(module)
                else:
                    os.kill(os.getpid(), action)

        monkeypatch.setattr(Monitor, "on_train_batch_end", then)

    return schedule
