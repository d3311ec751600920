"""Second moments of features in float64, over channels or over rows, and their spectra."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from fullrank.errors import DataError, UsageError

# Numbers converted to float64 at once: 8 MiB, which fit into a processor's cache during the product.
_BLOCK = 2**20
# Channels that are multiplied at once in a symmetric product.
_CHANNELS = 128


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
        return cls(len(block), mean, inner_products(centred))

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
    def variances(self) -> Tensor:
        """The variance of each channel, (D,)."""
        return self.covariance.diagonal()

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


@dataclass(frozen=True)
class Gram:
    r"""Inner products of N rows of a width D above N, in float64: the spectra of `Moments` in O(N^2) memory.

    .. math:: G_{ij} = (h_i - \bar h)^\top (h_j - \bar h), \quad g_i = (h_i - \bar h)^\top \bar h

    G and the scatter have the same eigenvalues above zero.

    Attributes:
        centred: G, (N, N).
        along_mean: g, (N,).
        mean: The mean, (D,).
        variances: The variance of each channel, (D,).

    >>> x = torch.randn(5, 40)
    >>> torch.allclose(Gram.of(x).singular_values(), Moments.of(x).singular_values(), atol=1e-12)
    True
    """

    centred: Tensor
    along_mean: Tensor
    mean: Tensor
    variances: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "Gram":
        """The inner products of features (N, D) of any real type; raises as `Moments.of` does."""
        require_matrix(features)
        features, count = features.detach(), require_rows(len(features))
        if not torch.isfinite(features.sum(dtype=torch.float64)):
            require_finite(features)
        centred = torch.zeros(count, count, dtype=torch.float64, device=features.device)
        along_mean, means, variances = centred[0].clone(), [], []
        for channels in channel_blocks(features):
            mean = channels.mean(0)
            offset = channels - mean
            centred.addmm_(offset, offset.T)
            along_mean += offset @ mean
            means.append(mean)
            variances.append(offset.square_().mean(0))
        return cls(centred, along_mean, torch.cat(means), torch.cat(variances))

    @property
    def count(self) -> int:
        """N."""
        return len(self.centred)

    def singular_values(self) -> Tensor:
        """Singular values of the centred covariance, (D,), descending. All after the first N are 0."""
        values = torch.linalg.eigvalsh(self.centred.cpu() / self.count).flip(0).clamp_min(0.0)
        return torch.cat([values, values.new_zeros(len(self.mean) - self.count)])

    def matrix_singular_values(self) -> Tensor:
        """Singular values of the features themselves, uncentred, (N,), descending, with the same rounding."""
        gram = self.centred + self.along_mean + self.along_mean[:, None] + self.mean.square().sum()
        values: Tensor = torch.linalg.eigvalsh(gram.cpu())
        return values.flip(0).clamp_min(0.0).sqrt()


def inner_products(rows: Tensor) -> Tensor:
    """The symmetric product `rows.T @ rows` (D, D) of (N, D), at little more than half its cost.

    Each pair of blocks of channels is multiplied once. torch has no such product of its own.

    Args:
        rows: Any matrix (N, D).

    >>> x = torch.randn(10, 300, dtype=torch.float64)
    >>> torch.allclose(inner_products(x), x.T @ x)
    True
    """
    width = rows.shape[1]
    if width <= _CHANNELS:
        return rows.T @ rows
    product = rows.new_empty(width, width)
    for start in range(0, width, _CHANNELS):
        block = slice(start, start + _CHANNELS)
        torch.matmul(rows[:, block].T, rows[:, start:], out=product[block, start:])
        product[start + _CHANNELS :, block] = product[block, start + _CHANNELS :].T
    return product


def second_moments(features: Tensor) -> Moments | Gram:
    """The smaller of two matrices with the same spectra: `Gram` of features with more channels than rows."""
    require_matrix(features)
    return Gram.of(features) if 0 < len(features) < features.shape[1] else Moments.of(features)


def row_coordinates(features: Tensor) -> Tensor:
    """Features (N, D) with more channels than rows as (N, N), float64: the rows in a basis of their span.

    Inner products, distances, spectra and linear probes stay the same to rounding. Channels do not, so
    nothing that is said of a single channel can be read from them. Other features are returned as they are.

    Args:
        features: Features (N, D), finite.

    >>> x = torch.randn(3, 50, dtype=torch.float64)
    >>> torch.allclose(row_coordinates(x) @ row_coordinates(x).T, x @ x.T)
    True
    """
    rows, width = features.shape
    if width <= rows:
        return features
    triangle = features.new_zeros(0, rows, dtype=torch.float64)
    for channels in channel_blocks(features.detach()):
        triangle = torch.linalg.qr(torch.cat([triangle, channels.T]), mode="r")[1]
    return triangle.T.contiguous()


def shared_coordinates(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """`row_coordinates` of features (N, D) and (M, D) together, if D is above N + M; otherwise both as is."""
    if train.shape[1] <= len(train) + len(test):
        return train, test
    rows = row_coordinates(torch.cat([train, test]))
    return rows[: len(train)], rows[len(train) :]


def channel_blocks(features: Tensor) -> Iterator[Tensor]:
    """Yield features (N, D) in float64 in blocks of channels, of about 8 MiB or of 2N channels."""
    rows = len(features)
    for channels in torch.split(features, max(_BLOCK // rows, 2 * rows), dim=1):
        yield channels.double()


def row_blocks(features: Tensor, at_least: int = 1, dtype: torch.dtype = torch.float64) -> Iterator[Tensor]:
    """Yield features (N, D) in blocks of about 2^20 numbers that have `at_least` rows or more.

    Args:
        features: The features.
        at_least: The smallest number of rows in a block, but for the last.
        dtype: The type of the blocks; float64 ones take 8 MiB.

    Raises:
        DataError: A value is not finite.
    """
    require_matrix(features)
    features = features.detach()
    if not len(features):
        return
    for block in torch.split(features, max(_BLOCK // features.shape[1], at_least)):
        converted = block.to(dtype)
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
