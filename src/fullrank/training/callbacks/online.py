"""Online probes: accuracy on the features that training steps compute anyway."""

from typing import Any, final

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from fullrank.diagnosis.watch.history import History, NewestRows
from fullrank.errors import UsageError
from fullrank.probes import LinearProbe, NearestProbe

CURVES = ("online_step", "online_epoch", "online_linear", "online_nearest")
# A share of the total variance. It is fixed, since choosing it each time would make the curve jump.
ONLINE_PENALTY = 1e-4


def queue_parts(labels: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Row numbers of a queue (n,): older labelled rows to train on, the newest quarter to test on."""
    labelled = (labels != -1).nonzero()[:, 0]
    older = len(labelled) - len(labelled) // 4
    train, test = labelled[:older], labelled[older:]
    # No test row is another view of a training image.
    return train, test[~torch.isin(index[test], index[train])]


@final
class OnlineProbes(pl.Callback):
    """Measures linear and nearest-neighbour accuracy on the features of training steps, every `every` epochs.

    A queue has h of the first view of the newest images. At the end of the epoch, both probes are fitted to
    its older three quarters and tested on the newest quarter. The queue starts empty in each epoch, so no
    image is in both parts. Rows without a label (-1) are left out. An epoch has no accuracy if it has fewer
    than two training classes or no test rows, or if `max_steps` ends it early.

    Compare the curve only with itself, not with the accuracies of a record. Augmented images and a changing
    encoder make the task harder; an encoder trained on the test rows makes it easier. After 12 epochs on the
    digits, the curve showed 75 % and the test protocol 96 %.

    The accuracies are logged as `online/linear` and `online/nearest` and kept in `rows`. Rows and queue are
    part of the checkpoint, so a callback that saves after a step must come after this one. Each process uses
    its own share of the batch.

    Args:
        every: Epochs between two measurements.
        queue: Number of images in the queue.
        k: Number of neighbours.

    Raises:
        UsageError: For `every` or `k` below 1, a queue below 4, and a LightningModule without `latest.h` or
            batches without `labels` (N,) and `index` (N,). The first N rows of `latest.h` are one view.

    >>> sorted(OnlineProbes(every=5).arrays())
    ['online_epoch', 'online_linear', 'online_nearest', 'online_step']
    """

    def __init__(self, every: int, queue: int = 4096, k: int = 20):
        for name, value, least in (("every", every, 1), ("queue", queue, 4)):
            if value < least:
                raise UsageError(f"Online probes: {name} must be {least} or more, but got {value}; raise it.")
        self.every = every
        self.rows = History(CURVES)
        self._queue = NewestRows(queue)
        self._linear, self._nearest = LinearProbe([ONLINE_PENALTY]), NearestProbe(k)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Queue h of the first view in epochs that are measured, and probe after their last step."""
        if (trainer.current_epoch + 1) % self.every:
            return
        h = getattr(getattr(module, "latest", None), "h", None)
        if h is None or not hasattr(batch, "labels") or not hasattr(batch, "index"):
            raise UsageError(
                f"Online probes need latest.h of the module, and labels and index of the batch, but got "
                f"{type(module).__name__} and {type(batch).__name__}; train a JointEmbedding, or keep them."
            )
        self._queue.push(h[: len(batch.labels)], batch.labels, batch.index)
        # Not in on_train_epoch_end: a run that stops after this step never gets there once resumed.
        if trainer.is_last_batch:
            self._probe(trainer, module)
            self._queue.clear()

    def _probe(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        features, labels, index = self._queue.rows()
        train, test = queue_parts(labels, index)
        if not len(test) or len(torch.unique(labels[train])) < 2:
            return
        linear, nearest = (
            probe.fit(features[train], labels[train]).score(features[test], labels[test])
            for probe in (self._linear, self._nearest)
        )
        row = map(float, (trainer.global_step, trainer.current_epoch + 1, linear, nearest))
        self.rows.add(dict(zip(CURVES, row, strict=True)))
        shown = {"online/linear": linear, "online/nearest": nearest}
        module.log_dict(shown, on_step=False, on_epoch=True, batch_size=1)

    def arrays(self) -> dict[str, np.ndarray]:
        """The rows as stored in `arrays.npz`: step, completed epochs, and both accuracies, 0 to 1."""
        return self.rows.arrays()

    def state_dict(self) -> dict[str, Any]:
        """Rows and queue. The queue is empty between epochs."""
        return {"rows": dict(self.rows), "queue": tuple(self._queue.rows()) if len(self._queue) else ()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state."""
        self.rows.update(state_dict["rows"])
        self._queue.clear()
        if state_dict["queue"]:
            self._queue.push(*state_dict["queue"])
