"""Objectives of views that agree, each spread like an isotropic Gaussian: SIGReg and its relatives."""

import math
from abc import abstractmethod
from typing import ClassVar, final

import torch
from torch import Tensor

from fullrank.epps_pulley import EppsPulley, random_slices, wave_sums
from fullrank.errors import UsageError
from fullrank.objectives.contract import (
    Unguarded,
    ViewsLoss,
    check_number,
    check_share,
    check_views,
    in_single,
)
from fullrank.processes import sum_over_processes


def distances_to_centre(z: Tensor, global_views: int) -> Tensor:
    """Squared distances of views (V, N, K) to the mean of the global views of their image, (V, N, K)."""
    distances: Tensor = (z - z[:global_views].mean(0)).square()
    return distances


def expected_distance(global_views: int, local_views: int) -> float:
    """The mean of `distances_to_centre` for independent entries of variance 1.

    >>> expected_distance(2, 0), expected_distance(2, 6)
    (0.5, 1.25)
    """
    inside, outside = global_views * (1 - 1 / global_views), local_views * (1 + 1 / global_views)
    return (inside + outside) / (global_views + local_views)


def distance_to_identity(z: Tensor) -> Tensor:
    r"""How far the covariances of views (V, N, K) are from the identity, the mean of the Frobenius norms."""
    centred = z - z.mean(1, keepdim=True)
    covariances = centred.mT @ centred / (z.shape[1] - 1)
    identity = torch.eye(z.shape[2], dtype=z.dtype, device=z.device)
    distance: Tensor = torch.linalg.matrix_norm(covariances - identity).mean()
    return distance


class IsotropyLoss(ViewsLoss):
    r"""Views near the mean of their image's global views, plus a penalty on the distribution of each view.

    .. math:: L = (1 - \lambda) \frac1{V N K} \sum_{v, n, k} (z_{vnk} - \mu_{nk})^2 + \lambda\, P(z), \qquad
              \mu_n = \frac1G \sum_{v \le G} z_{vn}

    Here V is the number of views and G that of the global ones.
    """

    trains = frozenset({"alignment", "effective_rank", "rankme", "participation_ratio", "isotropy", "lidar"})

    needs: ClassVar[frozenset[str]] = frozenset({"generator", "global_views"})
    #: The default weight lambda, which a remedy names.
    usual_weight: ClassVar[float]

    def __init__(self, weight: float, gather: bool):
        super().__init__(gather)
        self.weight = check_share("weight", weight)

    def forward(  # type: ignore[override]  # the keywords are those of `needs`
        self, z: Tensor, *, generator: torch.Generator | None = None, global_views: int | None = None
    ) -> Tensor:
        """Return the loss of the views (V, N, K).

        Args:
            z: The views, the global ones first.
            generator: Where the random directions come from; None is torch's own generator.
            global_views: The number of leading views that are global; None: all.
        """
        apart, penalty = self.summands(z, generator=generator, global_views=global_views).values()
        return apart + penalty

    def summands(
        self, z: Tensor, *, generator: torch.Generator | None = None, global_views: int | None = None
    ) -> dict[str, Tensor]:
        """The two parts of the loss by name, with their weights, from the same arguments."""
        check_views(z, self.least_views)
        leading = len(z) if global_views is None else global_views
        if not 1 <= leading <= len(z):
            raise UsageError(
                f"global_views must be from 1 to the {len(z)} views, but got {leading}; leave it out."
            )
        apart, penalty = self._weighted(z, generator, leading).unbind()
        return {"invariance": apart, "distribution": penalty}

    @in_single
    def _weighted(self, z: Tensor, generator: torch.Generator | None, leading: int) -> Tensor:
        distances = self.over_processes(distances_to_centre(z, leading).sum())
        apart = distances / (len(z) * z.shape[2] * self.images(z))
        return torch.stack([(1 - self.weight) * apart, self.weight * self.penalty(z, generator)])

    def over_processes(self, own: Tensor) -> Tensor:
        """The sum of a tensor over processes, with gradient; without `gather` that of this one."""
        return sum_over_processes(own) if self.gather else own

    def images(self, z: Tensor) -> Tensor:
        """The number of images in all processes, which may have unequal numbers."""
        return self.over_processes(z.new_tensor(float(z.shape[1])))

    @abstractmethod
    def penalty(self, z: Tensor, generator: torch.Generator | None) -> Tensor:
        """The penalty of this process's rows (V, N, K), as part of those of all processes."""

    @abstractmethod
    def floor(self, n: int, width: int) -> float:
        """The penalty of n independent rows of N(0, I)."""

    @abstractmethod
    def collapsed_penalty(self, n: int, width: int) -> dict[str, float]:
        """The penalty of n rows at each kind of collapse."""

    def chance(self, n: int, width: int, global_views: int = 2, local_views: int = 0) -> float:
        r"""The loss of independent views of N(0, I): :math:`(1 - \lambda) E + \lambda P_0`.

        P0 is the floor of the penalty, and E the mean of 1 - 1/G for a global and 1 + 1/G for a local view.
        """
        apart = expected_distance(global_views, local_views)
        return (1 - self.weight) * apart + self.weight * self.floor(n, width)

    def collapsed(self, n: int, width: int, global_views: int = 2, local_views: int = 0) -> dict[str, float]:
        """All rows at 0, or all channels equal and N(0, 1); the views of an image agree in both."""
        return {kind: self.weight * value for kind, value in self.collapsed_penalty(n, width).items()}

    def levels(self, n: int, width: int) -> dict[str, dict[str, float]]:
        """What the penalty is for independent rows of N(0, I), and at each kind of collapse."""
        values = {"floor": self.floor(n, width), **self.collapsed_penalty(n, width)}
        return {"distribution": {name: self.weight * value for name, value in values.items()}}

    def unguarded(self) -> tuple[Unguarded, ...]:
        """What is switched off: the penalty, at weight 0."""
        if self.weight > 0:
            return ()
        means = "nothing keeps the embeddings of all images from becoming one point"
        return (
            Unguarded("penalty weight is 0", means, f"set a weight above 0, such as {self.usual_weight}"),
        )


