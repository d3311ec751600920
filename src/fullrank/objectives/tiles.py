"""Log-sums over all pairs of unit vectors, tile by tile: exact, without ever holding the matrix of pairs.

Rows no longer than 1 leave no exponent above 0, so no row needs its own maximum, and one exponential serves
rows and columns. Memory is O((N + M) K) and two tiles. The backward pass computes the tiles again, and cannot
be differentiated once more. Source: Cheng et al. 2024 (2410.17243), Inf-CL; both sums in one pass are ours.

With a `share`, processes that hold the same rows (`gather_rows`) compute a part of the tiles each and add up
the sums. Backward, each has the gradient of its own tiles alone, times the number of processes: added up over
them, as `gather_rows` does, it is what each would have if it had computed all.
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


def log_sums_between(a: Tensor, b: Tensor, scale: float, share: Share = ALONE) -> tuple[Tensor, Tensor]:
    r"""log sum_j e^{scale (a_i . b_j - 1)} and log sum_i of the same: (N, K), (M, K) -> (N,), (M,)."""
    if _is_beyond_range(scale):
        exponents = (a @ b.T - 1) * scale
        return exponents.logsumexp(1), exponents.logsumexp(0)
    rows, columns = _Between.apply(*_roomy(scale, a, b), scale, share)
    return rows.to(a.dtype), columns.to(a.dtype)


def log_sums_among(u: Tensor, scale: float, share: Share = ALONE) -> Tensor:
    r"""log sum_{j != i} e^{scale (u_i . u_j - 1)}, (M, K) -> (M,): half of the tiles, by symmetry."""
    if _is_beyond_range(scale):
        return ((u @ u.T - 1) * scale).fill_diagonal_(-torch.inf).logsumexp(1)
    rows: Tensor = _Among.apply(*_roomy(scale, u), scale, share)
    return rows.to(u.dtype)


class _Between(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, scale: float, share: Share) -> tuple[Tensor, Tensor]:
        rows, columns = a.new_zeros(len(a)), b.new_zeros(len(b))
        for here, there in share.taken(product(_tiles(a), _tiles(b))):
            tile = _exponentials(a[here], b[there], scale)
            rows[here] += tile.sum(1)
            columns[there] += tile.sum(0)
        share.add_up(rows, columns)
        ctx.save_for_backward(a, b, rows, columns)
        ctx.scale, ctx.share = scale, share
        return rows.log(), columns.log()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_rows: Tensor, of_columns: Tensor) -> tuple[Tensor, Tensor, None, None]:
        a, b, rows, columns = ctx.saved_tensors
        in_row, in_column = (of_rows / rows)[:, None], of_columns / columns
        grad_a, grad_b = torch.zeros_like(a), torch.zeros_like(b)
        with torch.autocast(a.device.type, enabled=False):  # it may be called where the loss was not
            for here, there in ctx.share.taken(product(_tiles(a), _tiles(b))):
                tile = _exponentials(a[here], b[there], ctx.scale).mul_(in_row[here] + in_column[there])
                grad_a[here].addmm_(tile, b[there])
                grad_b[there].addmm_(tile.T, a[here])
        factor = ctx.scale * ctx.share.of
        return grad_a.mul_(factor), grad_b.mul_(factor), None, None


class _Among(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, scale: float, share: Share) -> Tensor:
        sums = u.new_zeros(len(u))
        for here, there in share.taken(_upper(u)):
            tile = _exponentials(u[here], u[there], scale)
            if here == there:
                tile.fill_diagonal_(0.0)
            else:
                sums[there] += tile.sum(0)
            sums[here] += tile.sum(1)
        share.add_up(sums)
        ctx.save_for_backward(u, sums)
        ctx.scale, ctx.share = scale, share
        return sums.log()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        u, sums = ctx.saved_tensors
        weight, grad = gradient / sums, torch.zeros_like(u)
        with torch.autocast(u.device.type, enabled=False):
            for here, there in ctx.share.taken(_upper(u)):
                tile = _exponentials(u[here], u[there], ctx.scale).mul_(weight[here, None] + weight[there])
                if here == there:
                    tile.fill_diagonal_(0.0)
                else:
                    grad[there].addmm_(tile.T, u[here])
                grad[here].addmm_(tile, u[there])
        return grad.mul_(ctx.scale * ctx.share.of), None, None


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


def _tiles(rows: Tensor) -> list[slice]:
    side = _SIDE.get(rows.device.type, _SIDE_ELSEWHERE)
    return [slice(start, start + side) for start in range(0, len(rows), side)]


def _upper(rows: Tensor) -> Iterator[tuple[slice, slice]]:
    """Pairs of tiles on and above the diagonal."""
    tiles = _tiles(rows)
    return ((here, there) for number, here in enumerate(tiles) for there in tiles[number:])
