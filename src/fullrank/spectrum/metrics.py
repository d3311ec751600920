"""Measures that need only moments, as streaming torchmetrics: O(D^2) memory, float64, exact merge."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, final

import torch
from torch import Tensor
from torchmetrics import Metric

from fullrank.errors import UsageError
from fullrank.linalg import Moments
from fullrank.spectrum.discriminant import group_moments, lidar_of
from fullrank.spectrum.functional import (
    alpha_req_of,
    effective_rank_of,
    live_dimensions_of,
    nesum_of,
    participation_ratio_of,
    rankme_of,
    stable_rank_of,
)
from fullrank.spectrum.geometry import cosine_parts_of, unit_row_sums


class StreamedMetric(Metric, ABC):
    """A measure of all features (N, D) passed so far, computed from float64 sums.

    The sums stay in float64 if a module around the metric changes its precision. Rows that raise are not
    counted.

    Args:
        width: The width D of the features.
        kwargs: Options of `torchmetrics.Metric`.

    Raises:
        UsageError: For another width.
        DataError: For no row, or rows that are not finite.
    """

    is_differentiable = False
    full_state_update = False

    def __init__(self, width: int, **kwargs: Any):
        if not width >= 1:
            raise UsageError(f"{type(self).__name__}: width must be 1 or more, but got {width}; pass D.")
        super().__init__(**kwargs)
        self.width = width

    def _require_width(self, width: int) -> None:
        if width != self.width:
            raise UsageError(
                f"{type(self).__name__} has width {self.width}, but got features of width {width}; create "
                f"one with width={width}."
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> torch.nn.Module:
        # A trainer in half precision converts every module that it finds. Only the device is changed here.
        device = fn(torch.empty(0, dtype=torch.float64, device=self.device)).device
        return super()._apply(lambda state: state.to(device), exclude_state)


class MomentMetric(StreamedMetric):
    """A measure of the moments of all features (N, D) passed so far."""

    moments: Tensor

    def __init__(self, width: int, **kwargs: Any):
        super().__init__(width, **kwargs)
        self.add_state("moments", _pack(Moments.empty(width)), dist_reduce_fx=_merged)

    @abstractmethod
    def _measure(self, moments: Moments) -> Tensor | float: ...

    def update(self, features: Tensor) -> None:
        """Add features (n, D)."""
        self._add(Moments.of(features))

    def compute(self) -> Tensor:
        """The measure of all features so far, in all processes, float64."""
        measured = self._measure(_unpack(self.moments))
        return torch.as_tensor(measured, dtype=torch.float64, device=self.moments.device)

    def _add(self, moments: Moments) -> None:
        self._require_width(len(moments.mean))
        self.moments = _pack(_unpack(self.moments).merge(moments))


@final
class SingularValues(MomentMetric):
    """`fullrank.spectrum.singular_values` of all features: (D,), of the centred covariance, descending.

    For the spectrum of L2-normalised rows, pass `unit_rows(features)`.

    Args:
        width: The width D of the features.
        kwargs: Options of `torchmetrics.Metric`.

    >>> metric = SingularValues(2)
    >>> metric.update(torch.tensor([[1.0, 0.0]]))
    >>> metric.update(torch.tensor([[-1.0, 0.0]]))
    >>> metric.compute()
    tensor([1., 0.], dtype=torch.float64)
    """

    def _measure(self, moments: Moments) -> Tensor:
        return moments.singular_values()


@final
class EffectiveRank(MomentMetric):
    """`fullrank.spectrum.effective_rank` of all features: centred, 1 to D, or 0 if nothing varies.

    Args:
        width: The width D of the features.
        kwargs: Options of `torchmetrics.Metric`.

    >>> metric = EffectiveRank(2)
    >>> metric.update(torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]]))
    >>> round(float(metric.compute()), 6)
    2.0
    """

    def _measure(self, moments: Moments) -> float:
        return effective_rank_of(moments.singular_values())


@final
class ParticipationRatio(MomentMetric):
    """`fullrank.spectrum.participation_ratio` of all features: centred, 1 to D, or 0 if nothing varies.

    Args:
        width: The width D of the features.
        kwargs: Options of `torchmetrics.Metric`.

    >>> metric = ParticipationRatio(3)
    >>> metric.update(torch.tensor([[1.0, 1.0, 7.0], [-1.0, 1.0, 7.0], [1.0, -1.0, 7.0], [-1.0, -1.0, 7.0]]))
    >>> metric.compute()
    tensor(2., dtype=torch.float64)
    """

    def _measure(self, moments: Moments) -> float:
        return participation_ratio_of(moments.singular_values())


@final
class NESum(MomentMetric):
    """`fullrank.spectrum.nesum` of all features: centred, 1 to D, or 0 if nothing varies.

    Args:
        width: The width D of the features.
        kwargs: Options of `torchmetrics.Metric`.

    >>> metric = NESum(2)
    >>> metric.update(torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
    >>> metric.compute()
    tensor(1.2500, dtype=torch.float64)
    """

    def _measure(self, moments: Moments) -> float:
        return nesum_of(moments.singular_values())


@final
class AlphaReQ(MomentMetric):
    """The exponent of `fullrank.spectrum.alpha_req` of all features.

    The window ends earlier if the spectrum does. `alpha_req_of` the result of `SingularValues` says where.

    Args:
        width: The width D of the features.
        first: The first rank of the window.
        last: The last rank of the window, included.
        kwargs: Options of `torchmetrics.Metric`.

    >>> metric = AlphaReQ(8, first=1, last=8)
    >>> rows = torch.diag(torch.arange(1, 9) ** -0.5)
    >>> metric.update(torch.cat([rows, -rows]))
    >>> round(float(metric.compute()), 6)
    1.0
    """

    def __init__(self, width: int, first: int = 4, last: int = 50, **kwargs: Any):
        super().__init__(width, **kwargs)
        self.first, self.last = first, last

    def _measure(self, moments: Moments) -> float:
        return alpha_req_of(moments.singular_values(), self.first, self.last, rows=moments.count).alpha


@final
class LiveDimensions(MomentMetric):
    """`fullrank.spectrum.live_dimensions` of all features: centred, 0 to D.

    Args:
        width: The width D of the features.
        tolerance: A share of the largest value. The default is that of `live_dimensions`.
        kwargs: Options of `torchmetrics.Metric`.

    >>> metric = LiveDimensions(3)
    >>> metric.update(torch.tensor([[1.0, 1.0, 7.0], [-1.0, 1.0, 7.0], [1.0, -1.0, 7.0], [-1.0, -1.0, 7.0]]))
    >>> int(metric.compute())
    2
    """

    def __init__(self, width: int, tolerance: float | None = None, **kwargs: Any):
        super().__init__(width, **kwargs)
        self.tolerance = tolerance

    def _measure(self, moments: Moments) -> float:
        return live_dimensions_of(moments.singular_values(), self.tolerance, rows=moments.count)


@final
class RankMe(MomentMetric):
    """`fullrank.spectrum.rankme` of all features, from their uncentred second moment: 1 to min(N, D).

    If directions are missing, its relative error is about 1e-5. A moment matrix squares the singular values,
    so values that should be 0 come out as up to 1e-7 of the largest.

    Args:
        width: The width D of the features.
        eps: Added to each normalised singular value.
        kwargs: Options of `torchmetrics.Metric`.

    >>> metric = RankMe(4)
    >>> metric.update(torch.eye(4))
    >>> round(float(metric.compute()), 4)
    4.0
    """

    def __init__(self, width: int, eps: float = 1e-7, **kwargs: Any):
        super().__init__(width, **kwargs)
        self.eps = eps

    def _measure(self, moments: Moments) -> float:
        return rankme_of(moments.matrix_singular_values(), self.eps)


@final
class StableRank(MomentMetric):
    """`fullrank.spectrum.stable_rank` of all features: uncentred, 1 to min(N, D), or 0 if all are zero.

    Args:
        width: The width D of the features.
        kwargs: Options of `torchmetrics.Metric`.

    >>> metric = StableRank(2)
    >>> metric.update(torch.diag(torch.tensor([2.0, 1.0])))
    >>> metric.compute()
    tensor(1.2500, dtype=torch.float64)
    """

    def _measure(self, moments: Moments) -> float:
        return stable_rank_of(moments.matrix_singular_values())


@final
class LiDAR(MomentMetric):
    """`fullrank.spectrum.lidar` of all groups. `update` takes whole groups (n, q, D) of q = `views` views.

    Args:
        width: The width D of the features.
        views: The number of views q in each group.
        delta: Added to the diagonal of the within-group covariance.
        eps: Added to each eigenvalue before normalising.
        kwargs: Options of `torchmetrics.Metric`.

    >>> metric = LiDAR(2, views=2)
    >>> images = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> metric.update(torch.stack([images, images], dim=1))
    >>> round(float(metric.compute()), 4)
    2.0
    """

    within: Tensor

    def __init__(self, width: int, views: int, delta: float = 1e-4, eps: float = 1e-8, **kwargs: Any):
        super().__init__(width, **kwargs)
        self.views, self.delta, self.eps = views, delta, eps
        self.add_state("within", torch.zeros(width, width, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, features: Tensor) -> None:
        """Add whole groups (n, q, D): n images, q views of each."""
        means, within = group_moments(features)
        if features.shape[1] != self.views:
            raise UsageError(
                f"LiDAR expects groups of {self.views} views, but got groups of {features.shape[1]}; pass "
                "the same number of views for every image."
            )
        self._add(means)
        self.within = self.within + within

    def _measure(self, moments: Moments) -> float:
        return lidar_of(moments, self.within, self.views, self.delta, self.eps)


@final
class MeanCosine(StreamedMetric):
    """`fullrank.spectrum.mean_cosine` of all features, in O(D) memory: -1/(N-1) to 1, not centred.

    Args:
        width: The width D of the features.
        kwargs: Options of `torchmetrics.Metric`.

    >>> metric = MeanCosine(2)
    >>> metric.update(torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]))
    >>> metric.compute()
    tensor(0.3333, dtype=torch.float64)
    """

    sums: Tensor
    rows: Tensor

    def __init__(self, width: int, **kwargs: Any):
        super().__init__(width, **kwargs)
        self.add_state("sums", torch.zeros(2, width, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("rows", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, features: Tensor) -> None:
        """Add features (n, D)."""
        sums = unit_row_sums(features)
        self._require_width(sums.shape[1])
        self.sums, self.rows = self.sums + sums, self.rows + len(features)

    def compute(self) -> Tensor:
        """The measure of all features so far, in all processes, float64."""
        return cosine_parts_of(self.sums, int(self.rows)).sum()


def _pack(moments: Moments) -> Tensor:
    """Count, mean and scatter as one state (D + 2, D), because each needs the others to merge."""
    count = torch.full_like(moments.mean, moments.count)
    return torch.cat([count[None], moments.mean[None], moments.scatter])


def _unpack(state: Tensor) -> Moments:
    return Moments(int(state[0, 0]), state[1], state[2:])


def _merged(states: Tensor) -> Tensor:
    """One state from the states (P, D + 2, D) of P processes or metrics."""
    return _pack(reduce(Moments.merge, map(_unpack, states)))
