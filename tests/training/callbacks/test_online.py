"""The online probes: what is kept, what is learnt from it, and that training does not feel it."""

from dataclasses import replace
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from refusals import refuses
from runs import quiet_trainer
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from fullrank import JointEmbedding, Optimizer, encoder, head, objective, source, view_pipeline
from fullrank.batch import Batch
from fullrank.data import BatchLoader
from fullrank.errors import InterruptedRunError, UsageError
from fullrank.training.callbacks.checkpoints import Checkpointer, newest_whole
from fullrank.training.callbacks.online import CURVES, OnlineProbes, queue_parts
from fullrank.training.callbacks.stopping import Stop

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 2), st.integers(0, 40)), max_size=60))
def test_the_parts_are_labelled_share_no_image_and_the_test_part_is_newer(rows):
    labels = torch.tensor([label for label, _ in rows], dtype=torch.int64)
    index = torch.tensor([image for _, image in rows], dtype=torch.int64)
    train, test = (part.tolist() for part in queue_parts(labels, index))
    labelled = [i for i, (label, _) in enumerate(rows) if label != -1]
    assert train == labelled[: len(train)] and len(train) == -(-3 * len(labelled) // 4)
    learnt = {rows[i][1] for i in train}
    assert test == [i for i in labelled[len(train) :] if rows[i][1] not in learnt]


# Under a Trainer


def joint_embedding() -> JointEmbedding:
    torch.manual_seed(0)
    return JointEmbedding(
        encoder("tiny-resnet,width=4", image_size=8, in_chans=1),
        head("mlp:6", in_dim=16),
        objective("infonce:0.2"),
        view_pipeline("weak", image_size=8, channels=1),
        Optimizer(lr=1e-3),
    )


def digits_loader(limit=480, batch_size=96) -> BatchLoader:
    return BatchLoader(source("digits").load("train").limited(limit, seed=0), batch_size, seed=0)


def fit(module, loader, callbacks, epochs=3, **how) -> pl.Trainer:
    trainer = quiet_trainer(max_epochs=epochs, callbacks=callbacks, use_distributed_sampler=False)
    trainer.fit(module, loader, **how)
    return trainer


class Recorder(pl.Callback):
    """Keeps h of the first view, labels and index of every step, by epoch."""

    def __init__(self):
        self.epochs = {}

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        h = module.latest.h.chunk(2)[0].clone().numpy()
        self.epochs.setdefault(trainer.current_epoch, []).append(
            (h, batch.labels.numpy(), batch.index.numpy())
        )

    def stacked(self, epoch):
        return [np.concatenate(column) for column in zip(*self.epochs[epoch], strict=True)]


@pytest.fixture(scope="module")
def unbroken():
    """Three epochs of 5 steps of 96 digits, a queue of 400 of their 480 rows."""
    probes, recorder = OnlineProbes(every=1, queue=400, k=5), Recorder()
    module = joint_embedding()
    calls = []
    module.encoder.register_forward_hook(lambda m, inputs, output: calls.append(len(output)))
    trainer = fit(module, digits_loader(), [probes, recorder])
    return SimpleNamespace(probes=probes, recorder=recorder, module=module, trainer=trainer, calls=calls)


def test_a_row_an_epoch_in_the_arrays_and_in_the_log(unbroken):
    arrays = unbroken.probes.arrays()
    assert list(arrays) == list(CURVES)
    assert arrays["online_step"].tolist() == [5, 10, 15] and arrays["online_epoch"].tolist() == [1, 2, 3]
    for name in ("linear", "nearest"):
        logged = float(unbroken.trainer.callback_metrics[f"online/{name}"])
        assert logged == pytest.approx(arrays[f"online_{name}"][-1])
        assert 0.15 < arrays[f"online_{name}"][-1] <= 1


@pytest.mark.parametrize("epoch", [0, 2])
def test_the_accuracies_are_scikit_learns_on_the_rows_of_the_epoch(unbroken, epoch):
    h, labels, index = (rows[-400:] for rows in unbroken.recorder.stacked(epoch))
    assert len(set(index)) == 400
    linear = LogisticRegression(C=1 / (300 * 1e-4 * h[:300].var(0).sum()), tol=1e-8, max_iter=5000)
    nearest = KNeighborsClassifier(5, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07))
    for name, oracle in (("linear", linear), ("nearest", nearest)):
        expected = oracle.fit(h[:300].astype(np.float64), labels[:300]).score(h[300:], labels[300:])
        assert unbroken.probes.rows[f"online_{name}"][epoch] == pytest.approx(expected, abs=0.0101)


def test_no_image_goes_through_the_encoder_once_more(unbroken):
    assert unbroken.calls == [192] * 15


