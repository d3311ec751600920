"""First and second moments of features in float64, which merge exactly, and the spectra they give."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from fullrank.errors import DataError, UsageError

# Numbers converted to float64 at once: 8 MiB, which a cache holds while the product reads them.
_BLOCK = 2**20


@dataclass(frozen=True)
class Moments:
    r"""Count, mean and scatter of N feature vectors of width D, in float64.

    .. math:: n = N, \quad \bar h = \tfrac1N \sum_i h_i, \quad
              S = \sum_i (h_i - \bar h)(h_i - \bar h)^\top

    Two sets merge exactly, so features can be streamed in any batch size with O(D^2) memory. Each block of
    rows is centred on its own mean before the product, so that a large mean costs no digits.

    >>> x = torch.randn(100, 5)
    >>> merged = Moments.of(x[:30]).merge(Moments.of(x[30:]))
    >>> torch.allclose(merged.covariance, torch.cov(x.double().T, correction=0))
    True

    Source: Chan, Golub and LeVeque 1983, Equation 2.1.
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def empty(cls, width: int, device: torch.device | str = "cpu") -> "Moments":
        """The moments of no row; merging them changes nothing."""
        zeros = torch.zeros(width + 1, width, dtype=torch.float64, device=device)
        return cls(0, zeros[0], zeros[1:])

    @classmethod
    def of(cls, features: Tensor) -> "Moments":
        """The moments of features (N, D) of any real type; raises as `row_blocks` does."""
        width = features.shape[-1] if features.ndim else 0
        # A block is at least as high as it is wide, so that merging costs little beside the product.
        blocks = map(cls._of_block, row_blocks(features, at_least=width))
        return reduce(cls.merge, blocks, cls.empty(width, features.device))

    @classmethod
    def _of_block(cls, block: Tensor) -> "Moments":
        mean = block.mean(0)
        centred = block - mean
        return cls(len(block), mean, centred.T @ centred)

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both sets together; raises UsageError where their widths differ."""
        if len(self.mean) != len(other.mean):
            raise UsageError(
                f"Features of width {len(self.mean)} and {len(other.mean)} have no common moments; "
                "give features of one place."
            )
        count = self.count + other.count
        difference = other.mean - self.mean
        share = other.count / max(count, 1)
        mean = self.mean + difference * share
        between = self.count * share
        scatter = torch.addr(self.scatter + other.scatter, difference, difference, alpha=between)
        return Moments(count, mean, scatter)

    @property
    def covariance(self) -> Tensor:
        """The centred covariance with 1/N, (D, D) (P1, Section 3)."""
        return self.scatter / require_rows(self.count)

    def singular_values(self) -> Tensor:
        """Singular values of the centred covariance, (D,), descending; rounding below zero is 0."""
        # The covariance is symmetric and positive semi-definite: its eigenvalues are its singular values.
        values: Tensor = torch.linalg.eigvalsh(self.covariance.cpu())
        return values.flip(0).clamp_min(0.0)

    def matrix_singular_values(self) -> Tensor:
        r"""Singular values of the features themselves, uncentred, (min(N, D),), descending.

        They are the roots of the eigenvalues of :math:`S + N \bar h \bar h^\top`. A value that should be 0
        comes out as up to 1e-7 of the largest: the roots of rounding.
        """
        gram = torch.addr(self.scatter, self.mean, self.mean, alpha=require_rows(self.count))
        values: Tensor = torch.linalg.eigvalsh(gram.cpu())
        return values.flip(0).clamp_min(0.0).sqrt()[: self.count]


def row_blocks(features: Tensor, at_least: int = 1) -> Iterator[Tensor]:
    """Yield features (N, D) in float64, in blocks of about 8 MiB that have `at_least` rows or more."""
    require_matrix(features)
    features = features.detach()
    if not len(features):
        return
    for block in torch.split(features, max(_BLOCK // features.shape[1], at_least)):
        converted = block.double()
        # A sum is finite only where all its terms are, and reads the block once without an array beside it.
        if not torch.isfinite(converted.sum()):
            require_finite(features)
        yield converted


def require_matrix(features: Tensor) -> None:
    """Raises UsageError unless features are real numbers of shape (N, D) with D of 1 or more."""
    if features.ndim != 2 or features.shape[1] == 0 or features.is_complex():
        raise UsageError(
            f"Features must be real numbers of shape (N, D) with D of 1 or more, but got {features.dtype} of "
            f"shape {tuple(features.shape)}; pool or flatten them to one vector a row."
        )


def require_rows(count: int) -> int:
    """`count` where there are any rows; otherwise DataError."""
    if not count:
        raise DataError("The features hold no row, so they have no spectrum; give at least 1 row.")
    return count


def require_finite(features: Tensor) -> None:
    """Raises DataError where rows of features (N, D) hold NaN or infinity: how many, and the first one."""
    broken = torch.cat([~torch.isfinite(block).all(1) for block in torch.split(features, 2**14)])
    if count := int(broken.sum()):
        raise DataError(
            f"{count} of {len(features)} rows of features hold NaN or infinity, the first of them row "
            f"{int(broken.nonzero()[0])} (from 0); drop these rows or look for the layer that diverged."
        )
