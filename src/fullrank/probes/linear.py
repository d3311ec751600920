"""The linear probe: logistic regression on frozen features, with a penalty chosen on held-out rows."""

from collections.abc import Collection, Iterator, Sequence
from copy import copy
from typing import Any, Literal, final, get_args

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from fullrank.errors import UsageError
from fullrank.probes.design import Design
from fullrank.probes.logistic import LogisticFit, check_positive, minimise, warn_unless_converged
from fullrank.probes.probe import Probe, check_classes, labelled_rows, rows_by_value, shuffled

Treatment = Literal["raw", "l2", "standardised"]

# Relative to the features' total variance, largest first: 1 to 1e-7.
PENALTIES = tuple(10.0**-power for power in range(8))
HELD_OUT = 0.2
_ROWS = 2**14


@final
class LinearProbe(Probe):
    """Logistic regression on frozen features, with its penalty chosen on a held-out part of the training set.

    `fit` holds out a fifth of each class (at least one row of a class with two or more). It solves for all
    penalties on the rest, takes the penalty with the highest held-out accuracy, and solves once more on all
    rows. Ties go to the lower held-out cross-entropy, then to the larger penalty. If nothing can be held out,
    the largest penalty is taken.

    A penalty p adds (p / 2) * total variance * ||W||_F^2 to the mean cross-entropy. The total variance is the
    mean squared distance of the features from their mean. An overall scale, a shift, a rotation, or constant
    channels therefore change no prediction.

    After `fit`: `penalty`, `held_out` (accuracy by penalty), `classes`, and `weight` (K, D) and `bias` (K,),
    float64. The logits are x W^T + b for features x, which `l2` first brings to unit length. Shapes: features
    (N, D), labels (N,).

    Args:
        penalties: The penalties to choose from, each above 0; None is 1, 0.1, ..., 1e-7.
        tol: The tolerance of the solver (see `solve_logistic`), above 0. There is a warning if it is not
            reached.
        features: What is done to the features first. `raw` is nothing, `l2` brings every row to unit length,
            `standardised` brings every channel to mean 0 and variance 1 over the training rows. Standardising
            undoes any diagonal head, so the default is `raw`.
        seed: The seed of the held-out rows.

    Raises:
        UsageError: A penalty or `tol` is not positive, or `features` is unknown; `fit`, `predict` and `score`
            raise what `Probe` raises.

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
            treatments = ", ".join(get_args(Treatment))
            raise UsageError(f"LinearProbe: features must be one of {treatments}, but got {features!r}.")
        check_positive("tol", tol)
        ordered = tuple(sorted(PENALTIES if penalties is None else penalties, reverse=True))
        if not ordered:
            raise UsageError("LinearProbe: penalties must have at least 1 number, but got none.")
        for penalty in ordered:
            check_positive("penalty", penalty)
        # The given tuple itself where it is in order: `clone` of scikit-learn compares by identity.
        self.penalties = penalties if isinstance(penalties, tuple) and penalties == ordered else ordered
        self.tol, self.features, self.seed = tol, features, seed

    def _learn(self, features: Tensor, targets: Tensor, num_classes: int) -> None:
        features = self._prepare(features)
        held_out = _held_out_rows(targets, self.seed)
        rest = torch.ones(len(targets), dtype=torch.bool, device=targets.device)
        rest[held_out] = False
        self.held_out, self.penalty, start, fits = {}, self.penalties[0], None, list[LogisticFit]()
        if len(held_out):
            design = self._design(features[rest])
            fits = minimise(design, targets[rest], num_classes, self.penalties, self.tol)
            del design  # frees memory, which matters for large sets
            start = self._choose(fits, features[held_out].double(), targets[held_out])
        fits.append(self._solve(features, targets, num_classes, start))
        warn_unless_converged(fits, self.tol, stacklevel=4)

    def _solve(
        self, features: Tensor, targets: Tensor, num_classes: int, start: LogisticFit | None = None
    ) -> LogisticFit:
        """The fit on all rows with `penalty`; sets `weight` and `bias`."""
        (fit,) = minimise(self._design(features), targets, num_classes, [self.penalty], self.tol, start)
        self.weight, self.bias = fit.weight, fit.bias
        return fit

    def _choose(self, fits: Sequence[LogisticFit], features: Tensor, targets: Tensor) -> LogisticFit:
        """The fit with the best held-out accuracy, the first of equals; sets `penalty` and `held_out`."""
        ranks = {}
        for penalty, fit in zip(self.penalties, fits, strict=True):
            logits = features @ fit.weight.T + fit.bias
            self.held_out[penalty] = float((logits.argmax(1) == targets).double().mean())
            ranks[penalty] = self.held_out[penalty], -float(cross_entropy(logits, targets))
        self.penalty = max(ranks, key=ranks.__getitem__)
        return fits[self.penalties.index(self.penalty)]

    def decision_function(self, features: Any) -> Tensor:
        """The logits of rows.

        Args:
            features: Features (N, D), from the place that the probe was fitted on.

        Returns:
            The logits (N, K) of the classes in `classes_`, float64. For two classes, as in scikit-learn, the
            logit of the second less that of the first, (N,).
        """
        features = self._checked(features)
        logits = torch.cat(list(self._logits(features)))
        return logits if len(self.classes) != 2 else logits[:, 1] - logits[:, 0]

    def _decide(self, features: Tensor) -> Tensor:
        return torch.cat([part.argmax(1) for part in self._logits(features)])

    def _logits(self, features: Tensor) -> Iterator[Tensor]:
        # In parts, so that not all features are in memory in float64.
        for part in torch.split(features, _ROWS):
            yield self._prepare(part).double() @ self.weight.T + self.bias

    def _prepare(self, features: Tensor) -> Tensor:
        if self.features != "l2":
            return features
        return normalize(features.double(), eps=torch.finfo(torch.float64).tiny)

    def _design(self, features: Tensor) -> Design:
        return Design.of(features, standardise=self.features == "standardised", tol=self.tol)


def among(probe: LinearProbe, classes: Collection[int]) -> LinearProbe:
    r"""The same probe, restricted to predictions among `classes`; nothing is fitted again.

    .. math:: \hat y(x) = \arg\max_{c \in C} (w_c^\top x + b_c)

    Args:
        probe: A probe that was fitted.
        classes: The labels to choose among.

    Raises:
        UsageError: `classes` is empty, or the probe has not learnt one of them.

    >>> x, y = torch.eye(3).repeat(5, 1), torch.arange(3).repeat(5)
    >>> among(LinearProbe([1e-3]).fit(x, y), {1, 2}).predict([[1.0, 0.2, 0.1], [0.0, 0.1, 0.9]])
    tensor([1, 2])

    Source: Hendrycks et al. on ImageNet-A (arXiv 1907.07174) and ImageNet-R (arXiv 2006.16241), whose code
    keeps the logits of the 200 classes.
    """
    learnt = set(probe.classes.tolist())
    if unknown := sorted(set(classes) - learnt):
        raise UsageError(
            f"{len(unknown)} of {len(classes)} classes are unknown to the probe, the first is {unknown[0]}; "
            f"name some of its {len(learnt)}."
        )
    if not classes:
        raise UsageError(f"A probe needs 1 class or more, but got none; name some of its {len(learnt)}.")
    rows = torch.isin(probe.classes, torch.tensor(sorted(classes), device=probe.classes.device))
    narrowed = copy(probe)
    narrowed.classes, narrowed.weight, narrowed.bias = (
        part[rows] for part in (probe.classes, probe.weight, probe.bias)
    )
    return narrowed


def refitted(probe: LinearProbe, features: Tensor, labels: Any) -> LinearProbe:
    """A probe with the same settings and penalty, fitted on other features; nothing is held out.

    Args:
        probe: A probe that was fitted.
        features: Features (N, D), of any width.
        labels: Labels (N,); rows with the label -1 are left out.

    Raises:
        FullrankError: As `Probe.fit`.

    >>> x, y = torch.eye(4).repeat(5, 1), torch.arange(20) % 4
    >>> probe = LinearProbe().fit(x, y)
    >>> refitted(probe, x[:, :2], y).weight.shape
    torch.Size([4, 2])
    """
    features, labels = labelled_rows(features, labels)
    classes, targets = torch.unique(labels, return_inverse=True)
    check_classes(classes, len(labels), "A probe")
    other = copy(probe)
    fit = other._solve(other._prepare(features), targets, len(classes))
    warn_unless_converged([fit], probe.tol, stacklevel=3)
    other.classes, other._width, other.held_out, other._names = classes, features.shape[1], {}, None
    return other


def _held_out_rows(targets: Tensor, seed: int) -> Tensor:
    """Row numbers of a fifth of each class, at least one row of every class that has two."""
    members = shuffled(rows_by_value(targets), torch.Generator().manual_seed(seed))
    sizes = [max(1, round(HELD_OUT * len(rows))) if len(rows) > 1 else 0 for rows in members]
    return torch.cat([rows[:size] for rows, size in zip(members, sizes, strict=True)])
