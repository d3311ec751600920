"""What a few labels would choose: a cross-validated probe on so many labelled images, at each candidate."""

from collections.abc import Collection, Sequence

import numpy as np
import torch

from fullrank.choosing.candidates import Pool
from fullrank.choosing.rule import default_order
from fullrank.errors import DataError, UsageError
from fullrank.probes.ridge import Ridge
from fullrank.record import LabelsChoice
from fullrank.statistics import binomial_error

# The penalty of the probe over the mean variance of a channel.
PENALTY = 0.01
FOLDS = 5


def cross_validated(features: torch.Tensor, labels: np.ndarray, seed: int = 0) -> float:
    """The accuracy, 0 to 1, of a ridge classifier over five folds of labelled rows.

    Args:
        features: Features (n, D) of the labelled rows.
        labels: Their class numbers, (n,).
        seed: The seed of the folds.

    >>> x = torch.eye(2).repeat(20, 1)
    >>> cross_validated(x, np.arange(40) % 2)
    1.0
    """
    classes, numbers = np.unique(labels, return_inverse=True)
    one_hot = torch.eye(len(classes), dtype=torch.float64)[torch.from_numpy(numbers)]
    fold = np.random.default_rng(seed).permutation(len(labels)) % FOLDS
    right = 0
    for number in range(FOLDS):
        test = torch.from_numpy(fold == number)
        if not test.any():
            continue
        ridge = Ridge.of(features[~test])
        scale = float(ridge.variances.sum()) / features.shape[1]
        outputs = ridge.predict(one_hot[~test], PENALTY * scale, features[test])
        right += int((outputs.argmax(1).numpy() == numbers[fold == number]).sum())
    return right / len(labels)


def choose_with_labels(
    pool: Pool, count: int, heads: Sequence[str], *, vetoed: Collection[int] = (), seed: int = 0
) -> LabelsChoice:
    """The candidate with the best cross-validated accuracy on `count` labelled images.

    Args:
        pool: The candidates; some of the images must be labelled.
        count: The number of labelled images, drawn at random.
        heads: Names of heads in the default order, for equal accuracies.
        vetoed: The numbers of candidates that are left out.
        seed: The seed of the draw and of the folds.

    Raises:
        UsageError: For fewer than 20 labels.
        DataError: There are fewer labelled images, or the labels drawn are all of one class.
    """
    if count < 20:
        raise UsageError(f"A choice with labels needs 20 or more, but got {count}; 100 is usual.")
    labels = pool.labels
    known = np.flatnonzero(labels >= 0) if labels is not None else np.zeros(0, int)
    if labels is None or len(known) < count:
        raise DataError(
            f"{count} labels were asked for, but {len(known)} of these images are labelled; ask for fewer."
        )
    rows = np.sort(np.random.default_rng(seed).permutation(known)[:count])
    if len(np.unique(labels[rows])) < 2:
        raise DataError(f"The {count} labels drawn are all of one class; give images of two or more.")
    index = torch.from_numpy(rows)
    accuracies = [
        None if number in vetoed else cross_validated(each.clean[index], labels[rows], seed)
        for number, each in enumerate(pool.candidates)
    ]
    seen = np.array([-1.0 if accuracy is None else accuracy for accuracy in accuracies])
    defaults = default_order(pool.candidates, heads)
    best = int(np.lexsort((defaults, -seen))[0])
    error = binomial_error(float(seen[best]), count)
    tied = [
        f"{each.run} {each.place}"
        for number, each in enumerate(pool.candidates)
        if number != best and seen[number] >= seen[best] - error
    ]
    return LabelsChoice(
        labels=count,
        run=pool.candidates[best].run,
        place=pool.candidates[best].place,
        accuracies=accuracies,
        standard_error=error,
        tied=tied,
    )
