"""Stacked linear maps as a cause: how balanced and how aligned they are (P1, Section 5)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fullrank.errors import UsageError
from fullrank.theory.collapse import linear_stack
from fullrank.theory.common.flow import Array


def imbalance(first: Tensor, second: Tensor) -> float:
    r"""How far two stacked maps are from balance, 0 where they share their singular values and directions.

    .. math:: |W_1 W_1^\top - W_2^\top W_2|_F \,/\, |W_1 W_1^\top|_F

    Gradient flow conserves the numerator, so the ratio falls as the maps grow; other optimizers conserve
    nothing. Shapes: W1 (m, D), W2 (K, m) -> 0 or more. Raises UsageError for maps that do not fit together
    or a first map of zeros.

    >>> imbalance(torch.eye(3), torch.eye(3))
    0.0

    Source: P1 Lemma 3.
    """
    return float(linear_stack.relative_imbalance(_checked(first, second))[0])


def alignment_matrix(first: Tensor, second: Tensor) -> Tensor:
    r"""The directions that the second map takes in against those that the first gives out, absolute values.

    .. math:: A = |V_2^\top U_1|

    Shapes: W1 (m, D), W2 (K, m) -> (m, m), float64, rows and columns by descending singular values. Only its
    blocks of unlike singular values have a meaning: within a group of nearly equal ones the vectors, and so
    the entries, are arbitrary, and the diagonal of aligned maps may be far from 1. Raises UsageError for maps
    that do not fit together.

    >>> alignment_matrix(torch.diag(torch.tensor([2.0, 1.0])), torch.diag(torch.tensor([2.0, 1.0])))
    tensor([[1., 0.],
            [0., 1.]], dtype=torch.float64)

    Source: P1 Theorem 2 and Figure 5.
    """
    return torch.from_numpy(linear_stack.alignment(*_checked(first, second)))


def block_alignment(first: Tensor, second: Tensor, rank: int) -> float:
    r"""Whether the leading `rank` directions of two stacked maps are the same, 0 at chance and 1 if they are.

    .. math:: \frac{m \sum_{k, l \le r} A_{kl}^2 - r^2}{r (m - r)}

    The remaining m - r directions give the same number. It does not depend on the vectors within a block, so
    nearly equal singular values do no harm. Shapes: W1 (m, D), W2 (K, m) -> 1 or less; below 0 is less than
    chance. Raises UsageError for maps that do not fit together or a rank outside 1 to m - 1.

    >>> stretch = torch.diag(torch.tensor([3.0, 3.0, 1.0, 1.0]))
    >>> block_alignment(stretch, stretch, 2), block_alignment(stretch, stretch.flip(0, 1), 2)
    (1.0, -1.0)

    Source: P1 Theorem 2, by blocks, since it holds within groups of equal singular values only so.
    """
    overlap = alignment_matrix(first, second)
    inner = len(overlap)
    if not 1 <= rank < inner:
        raise UsageError(f"rank must be 1 to {inner - 1}, below the {inner} inner channels, but got {rank}.")
    inside = float(overlap[:rank, :rank].square().sum())
    return (inner * inside - rank**2) / (rank * (inner - rank))


def product(stacked: Sequence[Tensor]) -> Tensor:
    """The maps as one matrix (K, D), float64; the first of `stacked` is applied first."""
    return torch.from_numpy(linear_stack.product(tuple(map(_array, stacked))))


def _checked(first: Tensor, second: Tensor) -> tuple[Array, Array]:
    if first.ndim != 2 or second.ndim != 2 or first.shape[0] != second.shape[1]:
        shapes = f"{tuple(first.shape)} and {tuple(second.shape)}"
        raise UsageError(f"Expected maps (m, D) and (K, m), but got {shapes}; give the first applied first.")
    return _array(first), _array(second)


def _array(matrix: Tensor) -> Array:
    return np.asarray(matrix.detach().double().cpu())