@final
class SIGRegLoss(IsotropyLoss):
    r"""Views that agree, and whose random projections look standard normal (LeJEPA).

    .. math:: L = (1 - \lambda) \frac1{V N K} \sum_{v, n, k} (z_{vnk} - \mu_{nk})^2
                  + \lambda \frac{N}{V M} \sum_{v, m} \sum_j w_j
                    \Big|\frac1N \sum_n e^{i t_j z_{vn} \cdot a_m} - e^{-t_j^2/2}\Big|^2

    with :math:`\mu_n` the mean of the global views, and M directions a of unit length that are new each step.
    N counts the images of all processes. The knots t are equally spaced on [0, range]; the weights w are
    those of the trapezoidal rule on [-range, range], times :math:`e^{-t^2/2}`. Shapes: (V, N, K) -> scalar.

    Because of the factor N, the weight of the distribution relative to the distance of the views is
    :math:`\lambda N / (1 - \lambda)`: it grows with the batch. Public programs differ here. Some leave out N
    or 1 - lambda, and some count views as images, so a lambda from one does not carry over to another.

    A penalty near its floor does not show full rank. If r of K directions hold the whole variance K, the
    penalty is about 0.24 N (1 - r/K) / r above its floor, which is less than the floor itself if N is below
    4.4 r. So read the effective rank of z beside the loss.

    Args:
        weight: The weight lambda of the penalty, 0 to 1.
        slices: The number M of directions, 1 or more.
        knots: The number of knots, 2 or more.
        range: The last knot, above 0.
        gather: Whether the statistics are those of the rows of all processes.

    Raises:
        UsageError: A setting is outside its limits, or there are fewer than two views or images.

    >>> loss = SIGRegLoss(0.05)
    >>> float(loss(torch.zeros(2, 100, 8)))  # a collapse: 0.05 * 100 * 0.4020
    2.0102...
    >>> round(loss.chance(100, 8), 4)  # independent views of N(0, I)
    0.5276

    Source: Balestriero and LeCun 2025 (2511.08544), Algorithm 2, with the knots of the authors' code.
    """

    usual_weight = 0.05
    #: What it cannot see, as a sentence.
    caution = "SIGReg is nearly blind to rank: a penalty at its floor does not show that z has full rank."

    def __init__(
        self,
        weight: float = 0.05,
        slices: int = 1024,
        knots: int = 17,
        range: float = 3.0,  # noqa: A002  # the option's name in the authors' words
        gather: bool = True,
    ):
        super().__init__(weight, gather)
        self.slices = int(check_number("slices", slices, least=1))
        self.grid = EppsPulley(knots, range)

    def penalty(self, z: Tensor, generator: torch.Generator | None) -> Tensor:
        """N times the mean distance of the characteristic functions."""
        slices = random_slices(z.shape[2], self.slices, generator, z)
        sums = self.over_processes(wave_sums(z, slices, self.grid.step, self.grid.knots - 1))
        images = self.images(z)
        return images * self.grid.statistic(sums, images)

    def floor(self, n: int, width: int) -> float:
        """The floor of the grid, 1.0525 at the defaults: the same for every n and width."""
        return self.grid.floor

    def collapsed_penalty(self, n: int, width: int) -> dict[str, float]:
        """All rows at 0: 0.4020 n at the defaults. All channels equal and N(0, 1): see `one_line`."""
        return {"one point": n * self.grid.one_point, "one line": one_line(self.grid, n, width)}

    def extra_repr(self) -> str:
        """The settings, which `print` shows."""
        return f"{super().extra_repr()}, knots={self.grid.knots}, range={self.grid.reach}"


