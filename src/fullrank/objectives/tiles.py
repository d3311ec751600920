"""Log-sums over all pairs of unit vectors, tile by tile: exact, without ever holding the matrix of pairs.

Rows no longer than 1 leave no exponent above 0, so no row needs its own maximum, and one exponential serves
rows and columns. With a `share` each process computes a part of the tiles; backward, the gradient of its own
tiles times the number of processes, which `gather_rows` adds up. Source: Cheng et al. 2024 (2410.17243),
Inf-CL; both sums in one pass are ours.
"""

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fullrank.processes import ALONE, Share

# One side of a tile: on a CPU it fits into a core's cache (the fastest of 256 to 2048), and a GPU needs large
# products.
_SIDE = {"cpu": 512}
_SIDE_ELSEWHERE = 8192


def log_sums_between(
    a: Tensor, b: Tensor, scale: float, share: Share = ALONE, *, others: bool = False
) -> tuple[Tensor, Tensor]:
    r"""log sum_j e^{scale (a_i . b_j - 1)} and log sum_i of the same: (N, K), (M, K) -> (N,), (M,).

    With `others` no row is compared with the row of the same number: j != i.
    """
    if _is_beyond_range(scale):
        exponents = (a @ b.T - 1) * scale
        if others:
            exponents.fill_diagonal_(-torch.inf)
        return exponents.logsumexp(1), exponents.logsumexp(0)
    rows, columns = _LogSums.apply(*_roomy(scale, a, b), scale, share, False, others)
    return rows.to(a.dtype), columns.to(a.dtype)


def log_sums_among(u: Tensor, scale: float, share: Share = ALONE) -> Tensor:
    r"""log sum_{j != i} e^{scale (u_i . u_j - 1)}, (M, K) -> (M,): half of the tiles, by symmetry."""
    if _is_beyond_range(scale):
        return ((u @ u.T - 1) * scale).fill_diagonal_(-torch.inf).logsumexp(1)
    rows: Tensor = _LogSums.apply(*_roomy(scale, u) * 2, scale, share, True, True)
    return rows.to(u.dtype)


class _LogSums(torch.autograd.Function):
    """Log-sums of rows and of columns; `among` the rows of one matrix both are the same, and b is a.

    With `others` the diagonal is left out.
    """

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, scale: float, share: Share, among: bool, others: bool
    ) -> Tensor | tuple[Tensor, Tensor]:
        rows = a.new_zeros(len(a))
        columns = rows if among else b.new_zeros(len(b))
        for i, j in share.taken(_pairs(a, b, among)):
            tile = _exponentials(a[i], b[j], scale)
            if others and i == j:
                tile.fill_diagonal_(0.0)
            rows[i] += tile.sum(1)
            if not (among and i == j):
                columns[j] += tile.sum(0)
        share.add_up(*([rows] if among else [rows, columns]))
        ctx.save_for_backward(a, b, rows, columns)
        ctx.scale, ctx.share, ctx.among, ctx.others = scale, share, among, others
        return rows.log() if among else (rows.log(), columns.log())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        a, b, rows, columns = ctx.saved_tensors
        in_row, in_column = gradients[0] / rows, gradients[-1] / columns
        grad_a = torch.zeros_like(a)
        grad_b = grad_a if ctx.among else torch.zeros_like(b)
        with torch.autocast(a.device.type, enabled=False):  # it may be called where the loss was not
            for i, j in ctx.share.taken(_pairs(a, b, ctx.among)):
                tile = _exponentials(a[i], b[j], ctx.scale).mul_(in_row[i, None] + in_column[j])
                if ctx.others and i == j:
                    tile.fill_diagonal_(0.0)
                grad_a[i].addmm_(tile, b[j])
                if ctx.needs_input_grad[1] and not (ctx.among and i == j):
                    grad_b[j].addmm_(tile.T, a[i])
        factor = ctx.scale * ctx.share.of
        return grad_a.mul_(factor), None if ctx.among else grad_b.mul_(factor), None, None, None, None


def _exponentials(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """exp(scale (a_i . b_j - 1)), a tile."""
    return (a @ b.T).sub_(1.0).mul_(scale).exp_()


def _is_beyond_range(scale: float) -> bool:
    """Whether exponents leave the range of float64, from a scale of 354 on: then the matrix is held."""
    return 2 * scale > _span(torch.float64)


def _roomy(scale: float, *sides: Tensor) -> tuple[Tensor, ...]:
    """The vectors in float64 where exponents from -2 scale to 0 leave the range of their own dtype."""
    return sides if 2 * scale <= _span(sides[0].dtype) else tuple(side.double() for side in sides)


def _span(dtype: torch.dtype) -> float:
    """How far below 0 an exponent may lie so that its exponential is still precise."""
    return -math.log(torch.finfo(dtype).tiny)


def _pairs(a: Tensor, b: Tensor, among: bool) -> Iterator[tuple[slice, slice]]:
    """All pairs of tiles; `among` the rows of one matrix those on and above the diagonal."""
    pairs = product(_tiles(a), _tiles(b))
    return (pair for pair in pairs if pair[0].start <= pair[1].start) if among else pairs


def _tiles(rows: Tensor) -> list[slice]:
    side = _SIDE.get(rows.device.type, _SIDE_ELSEWHERE)
    return [slice(start, start + side) for start in range(0, len(rows), side)]
