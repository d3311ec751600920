"""Stacked linear maps as a cause: how balanced and how aligned they are (P1, Section 5)."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fullrank.errors import UsageError
from fullrank.theory.collapse import linear_stack
from fullrank.theory.common.flow import Array

# Singular values count as at least this share of the largest one.
_TINY = 1e-12


def imbalance(first: Tensor, second: Tensor) -> float:
    r"""How far two stacked maps are from balance. 0 means that they share singular values and directions.

    .. math:: |W_1 W_1^\top - W_2^\top W_2|_F \,/\, |W_1 W_1^\top|_F

    Gradient flow conserves the numerator, so the ratio falls as the maps grow. Other optimizers conserve
    nothing.

    Args:
        first: W1 (m, D).
        second: W2 (K, m).

    Raises:
        UsageError: For maps that do not fit together, or a first map of zeros.

    >>> imbalance(torch.eye(3), torch.eye(3))
    0.0

    Source: P1 Lemma 3.
    """
    return float(linear_stack.relative_imbalance(_checked(first, second))[0])


def alignment_matrix(first: Tensor, second: Tensor) -> Tensor:
    r"""The input directions of the second map against the output directions of the first, absolute values.

    .. math:: A = |V_2^\top U_1|

    Rows and columns are in the order of descending singular values. Only blocks of different singular values
    have a meaning. Within a group of nearly equal ones the vectors are arbitrary, and so are the entries. The
    diagonal of aligned maps may be far from 1.

    Args:
        first: W1 (m, D).
        second: W2 (K, m).

    Returns:
        The matrix (m, m), float64.

    Raises:
        UsageError: For maps that do not fit together.

    >>> alignment_matrix(torch.diag(torch.tensor([2.0, 1.0])), torch.diag(torch.tensor([2.0, 1.0])))
    tensor([[1., 0.],
            [0., 1.]], dtype=torch.float64)

    Source: P1 Theorem 2 and Figure 5.
    """
    return torch.from_numpy(linear_stack.alignment(*_checked(first, second)))


def block_alignment(first: Tensor, second: Tensor, rank: int) -> float:
    r"""Whether the leading `rank` directions of two stacked maps agree: 0 at chance, 1 if they are the same.

    .. math:: \frac{m \sum_{k, l \le r} A_{kl}^2 - r^2}{r (m - r)}

    The remaining m - r directions give the same number. It does not depend on the vectors within a block, so
    nearly equal singular values do no harm. Values below 0 are less than chance.

    Args:
        first: W1 (m, D).
        second: W2 (K, m).
        rank: r, from 1 to m - 1.

    Raises:
        UsageError: For maps that do not fit together, or a rank outside 1 to m - 1.

    >>> stretch = torch.diag(torch.tensor([3.0, 3.0, 1.0, 1.0]))
    >>> block_alignment(stretch, stretch, 2), block_alignment(stretch, stretch.flip(0, 1), 2)
    (1.0, -1.0)

    Source: P1 Theorem 2, by blocks, because within groups of equal singular values it holds only for blocks.
    """
    overlap = alignment_matrix(first, second)
    inner = len(overlap)
    if not 1 <= rank < inner:
        raise UsageError(f"rank must be 1 to {inner - 1}, below the {inner} inner channels, but got {rank}.")
    inside = float(overlap[:rank, :rank].square().sum())
    return (inner * inside - rank**2) / (rank * (inner - rank))


def drop_of_one(matrix: Tensor, stacked: Sequence[Tensor], rank: int) -> float:
    r"""The share of the drop of a product after `rank` that one of its maps has, in logarithms.

    .. math:: \log(s_r / s_{r+1}) \,/\, \log(p_r / p_{r+1})

    s and p are the singular values of the map and of the product. L equal maps have 1 / L each. A map that
    alone makes the drop has 1. It sees only the drop at the same place of each spectrum.

    Args:
        matrix: One of the maps.
        stacked: All maps.
        rank: r, from 1 to one less than the smallest width. The product must drop there.

    >>> gains = torch.diag(torch.tensor([1.0, 1.0, 0.1, 0.1]))
    >>> round(drop_of_one(gains, [gains, gains], 2), 3), drop_of_one(torch.eye(4), [torch.eye(4), gains], 2)
    (0.5, 0.0)
    """

    def drop(of: Tensor) -> float:
        values = torch.linalg.svdvals(of.double().cpu())
        before, after = values[rank - 1 : rank + 1].clamp_min(_TINY * float(values[0])).tolist()
        return math.log(before / after)

    return drop(matrix) / drop(product(stacked))


def product(stacked: Sequence[Tensor]) -> Tensor:
    """The maps as one matrix (K, D), float64. The first of `stacked` is applied first."""
    return torch.from_numpy(linear_stack.product(tuple(map(_array, stacked))))


def _checked(first: Tensor, second: Tensor) -> tuple[Array, Array]:
    if first.ndim != 2 or second.ndim != 2 or first.shape[0] != second.shape[1]:
        shapes = f"{tuple(first.shape)} and {tuple(second.shape)}"
        raise UsageError(
            f"Expected maps (m, D) and (K, m), but got {shapes}; pass the one applied first as the first."
        )
    return _array(first), _array(second)


def _array(matrix: Tensor) -> Array:
    return np.asarray(matrix.detach().double().cpu())
