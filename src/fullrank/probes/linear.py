"""The linear probe: logistic regression on frozen features, its penalty chosen on held-out rows."""

import math
from collections.abc import Sequence
from typing import Literal, final, get_args

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from fullrank.errors import UsageError
from fullrank.probes.design import Design
from fullrank.probes.logistic import LogisticFit, check_positive, minimise, warn_unless_converged
from fullrank.probes.probe import Probe

Treatment = Literal["raw", "l2", "standardised"]

# Relative to the features' total variance, largest first: 1 to 1e-7.
PENALTIES = tuple(10.0**-power for power in range(8))
HELD_OUT = 0.2
_ROWS = 2**14


@final
class LinearProbe(Probe):
    """Logistic regression on frozen features, its penalty chosen on a held-out part of the training set.

    Penalties are relative to the total variance of the features, the mean squared distance from their mean
    (after `features`): `penalty` p means (p / 2) * total variance * ||W||_F^2 beside the mean
    cross-entropy. So an overall scale, a shift, a rotation, or channels that never move change no
    prediction. The default grid is 1, 0.1, ..., 1e-7.

    `fit` holds out a fifth of each class (at least one row of a class of two or more; drawn from `seed`),
    solves for all penalties together on the rest, takes the penalty of highest held-out accuracy, and solves
    once more on all rows. Equal accuracies, common in small sets, go to the lower held-out cross-entropy (on
    60 digits 2 points better than the larger penalty), then to the larger penalty. Where nothing can be held
    out the largest penalty is taken.

    `features` says what is done to the features first: `raw` nothing, `l2` every row to unit length,
    `standardised` every channel to mean 0 and variance 1 over the rows it learns from. Standardising undoes
    any diagonal head, so the default is raw.

    After `fit`: `penalty`, `held_out` (accuracy by penalty), `classes`, and `weight` (K, D) and `bias`
    (K,), float64, with logits = x W^T + b for features x (of unit length under `l2`; `raw` and
    `standardised` take the features as they come). Shapes: features (N, D), labels (N,). Raises
    UsageError for penalties or a tolerance that are not positive or an unknown `features`, and what
    `Probe` raises; warns when `tol` (see `solve_logistic`) is not reached.

    >>> x = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    >>> probe = LinearProbe().fit(x, x[:, 0] > 0)
    >>> probe.score(x, x[:, 0] > 0) > 0.95
    True
    """

    weight: Tensor
    bias: Tensor
    penalty: float
    held_out: dict[float, float]

    def __init__(
        self,
        penalties: Sequence[float] | None = None,
        tol: float = 1e-6,
        features: Treatment = "raw",
        seed: int = 0,
    ):
        if features not in get_args(Treatment):
            raise UsageError(
                f"LinearProbe: features must be one of {', '.join(get_args(Treatment))}, but got "
                f"{features!r}."
            )
        check_positive("tol", tol)
        self.penalties = tuple(sorted(PENALTIES if penalties is None else penalties, reverse=True))
        if not self.penalties:
            raise UsageError("LinearProbe: penalties must hold at least 1 number, but got none.")
        for penalty in self.penalties:
            check_positive("penalty", penalty)
        self.tol, self.features, self.seed = tol, features, seed

    def _learn(self, features: Tensor, targets: Tensor, num_classes: int) -> None:
        features = self._prepare(features)
        held = _held_out_rows(targets, num_classes, self.seed)
        kept = torch.ones(len(targets), dtype=torch.bool, device=targets.device)
        kept[held] = False
        self.held_out, self.penalty, start = {}, self.penalties[0], None
        best = (-1.0, -math.inf)
        fits: list[LogisticFit] = []
        if len(held):
            part = self._design(features[kept])
            fits = minimise(part, targets[kept], num_classes, self.penalties, self.tol)
            asked = features[held].double()
            for penalty, fit in zip(self.penalties, fits, strict=True):
                logits = asked @ fit.weight.T + fit.bias
                accuracy = float((logits.argmax(1) == targets[held]).double().mean())
                loss = float(cross_entropy(logits, targets[held]))
                self.held_out[penalty] = accuracy
                if (accuracy, -loss) > best:
                    best, self.penalty, start = (accuracy, -loss), penalty, fit
            del part, asked  # large sets are large
        design = self._design(features)
        (final_fit,) = minimise(design, targets, num_classes, [self.penalty], self.tol, start)
        warn_unless_converged([*fits, final_fit], self.tol, stacklevel=4)
        self.weight, self.bias = final_fit.weight, final_fit.bias

    def _decide(self, features: Tensor) -> Tensor:
        # A part at a time, so that they are not all held in float64.
        parts = (features[start : start + _ROWS] for start in range(0, max(1, len(features)), _ROWS))
        return torch.cat(
            [(self._prepare(part).double() @ self.weight.T + self.bias).argmax(1) for part in parts]
        )

    def _prepare(self, features: Tensor) -> Tensor:
        if self.features != "l2":
            return features
        return normalize(features.double(), eps=torch.finfo(torch.float64).tiny)

    def _design(self, features: Tensor) -> Design:
        return Design.of(features, standardise=self.features == "standardised", tol=self.tol)


def _held_out_rows(targets: Tensor, num_classes: int, seed: int) -> Tensor:
    """Row numbers of a fifth of each class, at least one row of every class that has two."""
    generator = torch.Generator().manual_seed(seed)
    held = []
    for number in range(num_classes):
        members = (targets == number).nonzero()[:, 0]
        shuffled = members[torch.randperm(len(members), generator=generator).to(members.device)]
        held.append(shuffled[: max(1, round(HELD_OUT * len(members))) if len(members) > 1 else 0])
    return torch.cat(held)
