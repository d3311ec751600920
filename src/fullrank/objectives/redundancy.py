"""Objectives without negatives: channels that vary, and that do not repeat each other."""

import math

import torch.nn.functional as F
from torch import Tensor

from fullrank.objectives.contract import SummedLoss, Unguarded, check_number, in_single

# The authors' own; without them the slope at a constant channel is infinite.
_VICREG_EPS, _BARLOW_EPS = 1e-4, 1e-5


def off_diagonal_energy(square: Tensor) -> Tensor:
    """The sum of squares off the diagonal, (K, K) -> scalar."""
    squares = square.square()
    return squares.sum() - squares.diagonal().sum()


@in_single
def variance_hinge(z: Tensor) -> Tensor:
    """By how much channels fall short of a standard deviation of 1, the mean over channels: v in VICReg."""
    return F.relu(1 - (z.var(0) + _VICREG_EPS).sqrt()).mean()


@in_single
def covariance_energy(z: Tensor) -> Tensor:
    """How much channels repeat each other: c in VICReg."""
    centred = z - z.mean(0)
    return off_diagonal_energy(centred.T @ centred / (len(z) - 1)) / z.shape[1]


@in_single
def cross_correlation(z_a: Tensor, z_b: Tensor) -> Tensor:
    """The correlation of each channel of one view with each of the other, (N, K), (N, K) -> (K, K)."""
    a, b = ((z - z.mean(0)) * (z.var(0, correction=0) + _BARLOW_EPS).rsqrt() for z in (z_a, z_b))
    return a.T @ b / len(z_a)


class VICRegLoss(SummedLoss):
    r"""The two views close together, every channel varying, no two channels correlated.

    .. math:: L = \lambda \frac1{N K} \|z_a - z_b\|_F^2 + \mu \frac{v(z_a) + v(z_b)}2
                  + \nu \big(c(z_a) + c(z_b)\big)

    .. math:: v(z) = \frac1K \sum_k \max\Big(0,\ 1 - \sqrt{\operatorname{var}(z_k) + 10^{-4}}\Big), \quad
              c(z) = \frac1K \sum_{k \ne l} \operatorname{cov}(z_k, z_l)^2

    with variances and covariances over N - 1. The mean over channels and the factor one half follow the
    authors' code; the paper's formula lacks them. Nothing is normalised. Called as `loss(z_a, z_b)`. Shapes:
    (N, K), (N, K) -> scalar, N of 2 or more.

    Args:
        invariance: The weight lambda of the distance between views, 0 or more.
        variance: The weight mu of the hinge on the deviation of each channel, 0 or more.
        covariance: The weight nu of the squared covariances, 0 or more.
        gather: Whether the statistics are those of the rows of all processes.

    Raises:
        UsageError: A setting is outside its limits, the two embeddings differ in shape, or N is 1.

    >>> import torch
    >>> VICRegLoss()(torch.zeros(4, 6), torch.zeros(4, 6))  # all rows equal: 25 (1 - 0.01)
    tensor(24.7500)

    Source: Bardes, Ponce, LeCun 2022 (2105.04906), Equations 1 to 6, weighted as in the authors' code.
    """

    trains = frozenset({"alignment", "effective_rank", "rankme", "participation_ratio", "isotropy", "lidar"})

    def __init__(
        self, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0, gather: bool = True
    ):
        super().__init__(gather)
        self.invariance = check_number("invariance", invariance, least=0)
        self.variance = check_number("variance", variance, least=0)
        self.covariance = check_number("covariance", covariance, least=0)

    def parts(self, z_a: Tensor, z_b: Tensor) -> dict[str, Tensor]:
        """The three weighted terms."""
        return {
            "invariance": self.invariance * F.mse_loss(z_a, z_b),
            "variance": self.variance * ((variance_hinge(z_a) + variance_hinge(z_b)) / 2),
            "covariance": self.covariance * (covariance_energy(z_a) + covariance_energy(z_b)),
        }

    def chance(self, n: int, width: int | None = None) -> float:
        """The loss of embeddings that are all alike: the weight of the variance, less its 1e-4."""
        return self.variance * (1 - math.sqrt(_VICREG_EPS))

    def collapsed(self, n: int, width: int) -> dict[str, float]:
        r"""All rows alike, or all K channels equal with variance 1: :math:`2 \nu (K - 1)`."""
        return {"one point": self.chance(n), "one line": 2 * self.covariance * (width - 1)}

    def unguarded(self) -> tuple[Unguarded, ...]:
        """The variance and covariance terms with weight 0."""
        shrink = "nothing keeps the embeddings from shrinking to a point"
        repeat = "nothing keeps the channels from repeating each other"
        return tuple(
            Unguarded(f"{name} term off", means, f"give the {name} a weight, as in vicreg,{name}={default}")
            for name, weight, means, default in (
                ("variance", self.variance, shrink, 25),
                ("covariance", self.covariance, repeat, 1),
            )
            if weight == 0
        )


class BarlowTwinsLoss(SummedLoss):
    r"""The cross-correlation of the two views brought to the identity.

    .. math:: L = \sum_k (1 - C_{kk})^2 + \lambda \sum_{k \ne l} C_{kl}^2

    .. math:: C_{kl} = \frac1N \sum_i \hat a_{ik} \hat b_{il}, \quad
              \hat a_k = \frac{a_k - \bar a_k}{\sqrt{\operatorname{var}(a_k) + 10^{-5}}}

    with the variance over N, as in batch norm, so that the correlation of a channel with itself is 1. Called
    as `loss(z_a, z_b)`. Shapes: (N, K), (N, K) -> scalar, N of 2 or more.

    Args:
        redundancy: The weight lambda of the entries off the diagonal, 0 or more.
        gather: Whether the statistics are those of the rows of all processes.

    Raises:
        UsageError: A setting is outside its limits, the two embeddings differ in shape, or N is 1.

    >>> import torch
    >>> BarlowTwinsLoss()(torch.zeros(4, 6), torch.zeros(4, 6))
    tensor(6.)

    Source: Zbontar et al. 2021 (2103.03230), Equations 1 and 2, standardised as in the authors' code.
    """

    trains = frozenset({"alignment", "effective_rank", "rankme", "participation_ratio", "isotropy", "lidar"})

    def __init__(self, redundancy: float = 0.005, gather: bool = True):
        super().__init__(gather)
        self.redundancy = check_number("redundancy", redundancy, least=0)

    def parts(self, z_a: Tensor, z_b: Tensor) -> dict[str, Tensor]:
        """How far the cross-correlation is from the identity, on its diagonal and off it."""
        correlation = cross_correlation(z_a, z_b)
        return {
            "invariance": (1 - correlation.diagonal()).square().sum(),
            "redundancy": self.redundancy * off_diagonal_energy(correlation),
        }

    def chance(self, n: int, width: int | None = None) -> float | None:
        """The loss of a batch whose two views are uncorrelated: K, the width of z; None without it."""
        return None if width is None else float(width)

    def collapsed(self, n: int, width: int) -> dict[str, float]:
        r"""All rows alike: K. All K channels equal: :math:`\lambda K (K - 1)`."""
        return {"one point": float(width), "one line": self.redundancy * width * (width - 1)}

    def unguarded(self) -> tuple[Unguarded, ...]:
        """The redundancy term with weight 0."""
        if self.redundancy > 0:
            return ()
        means = "nothing keeps the channels from repeating each other"
        remedy = "give the redundancy a weight, as in barlow-twins,redundancy=0.005"
        return (Unguarded("redundancy term off", means, remedy),)
