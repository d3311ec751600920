"""First and second moments of features in float64, which merge exactly, and their spectra."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from fullrank.errors import DataError, UsageError

# Numbers converted to float64 at once: 8 MiB, which fit into a processor's cache during the product.
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
        """The moments of zero rows; merging them changes nothing."""
        zeros = torch.zeros(width + 1, width, dtype=torch.float64, device=device)
        return cls(0, zeros[0], zeros[1:])

    @classmethod
    def of(cls, features: Tensor) -> "Moments":
        """The moments of features (N, D) of any real type.

        Raises:
            UsageError: If the features are not real numbers of shape (N, D) with D of 1 or more.
            DataError: If there is no row, or a value is NaN or infinite.
        """
        width = features.shape[-1] if features.ndim else 0
        # A block has at least as many rows as columns, so that merging is cheap compared with the product.
        blocks = map(cls._of_block, row_blocks(features, at_least=width))
        return reduce(cls.merge, blocks, cls.empty(width, features.device))

    @classmethod
    def _of_block(cls, block: Tensor) -> "Moments":
        mean = block.mean(0)
        centred = block - mean
        return cls(len(block), mean, centred.T @ centred)

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both sets together.

        Raises:
            UsageError: If the widths differ.
        """
        if len(self.mean) != len(other.mean):
            raise UsageError(
                f"Features of width {len(self.mean)} and {len(other.mean)} cannot be merged; "
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
        """Singular values of the centred covariance, (D,), descending; rounding errors below 0 become 0."""
        # The covariance is symmetric and positive semi-definite, so its eigenvalues are its singular values.
        values: Tensor = torch.linalg.eigvalsh(self.covariance.cpu())
        return values.flip(0).clamp_min(0.0)

    def matrix_singular_values(self) -> Tensor:
        r"""Singular values of the features themselves, uncentred, (min(N, D),), descending.

        They are the square roots of the eigenvalues of :math:`S + N \bar h \bar h^\top`. Because of rounding,
        a value that should be 0 can be up to 1e-7 of the largest.
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
        # A sum is finite only if all its terms are. It reads the block once and needs no second array.
        if not torch.isfinite(converted.sum()):
            require_finite(features)
        yield converted


def require_matrix(features: Tensor) -> None:
    """Raise UsageError unless features are real numbers of shape (N, D) with D of 1 or more."""
    if features.ndim != 2 or features.shape[1] == 0 or features.is_complex():
        raise UsageError(
            f"Features must be real numbers of shape (N, D), D of 1 or more, but got {features.dtype} of "
            f"shape {tuple(features.shape)}; pool or flatten them to one vector a row."
        )


def require_rows(count: int) -> int:
    """Return `count`; raise DataError if it is 0."""
    if not count:
        raise DataError("The features have 0 rows, so they have no spectrum; give at least 1 row.")
    return count


def require_finite(features: Tensor) -> None:
    """Raise DataError, with the count and the first one, if rows of features (N, D) have NaN or infinity."""
    broken = torch.cat([~torch.isfinite(block).all(1) for block in torch.split(features, 2**14)])
    if count := int(broken.sum()):
        raise DataError(
            f"{count} of {len(features)} rows of features contain NaN or infinity, first row "
            f"{int(broken.nonzero()[0])} (from 0); drop these rows or find the layer that diverged."
        )
