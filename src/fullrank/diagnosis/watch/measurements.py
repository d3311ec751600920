"""Looks: what SpectrumMonitor measures in the rows of one module at one step."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fullrank.errors import DataError
from fullrank.linalg import Moments
from fullrank.spectrum.functional import effective_rank_of, live_dimensions_of, rankme_of
from fullrank.spectrum.geometry import mean_cosine

MEASURES = ("effective_rank", "rankme", "live_dimensions", "mean_cosine", "finite_rows")


@dataclass(frozen=True)
class Look:
    """What was seen of one module at one step, in `rows` rows of its output.

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


def rows_of(output: object, name: str) -> Tensor:
    """A module's output as rows (N, D), detached: maps (N, C, H, W) and tokens (N, T, D) by their mean.

    The mean is over all positions, a class token among them. The rows are a copy in float32, which what the
    module's caller does to the output cannot change. Raises DataError for anything else.

    >>> rows_of(torch.arange(8.0).view(1, 2, 2, 2), "layer4")
    tensor([[1.5000, 5.5000]])
    """
    if not isinstance(output, Tensor) or output.ndim < 2:
        got = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise DataError(
            f"SpectrumMonitor: the output of {name!r} must be one tensor (N, D), (N, T, D) or (N, C, H, W), "
            f"but got {got}; name a module inside it, or one that comes after."
        )
    output = output.detach()
    if output.ndim == 2:
        return output.to(torch.float32, copy=True)
    return output.float().mean(1) if output.ndim == 3 else output.float().flatten(2).mean(2)


def look_arrays(looks: Sequence[Look]) -> dict[str, np.ndarray]:
    """Looks over time: `step` and `rows` (T,), each of `MEASURES` (T,), `singular_values` (T, D).

    >>> rows = torch.eye(3)
    >>> found = look_arrays([look_at(rows, 1, 1e-6), look_at(rows, 2, 1e-6)])
    >>> found["step"].tolist(), found["singular_values"].shape
    ([1, 2], (2, 3))
    """
    series = {
        field: np.array([getattr(look, field) for look in looks]) for field in ("step", "rows", *MEASURES)
    }
    return series | {"singular_values": torch.stack([look.singular_values for look in looks]).numpy()}


@final
class NewestRows:
    """The newest `size` rows of what is pushed, oldest first.

    >>> newest = NewestRows(3)
    >>> for rows in torch.arange(4.0).view(2, 2, 1):
    ...     newest.push(rows)
    >>> newest.rows()[:, 0].tolist()
    [1.0, 2.0, 3.0]
    """

    def __init__(self, size: int):
        self.size = size
        self._chunks: deque[Tensor] = deque()
        self._held = 0

    def __len__(self) -> int:
        return min(self._held, self.size)

    def push(self, rows: Tensor) -> None:
        """Keep rows (N, D); chunks that are no longer among the newest go."""
        self._chunks.append(rows)
        self._held += len(rows)
        while self._held - len(self._chunks[0]) >= self.size:
            self._held -= len(self._chunks.popleft())

    def rows(self) -> Tensor:
        """The rows (n, D), on the device of the last ones; there must be some."""
        device = self._chunks[-1].device
        return torch.cat([chunk.to(device) for chunk in self._chunks])[-self.size :]

    def clear(self) -> None:
        """Forget all rows."""
        self._chunks.clear()
        self._held = 0
