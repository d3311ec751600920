"""Ridge regression in closed form, the share of variance that it explains, and how well it ranks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fullrank.errors import DataError, UsageError
from fullrank.probes.probe import feature_matrix

# Candidates for the penalty, relative to the mean variance of a channel.
RELATIVE_PENALTIES = tuple(10.0**power for power in range(-8, 3))
# Directions with a smaller share of the largest variance are rounding.
_ROUNDING = 1e-14


@dataclass(frozen=True, eq=False)
class Ridge:
    r"""Training features prepared for ridge regressions with an intercept, for any targets and penalties.

    .. math:: \min_{W, b}\; \frac1N \sum_i \|y_i - W x_i - b\|^2 + \lambda \|W\|_F^2

    The intercept is not penalised. One decomposition of the covariance (or of the inner products, if there
    are fewer rows than channels) gives the solution for every penalty, in float64.

    Attributes:
        mean: The mean of the features, (D,).
        directions: The principal directions that hold variance, (D, R).
        variances: The variance in each direction, (R,).
        rows: The centred features in these directions, (N, R).

    >>> x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    >>> fit = Ridge.of(x)
    >>> fit.predict(2 * x + 1, penalty=0.0, features=torch.tensor([[10.0]]))
    tensor([[21.]], dtype=torch.float64)

    The optimum equals that of scikit-learn's `Ridge(alpha=N * penalty)`.
    """

    mean: Tensor
    directions: Tensor
    variances: Tensor
    rows: Tensor

    @classmethod
    def of(cls, features: Any) -> "Ridge":
        """Decompose training features.

        Args:
            features: Features (N, D).

        Raises:
            UsageError: If the features are not a matrix.
            DataError: If they are not finite, or there are fewer than two rows.
        """
        matrix = feature_matrix(features).double().cpu()
        if len(matrix) < 2:
            raise DataError(f"A ridge regression needs 2 rows or more, but got {len(matrix)}; give more.")
        mean = matrix.mean(0)
        centred = matrix - mean
        count, width = centred.shape
        if width <= count:
            variances, directions = torch.linalg.eigh(centred.T @ centred / count)
        else:
            variances, combinations = torch.linalg.eigh(centred @ centred.T / count)
            lengths = (variances.clamp_min(0) * count).sqrt()
            directions = centred.T @ combinations / lengths.clamp_min(torch.finfo(lengths.dtype).tiny)
        live = variances > _ROUNDING * variances[-1:].clamp_min(0)
        directions, variances = directions[:, live], variances[live]
        return cls(mean, directions, variances, centred @ directions)

    def predict(self, targets: Any, penalty: float, features: Any) -> Tensor:
        """The predictions (M, k) for other features, float64, after a fit to targets.

        Args:
            targets: The targets (N, k) of the training features.
            penalty: The penalty, 0 or more.
            features: The other features (M, D).
        """
        return self._predict(_targets(targets, len(self.rows)), [penalty], features)[0]

    def explained(self, targets: Any, penalty: float, features: Any, test_targets: Any) -> Tensor:
        """R^2 of each target on other features, (k,), after a fit to targets; see `ridge_r2`.

        Args:
            targets: The targets (N, k) of the training features.
            penalty: The penalty, 0 or more.
            features: The other features (M, D).
            test_targets: Their targets (M, k).
        """
        predicted = self.predict(targets, penalty, features)
        test = _targets(test_targets, len(predicted))
        if predicted.shape != test.shape:
            got = f"{predicted.shape[1]} in training and {test.shape[1]} in test"
            raise UsageError(f"Targets must be equally many, but got {got}; give the same columns to both.")
        if (constant := (test == test[:1]).all(0)).any():
            which = int(constant.nonzero()[0, 0])
            raise UsageError(f"Target {which} is the same in every test row, so it has no R^2; leave it out.")
        return _explained(test, predicted)

    def best_penalty(self, targets: Any, features: Any, held_out: Any) -> float:
        """The candidate with the largest R^2 on held-out rows, the mean over the k targets.

        Candidates are `RELATIVE_PENALTIES` times the mean variance of a channel. Of equal ones the largest
        is taken.

        Args:
            targets: The targets (N, k) of the training features.
            features: The held-out features (M, D).
            held_out: The targets (M, k) of the held-out rows.
        """
        scale = float(self.variances.sum()) / len(self.mean)
        candidates = [scale * relative for relative in reversed(RELATIVE_PENALTIES)]
        held_out = _targets(held_out, len(features))
        predictions = self._predict(_targets(targets, len(self.rows)), candidates, features)
        scores = [float(_explained(held_out, each).mean()) for each in predictions]
        return candidates[int(np.argmax(scores))]

    def _predict(self, targets: Tensor, penalties: Sequence[float], features: Any) -> list[Tensor]:
        if min(penalties) < 0:
            raise UsageError(f"A penalty must be 0 or more, but got {min(penalties)}; 0 is least squares.")
        matrix = feature_matrix(features).double().cpu()
        if matrix.shape[1] != len(self.mean):
            widths = f"{len(self.mean)}, but got width {matrix.shape[1]}"
            raise UsageError(f"This ridge was fitted on features of width {widths}; use the same place.")
        rows, mean = (matrix - self.mean) @ self.directions, targets.mean(0)
        moments = self.rows.T @ (targets - mean) / len(targets)
        return [rows @ (moments / (self.variances + each)[:, None]) + mean for each in penalties]


def ridge_r2(train_x: Any, train_y: Any, test_x: Any, test_y: Any, penalty: float) -> Tensor:
    r"""The share of the variance of each target that a ridge regression explains on test rows.

    .. math:: R^2_j = 1 - \frac{\sum_i (y_{ij} - \hat y_{ij})^2}{\sum_i (y_{ij} - \bar y_j)^2}

    The means are those of the test rows, so a constant guess has 0 or less.

    Args:
        train_x: Training features (N, D).
        train_y: Training targets (N, k).
        test_x: Test features (M, D).
        test_y: Test targets (M, k).
        penalty: The penalty of `Ridge`, 0 or more.

    Returns:
        R^2 of each target, (k,), float64; 1 is perfect.

    Raises:
        UsageError: If shapes do not fit, the penalty is negative, or a test target is constant.
        DataError: If features or targets are not finite.

    >>> x = torch.arange(-5.0, 6.0)[:, None]
    >>> y = torch.cat([3 * x + 1, x.square()], 1)  # a line, and what no line gives
    >>> [abs(round(float(share), 6)) for share in ridge_r2(x, y, x, y, penalty=1e-9)]
    [1.0, 0.0]

    What it cannot see: what no linear map of the features gives.
    """
    return Ridge.of(train_x).explained(train_y, penalty, test_x, test_y)


def auroc(scores: Any, hits: Any) -> float:
    r"""The area under the ROC curve, from ranks.

    .. math:: P(s_i > s_j \mid y_i = 1, y_j = 0) + \tfrac12 P(s_i = s_j \mid y_i = 1, y_j = 0)

    Args:
        scores: The scores (N,); larger ones speak for a hit.
        hits: Whether each row is a hit, (N,): booleans, or numbers where 0 is no.

    Returns:
        0 to 1; chance is 0.5.

    Raises:
        UsageError: If shapes differ, or all rows or none are hits.
        DataError: If a score is not finite.

    >>> auroc([0.1, 0.4, 0.4, 0.9], [0, 0, 1, 1])
    0.875

    The value equals scikit-learn's `roc_auc_score`.
    """
    from scipy.stats import rankdata

    values, right = (np.asarray(each, np.float64) for each in (scores, hits))
    right = right != 0
    if values.ndim != 1 or values.shape != right.shape:
        raise UsageError(
            f"Scores and hits must be (N,), but got {values.shape} and {right.shape}; give one for each row."
        )
    if not np.isfinite(values).all():
        raise DataError("Scores must be finite to be ranked; remove the rows that are not.")
    positive = int(right.sum())
    negative = len(right) - positive
    if not positive or not negative:
        raise UsageError(f"AUROC needs hits and others, but {positive} of {len(right)} rows are hits.")
    above = float(rankdata(values)[right].sum()) - positive * (positive + 1) / 2
    return above / (positive * negative)


def _explained(targets: Tensor, predicted: Tensor) -> Tensor:
    spread = (targets - targets.mean(0)).square().sum(0)
    return 1 - (targets - predicted).square().sum(0) / spread


def _targets(targets: Any, count: int) -> Tensor:
    table = torch.as_tensor(targets).double().cpu()
    if table.ndim != 2 or len(table) != count or not table.shape[1]:
        got = tuple(table.shape)
        raise UsageError(f"Targets must be ({count}, k), but got {got}; give one row for each of features.")
    if not table.isfinite().all():
        raise DataError("Targets must be finite; remove the rows that are not.")
    return table
