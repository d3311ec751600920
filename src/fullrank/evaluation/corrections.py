"""Features of training and test images under each correction against the cues of the images."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fullrank.data.image_set import UNLABELLED
from fullrank.errors import UsageError
from fullrank.evaluation.groups import Grouping, check_balance
from fullrank.probes import correct, leace, mean_difference
from fullrank.record.scores import CORRECTIONS, Probe


class Corrected(NamedTuple):
    """Corrected features of the training images (N, D) and of the test images (M, D)."""

    train: Tensor
    test: Tensor


def check_corrections(groups: Grouping) -> None:
    """Raise UsageError without a cue, and DataError for too few groups among the training images."""
    if not groups.cues:
        raise UsageError(
            "The measure corrections needs a cue, but no label of the images varies within a class and is "
            "part of their groups; use images with cues (composite, urbancars, waterbirds), or leave it out."
        )
    check_balance(groups, CORRECTIONS)


def corrections(
    train: Tensor, test: Tensor, groups: Grouping, seed: int
) -> Iterator[tuple[Probe, Corrected]]:
    """The features without all cues of the images, by each correction; the first is `correction`.

    Mean differences are subtracted cue by cue, and LEACE erases all cues together. A test image without a
    known cue counts in no group, so the mean difference takes it to have the first value.

    Args:
        train: Features of the training images (N, D).
        test: Features of the test images (M, D).
        groups: The groups of both, and their cues.
        seed: Seed of the correction vectors.

    Raises:
        UsageError: If a cue contains the class.
        DataError: If rows of a group are too few.
    """
    cues = {name: torch.from_numpy(values) for name, (values, _) in groups.cues.items()}
    labels = torch.from_numpy(groups.train_labels)
    vectors = correct(train, labels, cues, seed=seed)
    yield "correction", Corrected(vectors.apply(train), vectors.apply(test))
    shifted = Corrected(train, test)
    for name, values in groups.cues.items():
        shifts = mean_difference(shifted.train, labels, cues[name])
        known = [np.where(each == UNLABELLED, int(shifts.values[0]), each) for each in values]
        shifted = Corrected(*(shifts.apply(*each) for each in zip(shifted, known, strict=True)))
    yield "mean-difference", shifted
    erasure = leace(train, cues)
    yield "leace", Corrected(erasure.apply(train), erasure.apply(test))
    erasure = leace(train, cues, within=labels)
    yield "leace-within", Corrected(erasure.apply(train), erasure.apply(test))
