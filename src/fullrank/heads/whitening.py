"""Whitening of z over the batch: uncorrelated channels of variance 1, without a trained parameter."""

from typing import Any, final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from fullrank.errors import UsageError
from fullrank.heads import GROUP
from fullrank.processes import process_count, sum_over_processes

# The share of a covariance that is replaced by the mean variance of its channels (W-MSE's epsilon).
SHRINK = 1e-3
# Added to each eigenvalue, as in a batch norm, so that rounding around a collapsed z is not scaled up to 1.
_FLOOR = 1e-5


def whitening_of(z: Tensor, group: int = GROUP) -> tuple[Tensor, Tensor]:
    r"""The mean of z and the matrix that whitens it, from the rows of all processes.

    .. math:: \mu = \tfrac1N \sum_i z_i, \quad
              C = \tfrac1N \sum_i (z_i - \mu)(z_i - \mu)^\top, \quad
              W = \Big((1 - \varepsilon) C + \big(\varepsilon \tfrac{\mathrm{tr}\, C}{k} + 10^{-5}\big) I
              \Big)^{-1/2}

    Here epsilon is 0.001. Wide z is whitened in G groups of k consecutive channels, each with a C of its own;
    the last group may be smaller. W is symmetric (ZCA), so z keeps its axes as far as whitening allows. The
    gradient through W is exact and finite, also where eigenvalues are equal.

    Shapes: (N, K) -> (K,) and (G, k, k). Where the last group is smaller, its matrix has rows and columns
    that belong to no channel.

    Args:
        z: This process's rows; every process must give the same number.
        group: The most channels of a group; the groups are the fewest that this allows.

    Raises:
        UsageError: `group` is below 1, or all processes together have fewer than 2 k rows.

    >>> z = torch.randn(1000, 3) @ torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.5]])
    >>> white = whitened(z, *whitening_of(z))
    >>> torch.allclose(torch.cov(white.T), torch.eye(3), atol=0.05)
    True

    Source: Ermolov et al. 2021 (W-MSE, 2007.06346), with their shrinkage scaled by the mean variance and ZCA
    in place of Cholesky's factor; groups as in Huang et al. 2019 (IterNorm, 1904.03441).
    """
    width, (count, size) = z.shape[1], groups_of(z.shape[1], group)
    rows = len(z) * process_count()
    if rows < 2 * size:
        raise UsageError(
            f"norm=whiten needs {2 * size} rows or more to whiten {size} channels together, but got {rows} "
            "in one call of the head; raise the batch size, or lower group."
        )
    mean = sum_over_processes(z.sum(0)) / rows
    centred = _in_groups(z - mean, count, size)
    covariance = sum_over_processes(torch.einsum("ngi,ngj->gij", centred, centred)) / rows
    # A smaller last group is filled up with channels of zeros, which do not count for its mean variance.
    sizes = torch.full((count,), float(size), dtype=z.dtype, device=z.device)
    sizes[-1] = width - (count - 1) * size
    mean_variance = covariance.diagonal(dim1=-2, dim2=-1).sum(-1) / sizes
    added = SHRINK * mean_variance + _FLOOR
    eye = torch.eye(size, dtype=z.dtype, device=z.device)
    return mean, inverse_root((1 - SHRINK) * covariance + added[:, None, None] * eye)


def whitened(z: Tensor, mean: Tensor, matrices: Tensor) -> Tensor:
    """(z - mean) W for z (N, K), a mean (K,) and W in groups (G, k, k), as `whitening_of` gives them."""
    count, size, _ = matrices.shape
    product = torch.einsum("ngi,gij->ngj", _in_groups(z - mean, count, size), matrices)
    return product.flatten(1)[:, : z.shape[1]]


def inverse_root(matrices: Tensor) -> Tensor:
    r"""The inverse square roots of symmetric positive definite matrices (..., k, k), exactly symmetric.

    For :math:`C = U \mathrm{diag}(\lambda) U^\top` the gradient is that of Daleckii and Krein, with the
    divided differences of :math:`\lambda^{-1/2}` in closed form:

    .. math:: \bar C = U (F \circ U^\top \bar W U) U^\top, \quad
              F_{ij} = \frac{-1}{\sqrt{\lambda_i \lambda_j} (\sqrt{\lambda_i} + \sqrt{\lambda_j})}

    No difference of eigenvalues is divided by, so equal ones do no harm. The result of a batch with a value
    that is not finite is NaN.

    Args:
        matrices: The matrices; only symmetric ones have this gradient.

    >>> inverse_root(torch.diag(torch.tensor([4.0, 0.25])))
    tensor([[0.5000, 0.0000],
            [0.0000, 2.0000]])

    Source: Daleckii and Krein 1965; Higham 2008, Functions of Matrices, Theorem 3.11.
    """
    root: Tensor = _InverseRoot.apply(matrices)
    return root