def one_line(grid: EppsPulley, n: int, width: int) -> float:
    r"""The mean of N T if all channels are equal and N(0, 1).

    A projection is then N(0, b^2) with b the sum of the entries of a direction. b^2 / K is a beta variable,
    so the means of :math:`e^{-t^2 b^2 / 2}` are confluent hypergeometric functions.
    """
    from scipy.special import hyp1f1

    def mean(power: float) -> Tensor:
        """The mean of e^(-power t^2 b^2) over directions, at each knot."""
        return torch.from_numpy(hyp1f1(0.5, width / 2, -power * width * grid.t.square().numpy()))

    once, twice = mean(0.5), mean(1.0)
    distance = n * (twice - 2 * grid.phi * once + grid.phi.square())
    return float((grid.weights * (distance + 1 - twice)).sum())


@final
class WeakSIGRegLoss(IsotropyLoss):
    r"""Views that agree, and whose covariance is near the identity, seen through a random sketch.

    .. math:: L = (1 - \lambda) \frac1{V N K} \sum_{v, n, k} (z_{vnk} - \mu_{nk})^2
                  + \frac{\lambda}{V} \sum_v \big\|\operatorname{cov}(z_v S^\top) - I\big\|_F

    with :math:`\mu_n` the mean of the global views and the covariance over N - 1. The sketch S is (sketch, K)
    with entries of N(0, 1/K), new each step; at K of `sketch` or less there is none. The norm is not squared.
    Shapes: (V, N, K) -> scalar.

    It sees no more than second moments, and with a sketch it never reaches 0. The authors' code has the
    penalty alone, as a regulariser; the distance of the views is that of `SIGRegLoss`.

    Args:
        weight: The weight lambda of the penalty, 0 to 1.
        sketch: The number of rows of S, 1 or more.
        gather: Whether the covariances are those of the rows of all processes.

    Raises:
        UsageError: A setting is outside its limits, or there are fewer than two views or images.

    >>> WeakSIGRegLoss(0.5)(torch.zeros(2, 100, 16))  # a collapse: 0.5 * sqrt(16)
    tensor(2.)

    Source: Akbar 2026 (2603.05924), and the authors' code.
    """

    usual_weight = 0.05

    def __init__(self, weight: float = 0.05, sketch: int = 64, gather: bool = True):
        super().__init__(weight, gather)
        self.sketch = int(check_number("sketch", sketch, least=1))

    def penalty(self, z: Tensor, generator: torch.Generator | None) -> Tensor:
        """The mean Frobenius distance of the covariances of views from the identity."""
        width = z.shape[2]
        if width > self.sketch:
            # Drawn on the CPU in float32, so the same on every device and in every precision.
            sketch = torch.randn(self.sketch, width, generator=generator).to(z) / math.sqrt(width)
            z = z @ sketch.T
        return distance_to_identity(self.gathered_views(z))

    def floor(self, n: int, width: int) -> float:
        r"""The root of the mean squared norm: :math:`\sqrt{K (K + 1) / (N - 1)}` without a sketch.

        With a sketch of m rows it is near :math:`\sqrt{m (m + 1) (1/K + 1/N)}`. The mean norm is at most 2 %
        below it from about ten channels on.
        """
        if width <= self.sketch:
            return math.sqrt(width * (width + 1) / (n - 1))
        m = self.sketch
        sketched = m * (m + 1) / width
        return math.sqrt(sketched + (m * m + 2 * m / width + m + sketched) / (n - 1))

    def collapsed_penalty(self, n: int, width: int) -> dict[str, float]:
        r"""All rows at 0: :math:`\sqrt m`. All channels equal: :math:`\sqrt{K (K - 1)}`, or about m."""
        m = min(width, self.sketch)
        line = width * (width - 1) if width <= self.sketch else m * (m + 1)
        return {"one point": math.sqrt(m), "one line": math.sqrt(line)}
