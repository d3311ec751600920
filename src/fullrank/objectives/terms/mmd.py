"""MMD within classes: the values of a label that is not to be learnt get equal distributions of z."""

import math
import warnings
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fullrank.errors import FullrankWarning, UsageError, few_of
from fullrank.mmd import LEAST_ROWS, within_class_mmd
from fullrank.objectives.terms.contract import Auxiliary, TrainingLabels
from fullrank.processes import gather_rows
from fullrank.step import Step


class MMDTerm(Auxiliary):
    r"""Pull together the embeddings of one class under different values of a cue, such as the background.

    For both views, :math:`L = \tfrac12 [M(z_a) + M(z_b)]`, where M is `within_class_mmd`: the unbiased
    squared MMD between the values of the cue, within each class of the batch. The two views of an image never
    form a pair. The rows are those of all processes. The term is 0 in a step whose batch has no class with
    two rows or more of each of two values, and it may be negative. Shapes: z (2N, K) -> scalar.

    Matching a cue over all classes would also match the classes, as far as the two are correlated.

    Args:
        weight: What the step multiplies the term by, 0 or more.
        label: The label that holds the cue, or several joined by `+`, over which the term is averaged.

    Raises:
        UsageError: A label is named twice, or not at all.

    >>> MMDTerm(2.0, label="background+object").cues
    ('background', 'object')

    Source: Cerrato et al. 2022 (2201.06343) on correction vectors; Gretton et al. 2012 (JMLR 13) on MMD.
    Comparing within classes is ours.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"labels"})
    detaches: ClassVar[bool] = True  # the bandwidths

    def __init__(self, weight: float = 1.0, *, label: str = "background"):
        super().__init__(weight)
        self.cues = tuple(name.strip() for name in label.split("+"))
        if "" in self.cues:
            raise UsageError(f"label={label} has an empty name; write label=background, or another name.")
        if twice := [name for name in self.cues if self.cues.count(name) > 1]:
            raise UsageError(f"label={label} names {twice[0]} twice; keep one.")

    def forward(self, step: Step) -> Tensor:
        """The mean of the term over both views and all cues."""
        if step.labels is None or not set(self.cues) <= set(step.cues):
            names = " and ".join(self.cues)
            raise UsageError(f"mmd needs `labels` and the cues {names} of a step; give the step both.")
        labels, views = gather_rows(step.labels), [gather_rows(z) for z in (step.z_a, step.z_b)]
        cues = [gather_rows(step.cues[name]) for name in self.cues]
        return torch.stack([within_class_mmd(z, labels, values) for values in cues for z in views]).mean()

    def check_labels(self, train: TrainingLabels) -> None:
        """Raise UsageError for a cue that cannot be compared; a warning names classes without comparison."""
        for cue in self.cues:
            _check_cue(train, cue)


def _check_cue(train: TrainingLabels, cue: str) -> None:
    """Raise UsageError unless some class is expected to have two rows of two values of `cue` in a batch."""
    remedy = _remedy(train)
    if cue == train.label:
        raise UsageError(f"mmd compares the values of a label within each class of '{cue}'; {remedy}.")
    for name in (train.label, cue):
        if (number := len(np.unique(train.numbers[name][train.numbers[name] >= 0]))) < 2:
            raise UsageError(
                f"mmd needs 2 or more values of '{name}', but {train.data} has {number}; {remedy}."
            )
    counts = train.counts(cue)
    if contains_class(counts):
        raise UsageError(
            f"Each value of '{cue}' occurs in one class of '{train.label}' only, so it contains the class, "
            f"and mmd cannot take it; {remedy}."
        )
    if ((counts > 0).sum(1) < 2).all():
        raise UsageError(
            f"Each class of '{train.label}' has one value of '{cue}', so mmd compares nothing; {remedy}."
        )
    _check_frequent(train, cue, counts)


def contains_class(counts: np.ndarray) -> bool:
    """Whether each value (column) of a table of counts occurs in one class (row) only."""
    return bool(((counts > 0).sum(0) <= 1).all())


def _remedy(train: TrainingLabels) -> str:
    """Which labels could be compared."""
    tables = {name: train.counts(name) for name in train.numbers if name != train.label}
    fit = [
        name
        for name, counts in tables.items()
        if ((counts > 0).sum(1) > 1).any() and not contains_class(counts)
    ]
    return f"name another label, such as {' or '.join(fit)}" if fit else "leave mmd out"


def _check_frequent(train: TrainingLabels, cue: str, counts: np.ndarray) -> None:
    """Raise UsageError, or warn, where the second most frequent value of a class is too rare for a batch."""
    classes = np.flatnonzero(counts.any(1))
    order = np.argsort(-counts, axis=1, kind="stable")[:, 1]
    second = np.take_along_axis(counts, order[:, None], 1)[:, 0]
    total, size = len(train.numbers[cue]), train.batch_size
    names = train.class_names[train.label]
    missing = [names[each] for each in classes if second[each] * size < LEAST_ROWS * total]
    if missing and len(missing) < len(classes):
        warnings.warn(
            f"mmd compares '{cue}' within {len(classes) - len(missing)} of {len(classes)} classes; batches "
            f"of {size} are too small for {few_of(missing)}.",
            FullrankWarning,
            stacklevel=2,
        )
    if len(missing) < len(classes):
        return
    best = int(second.argmax())
    value, count = train.class_names[cue][order[best]], int(second[best])
    enough = math.ceil(LEAST_ROWS * total / count)
    larger = f"choose a batch size of {enough:,} or more, or " if enough <= total else "choose "
    raise UsageError(
        f"mmd needs {LEAST_ROWS} images of a second value of '{cue}' in some class, but a batch of {size} "
        f"has about {size * count / total:.2g} at most ('{names[best]}' with '{value}': {count:,} of "
        f"{total:,}); {larger}a lower correlation."
    )
