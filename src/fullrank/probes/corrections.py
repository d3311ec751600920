"""Corrections of frozen features against cues: trained correction vectors, LEACE, and the mean difference."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear, one_hot

from fullrank.errors import DataError, UsageError
from fullrank.mmd import LEAST_ROWS, within_class_mmd
from fullrank.probes.cued import CuedRows, of_width
from fullrank.probes.logistic import solve_logistic
from fullrank.probes.probe import check_classes, label_vector, rows_by_value, shuffled

GAMMA, HIDDEN, STEPS, RATE = 1000.0, 128, 100, 3e-3
# Rows of a training step, shared equally among the groups.
_BATCH = 256
# Rows of the draw on which MMD is computed before and after.
_JUDGED = 1024
# The penalty of the classifier at the start, relative to the variance of the features.
_START_PENALTY = 1e-3
# A channel that moves by less than this share of its largest value is constant but for rounding in float32.
_CONSTANT = 1e-6
# Whitened features and values of a cue have covariances of this order in float64 if they are uncorrelated.
_UNCORRELATED = 1e-12


@dataclass(frozen=True, eq=False)
class Erasure:
    r"""A linear erasure of cues, :math:`r(x) = x - A B (x - \bar x)`.

    Attributes:
        mean: The mean of the training features (D,).
        outward: A, (D, k): k is the number of directions that are removed.
        inward: B, (k, D), with B A = 1.
    """

    mean: Tensor
    outward: Tensor
    inward: Tensor

    def vectors(self, features: Any) -> Tensor:
        """What `apply` adds to features (N, D): -A B (x - mean), (N, D), float64."""
        centred = of_width(features, len(self.mean)) - self.mean
        return -(centred @ self.inward.T) @ self.outward.T

    def apply(self, features: Any) -> Tensor:
        """The corrected features (N, D), float64."""
        return of_width(features, len(self.mean)) + self.vectors(features)


def leace(features: Any, cues: Any, *, within: Any = None) -> Erasure:
    r"""LEACE: the least change of features after which no linear map reads the cues.

    .. math:: r(x) = x - W^+ Q W (x - \bar x), \qquad W = \mathrm{Cov}(x)^{-1/2}

    Q projects onto the columns of :math:`W\,\mathrm{Cov}(x, z)`, where z has a 0/1 column for each value of
    each cue. :math:`\mathrm{Cov}(r(x), z)` is 0 on the training rows. Where a cue agrees with the class in
    most rows, this also erases most of the class. `within` avoids that: both covariances are then of the
    differences from the class means, so the cue is erased within the classes, on average over them.

    Args:
        features: Features (N, D).
        cues: The values of a cue (N,), or name -> values for several, which are erased together. Rows of -1
            are left out.
        within: The classes (N,); None means that the classes play no role.

    Raises:
        UsageError: If shapes do not fit, or with `within` a cue decides the class.
        DataError: If a cue has one value, or with `within` one value in every class.

    >>> generator = torch.Generator().manual_seed(0)
    >>> cue = torch.arange(100) % 2
    >>> x = torch.randn(100, 3, generator=generator, dtype=torch.float64) + 4 * cue[:, None]
    >>> corrected = leace(x, cue).apply(x)
    >>> bool((corrected[cue == 0].mean(0) - corrected[cue == 1].mean(0)).abs().max() < 1e-9)
    True

    What it cannot see: a nonlinear trace of the cue. With fewer rows than channels every training row is
    fitted, and test rows keep more of the cue.

    Source: Belrose et al. 2023 (arXiv 2306.03819), Theorem 4.2. `within` is ours.
    """
    known = CuedRows.of(features, within, cues)
    if within is not None:
        known.check_classes_of_values(least=1)
    shown = torch.cat(
        [one_hot(torch.unique(values, return_inverse=True)[1]) for values in known.cues.values()], 1
    )
    centred, shown = (_from_class_means(part, known.classes) for part in (known.rows, shown.double()))
    left, sizes, right = torch.linalg.svd(centred, full_matrices=False)
    most = float(sizes[0]) * max(centred.shape) * torch.finfo(torch.float64).eps
    left, sizes, right = (part[..., : int((sizes > most).sum())] for part in (left, sizes, right.T))
    # W Cov(x, z) in the coordinates of the principal directions, without dividing by small variances.
    whitened = left.T @ shown / math.sqrt(len(shown))
    basis, strengths, _ = torch.linalg.svd(whitened, full_matrices=False)
    basis = basis[:, strengths > _UNCORRELATED]
    return Erasure(known.rows.mean(0), (right * sizes) @ basis, ((right / sizes) @ basis).T)


@dataclass(frozen=True, eq=False)
class MeanDifference:
    r"""A shift of features for each value of a cue, which must be known of the rows that are corrected.

    Attributes:
        values: The values of the cue (V,), ascending.
        shifts: What is subtracted for each of them, :math:`\delta_v`, (V, D).
    """

    values: Tensor
    shifts: Tensor

    def vectors(self, features: Any, cue: Any) -> Tensor:
        """What `apply` adds to features (N, D), given the values (N,) of the cue: (N, D), float64."""
        rows, shown = of_width(features, self.shifts.shape[1]), label_vector(cue).to(self.values.device)
        if len(rows) != len(shown):
            raise UsageError(
                f"The mean difference needs the cue of every row, but got {len(shown)} values for "
                f"{len(rows)} rows; give one a row."
            )
        if len(unseen := shown[~torch.isin(shown, self.values)]):
            raise DataError(
                f"The mean difference cannot correct rows of the value {int(unseen[0])}, which no training "
                f"row had; leave out these {len(unseen)} rows, or use a correction that needs no cue."
            )
        return -self.shifts[torch.searchsorted(self.values, shown)]

    def apply(self, features: Any, cue: Any) -> Tensor:
        """The corrected features (N, D), float64, given the values (N,) of the cue."""
        return of_width(features, self.shifts.shape[1]) + self.vectors(features, cue)


def mean_difference(features: Any, labels: Any, cue: Any) -> MeanDifference:
    r"""Subtract what the mean of a cue's value differs by, on average over classes.

    .. math:: x - \delta_v, \qquad
              \delta_v = \operatorname*{mean}_c (\mu_{c, v} - \operatorname*{mean}_{v'} \mu_{c, v'})

    :math:`\mu_{c,v}` is the mean of the features of class c with the value v. Classes that lack a value are
    left out. This correction needs the value of the cue at test time, which the others do not. For several
    cues, correct one after the other.

    Args:
        features: Features (N, D).
        labels: Classes (N,); rows of -1 are left out.
        cue: Values of the cue (N,); rows of -1 are left out.

    Raises:
        UsageError: If shapes do not fit, or the cue decides the class.
        DataError: If there is one class or value, or no class has all values.

    >>> y, cue = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    >>> x = torch.tensor([[0.0, 1.0], [6.0, 1.0], [0.0, 3.0], [6.0, 3.0]])
    >>> mean_difference(x, y, cue).apply(x, cue)[:2]
    tensor([[3., 1.],
            [3., 1.]], dtype=torch.float64)

    What it cannot see: any difference between the values of the cue but that of their means.
    """
    known = CuedRows.of(features, labels, cue)
    check_classes(torch.unique(known.classes), len(known.rows), "A correction")
    known.check_classes_of_values(least=1)
    (column,) = known.cues.values()
    values, shown = torch.unique(column, return_inverse=True)
    means = []
    for members in rows_by_value(known.classes):
        own = shown[members]
        counts = torch.bincount(own, minlength=len(values))
        if bool((counts > 0).all()):
            sums = known.rows.new_zeros(len(values), known.rows.shape[1])
            means.append(sums.index_add_(0, own, known.rows[members]) / counts[:, None])
    if not means:
        raise DataError(
            f"No class has rows of all {len(values)} values of the cue, so their means cannot be compared; "
            "give more rows, or join values."
        )
    averages = torch.stack(means)
    return MeanDifference(values, (averages - averages.mean(1, keepdim=True)).mean(0))


@dataclass(frozen=True, eq=False)
class Correction:
    r"""Correction vectors, :math:`w(x) = W_2\, \mathrm{relu}(W_1 x + b_1) + b_2`, in units of the features.

    Attributes:
        inner: W_1 (H, D), float64.
        inner_bias: b_1 (H,).
        outer: W_2 (D, H).
        outer_bias: b_2 (D,).
        mmd: The within-class MMD of the standardised features before and after the correction, on one draw
            of training rows with groups of equal size, mean over cues.
    """

    inner: Tensor
    inner_bias: Tensor
    outer: Tensor
    outer_bias: Tensor
    mmd: tuple[float, float]

    def vectors(self, features: Any) -> Tensor:
        """w(x) of features (N, D), (N, D), float64."""
        rows = of_width(features, self.inner.shape[1])
        return linear(linear(rows, self.inner, self.inner_bias).relu(), self.outer, self.outer_bias)

    def apply(self, features: Any) -> Tensor:
        """The corrected features x + w(x), (N, D), float64."""
        return of_width(features, self.inner.shape[1]) + self.vectors(features)


def correct(
    features: Any,
    labels: Any,
    cues: Mapping[str, Any],
    *,
    gamma: float = GAMMA,
    hidden: int = HIDDEN,
    steps: int = STEPS,
    rate: float = RATE,
    seed: int = 0,
) -> Correction:
    r"""Train correction vectors, so that within a class the features do not depend on the cues.

    .. math:: \min_{w, W, b}\; \operatorname*{mean}_g \operatorname*{mean}_{i \in g}
              \mathrm{CE}(W (x_i + w(x_i)) + b,\; y_i)
              + \gamma \operatorname*{mean}_{\text{cues}} \mathrm{MMD}^2(x + w(x))

    MMD is `within_class_mmd`. A group g is a class with a value of each cue. Every step draws as many rows of
    each group, as far as it has them, so that rare values are present. All groups have the same weight in the
    cross-entropy. Channels are standardised for the training, w is 0 at the start, and the classifier starts
    at a logistic regression. Adam's rate falls to 0 along a cosine. The classifier is then dropped: fit a
    `LinearProbe` on the corrected features. No cue is needed to correct test rows.

    Args:
        features: Features (N, D).
        labels: Classes (N,); rows of -1 are left out.
        cues: Name of a cue -> its values (N,); rows of -1 are left out.
        gamma: The weight of MMD, 0 or more. With 0 nothing but the classifier trains w.
        hidden: The width H of the hidden layer.
        steps: The number of training steps.
        rate: Adam's learning rate at the start.
        seed: Seed of the weights and of the draws.

    Raises:
        UsageError: If a setting is out of range, shapes do not fit, or a cue decides the class.
        DataError: If there is one class, or no class has two rows of each of two values of a cue.

    >>> generator = torch.Generator().manual_seed(0)
    >>> y, cue = torch.arange(400) % 2, (torch.arange(400) + (torch.arange(400) % 20 < 2)) % 2
    >>> x = torch.stack([y, 5 * cue], 1) + 0.5 * torch.randn(400, 2, generator=generator)
    >>> correction = correct(x, y, {"cue": cue})
    >>> correction.mmd[1] < 0.1 * correction.mmd[0]
    True

    What it cannot see: a dependence on the cue that rare groups are too small to show.

    Source: correction vectors of Cerrato et al. 2021 (arXiv 2201.06343), which we know by the abstract. MMD
    within classes, and groups of equal weight, are ours. The implicit form with a flow is not done.
    """
    _check_settings(gamma, hidden, steps, rate)
    known = CuedRows.of(features, labels, cues)
    names, targets = torch.unique(known.classes, return_inverse=True)
    check_classes(names, len(targets), "A correction")
    known.check_classes_of_values(LEAST_ROWS)
    mean, spread = known.rows.mean(0), known.rows.std(0, correction=0)
    spread = torch.where(spread > _CONSTANT * known.rows.abs().amax(0), spread, 0.0)
    scale = torch.where(spread > 0, 1 / spread, 0.0)
    data = _Groups.of(((known.rows - mean) * scale).float(), targets, [*known.cues.values()])
    generator = torch.Generator().manual_seed(seed)
    net = _start(data.rows, hidden, generator)
    judged = data.draw(_JUDGED, generator)
    before = float(data.mmd(judged, data.rows[judged]))
    _train(net, data, gamma, (steps, rate), generator)
    after = float(data.mmd(judged, _corrected(data.rows[judged], net).detach()))
    inner, inner_bias, outer, outer_bias = (weight.detach().double() for weight in net)
    inner = inner * scale
    outer, outer_bias = spread[:, None] * outer, spread * outer_bias
    return Correction(inner, inner_bias - inner @ mean, outer, outer_bias, (before, after))


@dataclass(frozen=True, eq=False)
class _Groups:
    """Standardised rows (N, D), their class numbers (N,) and cues (N,), and the rows of each group."""

    rows: Tensor
    targets: Tensor
    cues: Sequence[Tensor]
    members: list[Tensor]

    @classmethod
    def of(cls, rows: Tensor, targets: Tensor, cues: Sequence[Tensor]) -> "_Groups":
        """A group is a class with a value of every cue."""
        groups = torch.unique(torch.stack([targets, *cues]), dim=1, return_inverse=True)[1]
        return cls(rows, targets, cues, rows_by_value(groups))

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Numbers of about `count` random rows: as many of each group, or all that it has."""
        most = max(LEAST_ROWS, count // len(self.members))
        return torch.cat([each[:most] for each in shuffled(self.members, generator)])

    def weights(self, count: int) -> Tensor:
        """The weights of the rows that `draw` gives, which are equal for all groups and sum to 1."""
        most = max(LEAST_ROWS, count // len(self.members))
        sizes = torch.tensor([min(most, len(each)) for each in self.members], device=self.rows.device)
        return (1 / (len(sizes) * sizes)).repeat_interleave(sizes)

    def mmd(self, chosen: Tensor, rows: Tensor) -> Tensor:
        """The within-class MMD of features of the chosen rows, mean over cues."""
        classes = self.targets[chosen]
        return torch.stack([within_class_mmd(rows, classes, cue[chosen]) for cue in self.cues]).mean()


def _start(rows: Tensor, hidden: int, generator: torch.Generator) -> list[Tensor]:
    """W_1, b_1, W_2 and b_2 for features of the width of `rows`, w being 0."""
    width = rows.shape[1]
    inner = torch.empty(hidden, width).uniform_(-1, 1, generator=generator) / math.sqrt(width)
    zeros = [torch.zeros(hidden), torch.zeros(width, hidden), torch.zeros(width)]
    return [each.to(rows.device).requires_grad_() for each in (inner, *zeros)]


def _corrected(rows: Tensor, net: Sequence[Tensor]) -> Tensor:
    inner, inner_bias, outer, outer_bias = net
    return rows + linear(linear(rows, inner, inner_bias).relu(), outer, outer_bias)


def _train(
    net: list[Tensor], data: _Groups, gamma: float, pace: tuple[int, float], generator: torch.Generator
) -> None:
    """Train the weights in place; `pace` is the number of steps and the first rate."""
    (steps, rate), classes = pace, int(data.targets.max()) + 1
    begin = solve_logistic(data.rows, data.targets, classes, _START_PENALTY * data.rows.shape[1])
    classifier = [part.float().requires_grad_() for part in (begin.weight, begin.bias)]
    optimizer = torch.optim.Adam([*net, *classifier], rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    weights = data.weights(_BATCH)
    for _ in range(steps):
        chosen = data.draw(_BATCH, generator)
        rows = _corrected(data.rows[chosen], net)
        errors = cross_entropy(linear(rows, *classifier), data.targets[chosen], reduction="none")
        loss = weights @ errors + (gamma * data.mmd(chosen, rows) if gamma else 0.0)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()


def _from_class_means(part: Tensor, classes: Tensor) -> Tensor:
    """Each row less the mean of its class."""
    centred = torch.empty_like(part)
    for members in rows_by_value(classes):
        centred[members] = part[members] - part[members].mean(0)
    return centred


def _check_settings(gamma: float, hidden: int, steps: int, rate: float) -> None:
    if not (gamma >= 0 and math.isfinite(gamma)):
        raise UsageError(f"gamma must be 0 or more, but got {gamma:g}; the default is {GAMMA:g}.")
    if not (rate > 0 and math.isfinite(rate)):
        raise UsageError(f"rate must be above 0, but got {rate:g}; the default is {RATE:g}.")
    for name, value, default in (("hidden", hidden, HIDDEN), ("steps", steps, STEPS)):
        if not value >= 1:
            raise UsageError(f"{name} must be 1 or more, but got {value}; the default is {default}.")
