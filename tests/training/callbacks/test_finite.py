"""Steps that are not finite: named, saved, run again, or left out; and steps that memory does not hold."""

import os
import subprocess
import sys
from itertools import pairwise

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from fullrank import JointEmbedding, Optimizer, encoder, head, source, train, view_pipeline
from fullrank.data import BatchLoader
from fullrank.errors import DataError, DivergedError, UsageError
from fullrank.objectives import InfoNCELoss
from fullrank.training.callbacks.finite import STEP_FILE, FiniteGuard, replay

QUICK = {"encoder": "tiny-resnet,width=4", "head": "none", "limit": 200, "batch_size": 40, "epochs": 2}
# Every weight leaves the finite numbers in the first update that is more than warm-up.
RUNAWAY = QUICK | {"optimizer.lr": 1e30, "monitor_every": 4}


class Spoilt(torch.nn.Module):
    """A loss that is not finite, or has a gradient that is not, at some of its calls."""

    def __init__(self, calls, kind):
        super().__init__()
        self.calls, self.kind, self.count = calls, kind, 0

    def forward(self, z_a, z_b):
        self.count += 1
        loss = 1 - torch.nn.functional.cosine_similarity(z_a, z_b).mean()
        if self.count not in self.calls:
            return loss
        if self.kind == "loss":
            return loss * torch.nan
        return loss + (z_a - z_a.detach()).square().sum().sqrt()  # 0, with the slope 0 / 0


class Watch(pl.Callback):
    """All that a run learns, after each step."""

    def __init__(self):
        self.states = []

    def on_train_batch_end(self, trainer, module, *args):
        moments = [entry["exp_avg"].clone() for entry in trainer.optimizers[0].state.values()]
        weights = [tensor.clone() for tensor in module.state_dict().values()]
        self.states.append(weights + moments)


def fit(tmp_path, loss, skip, **options):
    torch.manual_seed(0)
    module = JointEmbedding(
        encoder("tiny-resnet,width=4", image_size=8, in_chans=1),
        head("none,norm=batch", in_dim=16),
        loss,
        view_pipeline("weak", image_size=8, channels=1),
        Optimizer(),
    )
    batches = list(BatchLoader(source("digits").load("train").limited(96, seed=0), 16, seed=0))
    watch, guard = Watch(), FiniteGuard(tmp_path, every=100, skip=skip)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[guard, watch],
        **options,
    )
    trainer.fit(module, DataLoader(batches, batch_size=None))
    return watch.states, guard


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_a_step_that_is_left_out_teaches_nothing(tmp_path, kind, capsys):
    states, guard = fit(tmp_path, Spoilt({3, 5}, kind), skip=2)
    assert guard.skipped == 2 and len(states) == 6
    assert [not same(*pair) for pair in pairwise(states)] == [True, False, True, False, True]
    assert all(tensor.isfinite().all() for tensor in states[-1])
    assert "Step 3 is not finite and left out (1 of 2)." in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_one_bad_half_spoils_an_accumulated_step(tmp_path, kind):
    states, guard = fit(tmp_path, Spoilt({3}, kind), skip=1, accumulate_grad_batches=2)
    assert guard.skipped == 1 and same(states[1], states[3]) and not same(states[3], states[5])
    assert all(tensor.isfinite().all() for tensor in states[-1])


@pytest.mark.filterwarnings("ignore")
def test_one_more_than_may_be_left_out_ends_the_run(tmp_path):
    with pytest.raises(DivergedError, match=r"Step 5 .* is not finite after 1 that were skipped"):
        fit(tmp_path, Spoilt({3, 5}, "loss"), skip=1)


@pytest.mark.filterwarnings("ignore")
def test_a_gradient_is_named_by_the_weight_nearest_to_the_loss(tmp_path):
    with pytest.raises(DivergedError, match=r"first in the gradient of encoder\.") as error:
        fit(tmp_path, Spoilt(range(2, 99), "gradient"), skip=0)
    assert "Step 2 (epoch 0, images " in str(error.value) and (tmp_path / STEP_FILE).is_file()


def test_a_run_that_leaves_the_numbers_names_step_images_and_layer_and_keeps_the_step(tmp_path):
    with pytest.raises(DivergedError) as error:
        train("digits", out=tmp_path / "run", **RUNAWAY)
    message = str(error.value)
    assert "first in the output of encoder." in message and "37 others" in message and "\n" not in message
    assert "--set optimizer.lr" in message and error.value.exit_status == 1
    culprit = replay(tmp_path / "run")
    assert str(culprit) in message and culprit.layer is not None and culprit.layer in message


def test_a_run_that_ended_may_leave_steps_out_when_it_is_resumed(tmp_path):
    with pytest.raises(DivergedError):
        train("digits", out=tmp_path / "run", **RUNAWAY)
    with pytest.raises(DivergedError, match="after 2 that were skipped"):
        train("digits", out=tmp_path / "run", resume=True, skip_nonfinite=2, **RUNAWAY)


@pytest.mark.parametrize(("calls", "skipped"), [((), 0), ((3, 6), 2)])
def test_the_record_counts_the_steps_that_were_left_out(tmp_path, monkeypatch, calls, skipped):
    plain, count = InfoNCELoss.forward, iter(range(1, 100))

    def spoilt(self, z_a, z_b):
        return plain(self, z_a, z_b) * (torch.nan if next(count) in calls else 1.0)

    monkeypatch.setattr(InfoNCELoss, "forward", spoilt)
    run = train("digits", out=tmp_path / "run", skip_nonfinite=2, **QUICK)
    assert run.record.runs[0].skipped_steps == skipped and run.record.runs[0].steps == 10


def test_a_folder_without_such_a_step_is_one_sentence(tmp_path):
    with pytest.raises(DataError, match="holds no nonfinite-step"):
        replay(tmp_path)
    with pytest.raises(DivergedError):
        train("digits", out=tmp_path / "run", **RUNAWAY)
    (tmp_path / "run" / STEP_FILE).write_bytes(b"damaged")
    with pytest.raises(DataError, match="cannot be read"):
        replay(tmp_path / "run")


def test_fewer_than_none_cannot_be_left_out(tmp_path):
    with pytest.raises(UsageError, match="--skip-nonfinite must be 0 or more, but got -1"):
        FiniteGuard(tmp_path, every=1, skip=-1)


def test_a_batch_beyond_the_memory_names_a_smaller_one(tmp_path):
    # Address space is limited once torch is loaded, so that it is the step that does not fit.
    script = f"""
import resource, sys
from fullrank import train
from fullrank.errors import FullrankError
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
try:
    train("digits", out={str(tmp_path / "run")!r}, encoder="tiny-resnet,width=64", batch_size=1200, epochs=1)
except FullrankError as error:
    print(error)
    sys.exit(error.exit_status)
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert found.returncode == 1, found.stderr
    assert "A step of batch size 1200 needs more memory than there is; try --batch-size 600" in found.stdout
