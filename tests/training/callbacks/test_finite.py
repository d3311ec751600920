"""Steps that are not finite: named, saved, run again, or left out; and steps that memory does not hold."""

import resource
import shutil
from itertools import pairwise
from pathlib import Path

import forked
import lightning.pytorch as pl
import pytest
import torch
from refusals import assert_names, refuses
from runs import quiet_trainer
from torch.utils.data import DataLoader

from fullrank import JointEmbedding, Optimizer, encoder, head, source, train, view_pipeline
from fullrank.data import BatchLoader
from fullrank.errors import DataError, DivergedError, FullrankError, UsageError
from fullrank.objectives import InfoNCELoss
from fullrank.training.callbacks.finite import STEP_FILE, FiniteGuard, replay

# Every weight leaves the finite numbers in the first update that is more than warm-up.
RUNAWAY = {"optimizer.lr": 1e30, "monitor_every": 4}


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
    trainer = quiet_trainer(max_epochs=1, callbacks=[guard, watch], **options)
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
    assert_names(capsys.readouterr().err, "Step 3", "1 of 2")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_one_bad_half_spoils_an_accumulated_step(tmp_path, kind):
    states, guard = fit(tmp_path, Spoilt({3}, kind), skip=1, accumulate_grad_batches=2)
    assert guard.skipped == 1 and same(states[1], states[3]) and not same(states[3], states[5])
    assert all(tensor.isfinite().all() for tensor in states[-1])


@pytest.mark.filterwarnings("ignore")
def test_one_more_than_may_be_left_out_ends_the_run(tmp_path):
    with refuses(DivergedError, "Step 5", "after 1"):
        fit(tmp_path, Spoilt({3, 5}, "loss"), skip=1)


@pytest.mark.filterwarnings("ignore")
def test_a_gradient_is_named_by_the_weight_nearest_to_the_loss(tmp_path):
    with refuses(DivergedError, "Step 2", "epoch 0", "gradient", "encoder", tmp_path / STEP_FILE):
        fit(tmp_path, Spoilt(range(2, 99), "gradient"), skip=0)
    assert (tmp_path / STEP_FILE).is_file()


@pytest.fixture(scope="module")
def runaway(quick, tmp_path_factory):
    """The folder of a run that ended at a step that is not finite, and its error; a test copies it."""
    folder = tmp_path_factory.mktemp("runaway") / "run"
    with pytest.raises(DivergedError) as error:
        train("digits", out=folder, **quick | RUNAWAY)
    return folder, error.value


def test_a_run_that_leaves_the_numbers_names_step_images_and_layer_and_keeps_the_step(runaway):
    folder, error = runaway
    culprit, message = replay(folder), str(error)
    assert culprit.of == "output" and culprit.layer is not None and culprit.layer.startswith("encoder.")
    assert_names(message, culprit.layer, "37 others", "--set optimizer.lr", folder / STEP_FILE)
    assert str(culprit) in message and "\n" not in message and error.exit_status == 1


def test_a_run_that_ended_may_leave_steps_out_when_it_is_resumed(quick, runaway, tmp_path):
    folder = shutil.copytree(runaway[0], tmp_path / "run")
    with refuses(DivergedError, "after 2"):
        train("digits", out=folder, resume=True, skip_nonfinite=2, **quick | RUNAWAY)


def test_a_damaged_step_or_none_at_all_is_refused_by_its_name(runaway, tmp_path):
    with refuses(DataError, tmp_path, STEP_FILE):
        replay(tmp_path)
    folder = shutil.copytree(runaway[0], tmp_path / "run")
    (folder / STEP_FILE).write_bytes(b"damaged")
    with refuses(DataError, folder / STEP_FILE):
        replay(folder)


@pytest.mark.parametrize(("calls", "skipped"), [((), 0), ((2, 5), 2)])
def test_the_record_counts_the_steps_that_were_left_out(quick, tmp_path, monkeypatch, calls, skipped):
    plain, count = InfoNCELoss.forward, iter(range(1, 100))

    def spoilt(self, z_a, z_b):
        trial = len(z_a) < 40  # before the training the loss is tried on a few rows
        return plain(self, z_a, z_b) * (torch.nan if not trial and next(count) in calls else 1.0)

    monkeypatch.setattr(InfoNCELoss, "forward", spoilt)
    run = train("digits", out=tmp_path / "run", skip_nonfinite=2, **quick | {"epochs": 2})
    assert run.record.runs[0].skipped_steps == skipped and run.record.runs[0].steps == 10


def test_fewer_than_none_cannot_be_left_out(tmp_path):
    with refuses(UsageError, "--skip-nonfinite", 0, -1):
        FiniteGuard(tmp_path, every=1, skip=-1)


def starve(out):
    """Train with 256 MB of address space beyond what the libraries have taken; print what is raised."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
    try:
        train("digits", out=out, encoder="tiny-resnet,width=64", head="none", batch_size=1200, epochs=1)
    except FullrankError as error:
        print(error)
        return error.exit_status
    return 0


def test_a_batch_beyond_the_memory_names_a_smaller_one(tmp_path):
    output = tmp_path / "output.txt"
    assert forked.finish([forked.start(output, starve, tmp_path / "run")]) == [1], output.read_text()
    assert_names(output.read_text(), 1200, "memory", "--batch-size 600", "--out")
