"""Several labels an image: one linear probe for each label, scored by how well it ranks the test rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch

from fullrank.errors import DataError, UsageError
from fullrank.probes.linear import LinearProbe


@dataclass(frozen=True)
class MultiLabel:
    """How well each label is predicted, 0 to 1, and the labels that have no score.

    Attributes:
        auroc: Label -> area under the ROC curve; chance is 0.5.
        average_precision: Label -> average precision; chance is the share of rows with the label.
        left_out: The labels that lack a 0 or a 1 among the training or the test rows.
    """

    auroc: dict[str, float]
    average_precision: dict[str, float]
    left_out: tuple[str, ...]

    @property
    def mean_auroc(self) -> float:
        """The mean over the labels with a score."""
        return fmean(self.auroc.values())

    @property
    def mean_average_precision(self) -> float:
        """The mean over the labels with a score."""
        return fmean(self.average_precision.values())


def multi_label(
    features: Any,
    labels: Any,
    test_features: Any,
    test_labels: Any,
    *,
    names: Sequence[str] | None = None,
    probe: Callable[[], LinearProbe] = LinearProbe,
) -> MultiLabel:
    r"""AUROC and average precision of one linear probe for each of several labels (one-vs-rest).

    With the logit s of a probe, over the labelled test rows,

    .. math:: \mathrm{AUROC} = P(s_i > s_j \mid y_i = 1, y_j = 0) + \tfrac12 P(s_i = s_j), \qquad
              \mathrm{AP} = \sum_k (R_k - R_{k-1}) P_k

    where :math:`P_k` and :math:`R_k` are precision and recall at the k-th highest logit. Each probe learns
    from the rows that have its label, and chooses its own penalty, by accuracy as always (`LinearProbe`).

    Args:
        features: Training features (N, D).
        labels: Training labels (N, L): 1 if the row has the label, 0 if not, -1 if that is not known.
        test_features: Test features (M, D).
        test_labels: Test labels (M, L).
        names: The names of the L labels; the default is their numbers from 0.
        probe: Makes the probe of one label.

    Returns:
        The scores of each label with both values among the training and the test rows.

    Raises:
        UsageError: If shapes do not fit, or a label is not 0, 1 or -1.
        DataError: If no label has both values in training and test, or features are not finite.

    >>> x = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    >>> y = (x[:, :2] > 0).long()
    >>> scores = multi_label(x[:100], y[:100], x[100:], y[100:], names=("left", "up"))
    >>> {name: round(area, 2) for name, area in scores.auroc.items()}
    {'left': 1.0, 'up': 0.98}

    Source: mean AUROC over labels as for ChestX-ray14 (Wang et al. 2017, arXiv 1705.02315). The scores are
    scikit-learn's `roc_auc_score` and `average_precision_score`.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    learnt, tested = _table(labels, len(features)), _table(test_labels, len(test_features))
    names = tuple(map(str, range(learnt.shape[1]))) if names is None else tuple(names)
    if not len(names) == learnt.shape[1] == tested.shape[1]:
        counts = f"{learnt.shape[1]} in training, {tested.shape[1]} in test and {len(names)} names"
        raise UsageError(f"Labels must be equally many, but got {counts}; give the same columns to all.")
    scorable = [{0, 1} <= set(learnt[:, i]) and {0, 1} <= set(tested[:, i]) for i in range(len(names))]
    if not any(scorable):
        problem = f"none of {len(names)} labels has both a 0 and a 1 among the training and the test rows"
        raise DataError(f"Several labels: {problem}; give more rows, or one class for each row.")
    auroc, precision = {}, {}
    for column in np.flatnonzero(scorable):
        rows, name = tested[:, column] != -1, names[column]
        fitted = probe().fit(features, learnt[:, column])
        logits = fitted.decision_function(test_features[torch.from_numpy(rows)]).cpu().numpy()
        auroc[name] = float(roc_auc_score(tested[rows, column], logits))
        precision[name] = float(average_precision_score(tested[rows, column], logits))
    return MultiLabel(auroc, precision, tuple(n for n, kept in zip(names, scorable, strict=True) if not kept))


def _table(labels: Any, rows: int) -> np.ndarray:
    table = np.asarray(labels.cpu() if isinstance(labels, torch.Tensor) else labels)
    if (
        table.ndim != 2
        or len(table) != rows
        or table.dtype.kind not in "biu"
        or set(np.unique(table)) - {-1, 0, 1}
    ):
        got = f"{table.dtype} of shape {table.shape}"
        if table.dtype.kind in "biu" and table.size:
            got += f" from {table.min()} to {table.max()}"
        raise UsageError(f"Several labels must be ({rows}, L) of 0, 1 and -1, but got {got}; correct them.")
    return table.astype(np.int64)
