"""The spectral contrastive loss: its minimiser spans the top eigenvectors of the augmentation graph."""

import math

import torch
from torch import Tensor

from fullrank.objectives.contract import SummedLoss, check_number, in_single


@in_single
def negative_squares(z_a: Tensor, z_b: Tensor) -> Tensor:
    """The mean squared product of views of different images: (N, K), (N, K) -> scalar."""
    n, own = len(z_a), (z_a * z_b).sum(1)
    # All squares sum to tr(A^T A B^T B): whichever is the smaller, the pairs of images or of channels.
    squares = (z_a @ z_b.T).square().sum() if n < z_a.shape[1] else ((z_a.T @ z_a) * (z_b.T @ z_b)).sum()
    return (squares - own.square().sum()) / (n * (n - 1))


@in_single
def positive_products(z_a: Tensor, z_b: Tensor) -> Tensor:
    """The mean product of the two views of an image: (N, K), (N, K) -> scalar."""
    return (z_a * z_b).sum(1).mean()


def spectral_contrastive(z_a: Tensor, z_b: Tensor) -> Tensor:
    """The spectral contrastive loss of two views, lengths as they are: (N, K), (N, K) -> scalar."""
    return negative_squares(z_a, z_b) - 2 * positive_products(z_a, z_b)


def clipped(z: Tensor, length: float) -> Tensor:
    """Rows (N, K) longer than `length` brought to it; the others as they are."""
    lengths: Tensor = torch.linalg.vector_norm(z, dim=1, keepdim=True)
    return z * (length / lengths.clamp_min(length))


class SpectralContrastiveLoss(SummedLoss):
    r"""The spectral contrastive loss of embeddings of length at most sqrt(mu), as its authors train it.

    .. math:: L = \frac1\mu \Big[-\frac2N \sum_i a_i \cdot b_i
                  + \frac1{N (N - 1)} \sum_{i \ne j} (a_i \cdot b_j)^2\Big]

    with a and b the rows of z_a and z_b. The mean over i != j leaves the pair of each image out of the
    negatives. Called as `loss(z_a, z_b)`. Shapes: (N, K), (N, K) -> scalar, N of 2 or more.

    Args:
        mu: The largest squared length of a row of z, above 0.
        gather: Whether the loss sees the rows of all processes, with exact gradients.
        clip: Whether longer rows are shortened to sqrt(mu), as in the authors' code. Without it only the
            negatives limit the lengths, as in the theory, and a high learning rate can diverge.

    Raises:
        UsageError: A setting is outside its limits, the two embeddings differ in shape, or N is 1.

    >>> SpectralContrastiveLoss()(3 * torch.ones(4, 6), 3 * torch.ones(4, 6))  # clipped, all rows equal
    tensor(-1.)

    Source: HaoChen et al. 2021 (2106.04156); authors' code (mu 1 on CIFAR, 10 on ImageNet).
    """

    trains = frozenset({"infonce", "alignment", "effective_rank", "view_recall"})

    def __init__(self, mu: float = 1.0, gather: bool = True, clip: bool = True):
        super().__init__(gather)
        self.mu, self.clip = check_number("mu", mu, above=0), clip

    def parts(self, z_a: Tensor, z_b: Tensor) -> dict[str, Tensor]:
        """The products of positives and of negatives, clipped."""
        if self.clip:
            z_a, z_b = clipped(z_a, math.sqrt(self.mu)), clipped(z_b, math.sqrt(self.mu))
        return {
            "uniformity": negative_squares(z_a, z_b) / self.mu,
            "alignment": -2 * positive_products(z_a, z_b) / self.mu,
        }

    def chance(self, n: int, width: int | None = None) -> float:
        r"""The lowest loss of embeddings that are all alike: :math:`(s^2 - 2 s) / \mu`, s = min(1, mu).

        Their squared length s is free up to mu where `clip` holds it, and then 1 is best.
        """
        square = min(1.0, self.mu) if self.clip else 1.0
        return square * (square - 2) / self.mu

    def collapsed(self, n: int, width: int) -> dict[str, float]:
        r"""All rows alike, or half along a vector and half against it: the same, for products are squared."""
        return {"one point": self.chance(n), "one line": self.chance(n)}
