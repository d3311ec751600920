"""Looks: what is measured in the rows of one watched module at one step."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fullrank.diagnosis.watch.outputs import described, mean_token, tensor_in
from fullrank.errors import DataError
from fullrank.linalg import Moments
from fullrank.spectrum.functional import effective_rank_of, live_dimensions_of, rankme_of
from fullrank.spectrum.geometry import mean_cosine

MEASURES = ("effective_rank", "rankme", "live_dimensions", "mean_cosine", "finite_rows")


@dataclass(frozen=True)
class Look:
    """What was measured in one module at one step, in `rows` rows of its output.

    `singular_values` (D,) are those of the centred covariance (1/N), descending, as float32. Where a row is
    not finite, only `finite_rows`, the share of finite ones, is a number.
    """

    step: int
    rows: int
    effective_rank: float
    rankme: float
    live_dimensions: float
    mean_cosine: float
    finite_rows: float
    singular_values: Tensor


def look_at(rows: Tensor, step: int, tolerance: float) -> Look:
    """The measures of rows (N, D), N of 2 or more, by `fullrank.spectrum`: float64, one pass, two spectra.

    `effective_rank` and `live_dimensions` (variances above `tolerance` times the largest) are centred,
    `rankme` and `mean_cosine` are not. No rank is above min(N, D), so keep N well above D; all compare runs
    of one method only.

    >>> look = look_at(torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]), 1, 1e-6)
    >>> look.live_dimensions, look.singular_values.tolist(), round(look.effective_rank, 3)
    (2, [4.5, 0.5], 1.755)
    """
    count, width = rows.shape
    finite = float(torch.isfinite(rows).all(1).double().mean())
    if finite < 1:
        nan = math.nan
        return Look(step, count, nan, nan, nan, nan, finite, torch.full((width,), nan))
    if count < width:
        # The same rows up to a rotation, in N dimensions: the spectra then cost N^3 and not D^3.
        rows = torch.linalg.qr(rows.double().T, mode="r").R.T
    moments = Moments.of(rows)
    values = moments.singular_values()
    return Look(
        step=step,
        rows=count,
        effective_rank=effective_rank_of(values),
        rankme=rankme_of(moments.matrix_singular_values()),
        live_dimensions=live_dimensions_of(values, tolerance, rows=count),
        mean_cosine=mean_cosine(rows),
        finite_rows=finite,
        singular_values=F.pad(values, (0, width - len(values))).float(),
    )


def rows_of(
    output: object, name: str, called_by: str = "SpectrumMonitor", mask: Tensor | None = None
) -> Tensor:
    """A copy of a module's output as float32 rows (N, D); of maps (N, C, H, W) and tokens (N, T, D) the mean.

    Of several tensors `tensor_in` chooses one. With a `mask` (N, T) the mean is that of the tokens that it
    keeps.

    >>> rows_of(torch.arange(8.0).view(1, 2, 2, 2), "layer4")
    tensor([[1.5000, 5.5000]])
    """
    tensor = tensor_in(output)
    if tensor is None or tensor.ndim < 2:
        rows = "rows (N, D), tokens (N, T, D) or maps (N, C, H, W)"
        got = f"but got {described(output)}"
        raise DataError(f"{called_by}: {name!r} must give {rows}, {got}; name a module inside or after it.")
    tensor = tensor.detach()
    if tensor.ndim == 2:
        return tensor.to(torch.float32, copy=True)
    return mean_token(tensor, mask) if tensor.ndim == 3 else tensor.float().flatten(2).mean(2)
