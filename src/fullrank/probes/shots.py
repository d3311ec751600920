"""Few-shot accuracy: a probe fitted on a few rows of each class, over several draws of these rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fullrank.errors import DataError, UsageError
from fullrank.probes.linear import LinearProbe
from fullrank.probes.probe import Probe, labelled_rows

# Of the features' total variance. From a row or a few of each class nothing can be held out to choose by. On
# 1, 5 and 20 digits a class it was within a point of the best of 10 to 1e-6, also for random ReLU features.
SHOT_PENALTY = 1e-4


@dataclass(frozen=True)
class FewShot:
    """Accuracy, 0 to 1, from `shots` rows a class: each draw's, their mean, and its 95 % t interval.

    The interval is over draws of the rows, not over encoders; it may pass 0 or 1, and its ends are None for
    a single draw.
    """

    shots: int
    mean: float
    low: float | None
    high: float | None
    accuracies: tuple[float, ...]


def shot_probe() -> LinearProbe:
    """The default probe of `few_shot`: logistic regression on raw features, its penalty fixed at 1e-4."""
    return LinearProbe([SHOT_PENALTY])


def few_shot(
    features: Any,
    labels: Any,
    test_features: Any,
    test_labels: Any,
    *,
    shots: Sequence[int],
    episodes: int = 5,
    seed: int = 0,
    probe: Callable[[], Probe] = shot_probe,
) -> list[FewShot]:
    r"""Accuracy on the whole test set of a probe fitted on `shots` rows of each class, by `shots`.

    .. math:: \bar a = \frac1E \sum_e a_e, \qquad
              \bar a \pm t_{0.975, E - 1} \sqrt{\frac{1}{E (E - 1)} \sum_e (a_e - \bar a)^2}

    Each of E = `episodes` draws orders the rows of each class at random and takes the first `shots`, so more
    shots hold the fewer ones. Draws depend on labels and `seed` alone: two encoders are compared on the
    same rows. `probe` makes the probe of one draw (default: `shot_probe`).

    Shapes: features (N, D), labels (N,), and the same of the test set; rows labelled -1 are left out. Raises
    UsageError for shots or episodes below 1 and what `Probe` raises, DataError for fewer than two classes or
    a class with fewer rows than shots.

    >>> x = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    >>> y = x[:, 0] > 0
    >>> one, ten = few_shot(x[:100], y[:100], x[100:], y[100:], shots=(1, 10))
    >>> one.shots, ten.shots, ten.mean > one.mean, len(ten.accuracies)
    (1, 10, True, 5)
    """
    if not shots or min(shots) < 1:
        raise UsageError(
            f"Shots are rows of each class, 1 or more, but got {list(shots)}; the usual are 1, 5, 10."
        )
    if episodes < 1:
        raise UsageError(f"Few-shot accuracy needs 1 episode or more, but got {episodes}; the default is 5.")
    features, labels = labelled_rows(features, labels)
    _check_counts(labels, max(shots))
    generator = torch.Generator().manual_seed(seed)
    accuracies: dict[int, list[float]] = {count: [] for count in shots}
    for _ in range(episodes):
        order = _shuffled_by_class(labels, generator)
        for count, found in accuracies.items():
            rows = torch.cat([members[:count] for members in order])
            found.append(probe().fit(features[rows], labels[rows]).score(test_features, test_labels))
    return [_summary(count, found) for count, found in accuracies.items()]


def _shuffled_by_class(labels: Tensor, generator: torch.Generator) -> list[Tensor]:
    """The row numbers of each class, in ascending order of the classes, each in an order drawn now."""
    members = [(labels == value).nonzero()[:, 0] for value in torch.unique(labels)]
    return [rows[torch.randperm(len(rows), generator=generator).to(rows.device)] for rows in members]


def _check_counts(labels: Tensor, shots: int) -> None:
    values, counts = torch.unique(labels, return_counts=True)
    if len(values) < 2:
        raise DataError(
            f"Few-shot accuracy needs labels of at least 2 classes, but got {len(values)} in {len(labels)} "
            "labelled rows; give it labelled rows of more classes."
        )
    if counts.min() < shots:
        fewest = int(counts.argmin())
        raise DataError(
            f"Class {int(values[fewest])} has {int(counts[fewest])} labelled rows, but {shots} shots need "
            f"{shots}; ask for {int(counts[fewest])} shots or fewer, or leave the class out."
        )


def _summary(shots: int, accuracies: Sequence[float]) -> FewShot:
    # `scipy.special` and not `scipy.stats`: a tenth of a second against one, for the same quantile.
    from scipy.special import stdtrit

    mean, count = float(np.mean(accuracies)), len(accuracies)
    if count < 2:
        return FewShot(shots, mean, None, None, tuple(accuracies))
    half = float(stdtrit(count - 1, 0.975) * np.std(accuracies, ddof=1) / np.sqrt(count))
    return FewShot(shots, mean, mean - half, mean + half, tuple(accuracies))