class _InverseRoot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrices: Tensor) -> Tensor:
        if not matrices.isfinite().all():  # eigh raises; a step that is not finite is handled elsewhere
            vectors, roots = matrices, matrices.new_full(matrices.shape[:-1], torch.nan)
        else:
            values, vectors = torch.linalg.eigh(matrices)
            roots = values.clamp_min(torch.finfo(values.dtype).tiny).sqrt()
        ctx.save_for_backward(vectors, roots)
        root = (vectors / roots[..., None, :]) @ vectors.mT
        symmetric: Tensor = (root + root.mT) / 2
        return symmetric

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        vectors, roots = ctx.saved_tensors
        gradient = (gradients[0] + gradients[0].mT) / 2
        left, right = roots[..., :, None], roots[..., None, :]
        inner = vectors.mT @ gradient @ vectors / (left * right * (left + right))
        back: Tensor = vectors @ inner @ vectors.mT
        return -back


def groups_of(width: int, group: int) -> tuple[int, int]:
    """Into how many groups `width` channels fall, and how many channels the groups have but for the last.

    >>> groups_of(96, 128), groups_of(300, 128), groups_of(11, 3)
    ((1, 96), (3, 100), (4, 3))
    """
    if group < 1:
        raise UsageError(f"group must be 1 or more, but got {group}; it is how many channels are whitened.")
    count = -(-width // group)
    return count, -(-width // count)


def _in_groups(z: Tensor, count: int, size: int) -> Tensor:
    """z (N, K) as (N, G, k), with channels of zeros at the end where the last group is smaller."""
    return functional.pad(z, (0, count * size - z.shape[1])).reshape(-1, count, size)


@final
class Whitening(nn.Module):
    """z whitened: over the rows of one call of all processes in training, with running values in eval mode.

    The running mean starts at 0 and the running matrix at the identity. Each call in training moves them by
    `momentum`. Numbers of 16 bits are raised to float32.

    Shapes: (N, K) -> (N, K).

    Args:
        width: The width K.
        group: The most channels that are whitened together.
        momentum: The share of the running values that a call replaces.
    """

    running_mean: Tensor
    running_matrix: Tensor

    def __init__(self, width: int, group: int = GROUP, momentum: float = 0.1):
        super().__init__()
        self.momentum, self.group = momentum, group
        count, size = groups_of(width, group)
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_matrix", torch.eye(size).repeat(count, 1, 1))

    @property
    def least_rows(self) -> int:
        """The rows that one call in training needs: twice the channels of a group."""
        return 2 * self.running_matrix.shape[-1]

    def forward(self, z: Tensor) -> Tensor:
        """z (N, K) -> z whitened (N, K); raises UsageError in training for fewer than `least_rows` rows."""
        # Mixed precision would round the products of the covariance to 16 bits.
        with torch.autocast(z.device.type, enabled=False):
            z = z.to(torch.promote_types(z.dtype, torch.float32))
            if not self.training:
                return whitened(z, self.running_mean.to(z.dtype), self.running_matrix.to(z.dtype))
            mean, matrices = whitening_of(z, self.group)
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
                self.running_matrix.lerp_(matrices.to(self.running_matrix.dtype), self.momentum)
            return whitened(z, mean, matrices)

    def kept(self, variances: Tensor) -> int:
        """How many of uncorrelated channels with these variances (K,) keep half of variance 1 or more."""
        size = self.running_matrix.shape[-1]
        shares = []
        for part in torch.split(variances, size):
            shrunk = (1 - SHRINK) * part + SHRINK * part.mean() + _FLOOR
            shares.append(part / shrunk)
        return int((torch.cat(shares) >= 0.5).sum())

    def extra_repr(self) -> str:
        """The groups, which `print` shows."""
        count, size, _ = self.running_matrix.shape
        return f"{len(self.running_mean)}, groups={count} of {size}"