def test_training_does_not_feel_it(unbroken):
    alone = joint_embedding()
    fit(alone, digits_loader(), [])
    for name, weights in alone.state_dict().items():
        assert torch.equal(weights, unbroken.module.state_dict()[name])


def test_every_second_epoch_and_only_then_is_anything_kept():
    probes, lengths = OnlineProbes(every=2), []

    class Look(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            lengths.append(len(probes._queue))

    fit(joint_embedding(), digits_loader(), [probes, Look()])
    assert probes.rows["online_epoch"] == [2]
    assert lengths == [0] * 5 + [96, 192, 288, 384, 0] + [0] * 5


class StopAt(pl.Callback):
    def __init__(self, step, stop):
        self.step, self.stop = step, stop

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            self.stop.set()


@pytest.mark.parametrize("step", [5, 8])
def test_a_resumed_run_has_the_curves_of_an_unbroken_one(unbroken, tmp_path, step):
    (tmp_path / "checkpoints").mkdir()
    loader, stop = digits_loader(), Stop(tmp_path)
    with pytest.raises(InterruptedRunError):
        callbacks = [OnlineProbes(1, 400, 5), StopAt(step, stop), Checkpointer(tmp_path, loader, stop)]
        fit(joint_embedding(), loader, callbacks)
    loader, probes = digits_loader(), OnlineProbes(1, 400, 5)
    callbacks = [probes, Checkpointer(tmp_path, loader, Stop(tmp_path))]
    fit(joint_embedding(), loader, callbacks, ckpt_path=newest_whole(tmp_path), weights_only=True)
    assert probes.rows == unbroken.probes.rows


class Operations(TorchDispatchMode):
    """The names of all operations that run meanwhile."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def step_of(batch_size=6, width=3):
    batch = Batch(torch.zeros(batch_size, 1, 2, 2), torch.arange(batch_size) % 2, torch.arange(batch_size))
    return SimpleNamespace(latest=SimpleNamespace(h=torch.randn(2 * batch_size, width))), batch


def test_a_step_asks_the_device_for_nothing():
    probes, trainer = OnlineProbes(every=1, queue=8), SimpleNamespace(current_epoch=0, is_last_batch=False)
    module, batch = step_of()
    with Operations() as seen:
        for number in range(5):
            probes.on_train_batch_end(trainer, module, None, batch, number)
    assert seen.names <= {"detach", "slice", "empty", "copy_"}
    with Operations() as control:  # what a look at a number would leave
        module.latest.h[0, 0].item()
    assert "_local_scalar_dense" in control.names


def test_it_watches_any_module_that_keeps_h():
    class Foreign(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(64, 8)

        def training_step(self, batch, batch_idx):
            h = self.layer(batch.images.flatten(1).float() / 255)
            self.latest = SimpleNamespace(h=h.detach().half())
            return h.square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1e-3)

    probes = OnlineProbes(every=1)
    fit(Foreign(), DataLoader(list(digits_loader()), batch_size=None), [probes], epochs=1)
    assert probes.rows["online_linear"][0] > 0.6


@pytest.mark.parametrize("labels", [lambda y: torch.full_like(y, -1), lambda y: torch.where(y == 3, 3, -1)])
def test_fewer_than_two_classes_give_no_row(labels):
    batches = [replace(batch, labels=labels(batch.labels)) for batch in digits_loader(192)]
    probes = OnlineProbes(every=1)
    trainer = fit(joint_embedding(), DataLoader(batches, batch_size=None), [probes], epochs=2)
    assert probes.rows == {name: [] for name in CURVES} and "online/linear" not in trainer.callback_metrics
    assert all(array.shape == (0,) for array in probes.arrays().values())


def test_nothing_new_to_test_on_gives_no_row():
    (batch, *_) = digits_loader(192)
    probes = OnlineProbes(every=1)
    fit(joint_embedding(), DataLoader([batch] * 4, batch_size=None), [probes], epochs=1)
    assert probes.rows["online_step"] == []


def test_errors():
    with refuses(UsageError, "every", 1, 0):
        OnlineProbes(every=0)
    with refuses(UsageError, "queue", 4, 3):
        OnlineProbes(every=1, queue=3)
    with refuses(UsageError, "k", 1, 0):
        OnlineProbes(every=1, k=0)
    module, batch = step_of()
    for watched, given_batch in ((torch.nn.Linear(1, 1), batch), (module, (torch.zeros(2), torch.zeros(2)))):
        with refuses(UsageError, "latest.h", "labels", "index", type(watched).__name__):
            OnlineProbes(every=1).on_train_batch_end(
                SimpleNamespace(current_epoch=0), watched, None, given_batch, 0
            )
