"""Whether rows that were matched by their order belong together: decided from their features and labels."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fullrank.diagnosis.beside.rows import MatchedRows, row_by_row
from fullrank.embeddings.columns import UNLABELLED
from fullrank.embeddings.files import EmbeddingFile
from fullrank.errors import count_of
from fullrank.linalg import row_coordinates

# Rows are read in runs, because each row is compared with its neighbours in the other set.
_RUN, _MOST_RUNS = 16, 128
# Components of each set that a linear map predicts.
_COMPONENTS = 32
# A row is compared with its partner and with so many rows before and after the partner.
_LAGS = 2
# Fewer rows cannot show that they do not belong together.
_LEAST_RUNS, _LEAST_LABELS = 4, 32
# So many standard errors above chance. Unrelated rows are above it in less than 1 of 1000 cases.
_BEYOND = 4.0
# The share of rows whose labels must agree before labels alone show that rows belong together.
_AGREE = 0.95


def related(matched: MatchedRows, now: EmbeddingFile, before: EmbeddingFile) -> MatchedRows:
    """Rows that were matched by their order, or none where their order shows no relation.

    Args:
        matched: The rows. Those matched by id are returned as they are.
        now: The file of this target.
        before: The file of the other target, with labels in the same numbers.
    """
    if matched.how != "order":
        return matched
    pair = row_by_row(matched, now, before)
    said = labels_say(*pair.labels)
    if said:
        return matched
    why = "their labels agree no more often than by chance"
    if said is None:
        runs = runs_of(pair.now.rows)
        features = (file.take(runs.ravel()).reshape(*runs.shape, -1) for file in (pair.now, pair.before))
        result = belonging(*features)
        if result.shown:
            return matched
        share, chance = (f"{100 * value:.0f} %" for value in (result.share, result.by_chance))
        rows = count_of(result.rows, "row")
        why = f"of the 5 rows around its place, that at its place is the likeliest partner for {share} of "
        why += f"{rows}, and {chance} would be chance"
    notes = (
        f"The rows of {now.name} and {before.name} do not belong together by their order: {why}.",
        "Both are compared as two sets. Ids in both files would match rows in any order.",
    )
    return MatchedRows("none", matched.now[:0], matched.before[:0], notes=notes)


@dataclass(frozen=True)
class Belonging:
    """How often the likeliest partner of a row, of five rows of the other set, is the one at its place.

    Attributes:
        share: That share of the compared rows, the larger one of raw and of standardised channels.
        by_chance: The share for unrelated rows.
        rows: How many rows were compared. 0 where nothing varies or there are fewer than 64 rows.
    """

    share: float
    by_chance: float
    rows: int

    @property
    def shown(self) -> bool:
        """Whether the share is above chance by four standard errors. True where no row was compared."""
        chance = self.by_chance
        return self.rows == 0 or self.share > chance + _BEYOND * math.sqrt(chance * (1 - chance) / self.rows)


def runs_of(count: int) -> np.ndarray:
    """The numbers of rows to read: 128 runs of 16 rows, evenly spaced, or all of fewer; (runs, 16)."""
    runs = min(_MOST_RUNS, count // _RUN)
    starts = np.linspace(0, count - _RUN, runs).astype(np.int64) if runs > 1 else np.zeros(runs, np.int64)
    return starts[:, None] + np.arange(_RUN)


def belonging(first: Tensor, second: Tensor) -> Belonging:
    r"""Whether rows of one set say which of five rows of the other is their partner.

    .. math:: r_i = x_i - \tfrac12 (x_{i-1} + x_{i+1}), \qquad
              s_i(l) = \sum_c \frac{r'^2_{i+l,c}}{\tau_c^2}
              - \frac{(r'_{i+l,c} - \hat r_{i,c})^2}{\sigma_c^2}, \qquad l = -2, \dots, 2

    r and r' are the leading components of what makes a row of each set unlike its neighbours. A linear map,
    fitted on every second run, predicts :math:`\hat r` from r with errors :math:`\sigma`; :math:`\tau` is the
    spread of r'. s is the gain in likelihood, and the partner should have the largest, l = 0. If rows do not
    belong together, each l has it in a fifth of the rows. This also holds for two sets that are sorted by
    class, whose CKA is large. The share is 0 if a linear map explains more of the rows before or after.

    Args:
        first: Features (runs, n, D) of runs of n consecutive rows, n of 7 or more.
        second: Features (runs, n, E) of the same runs of the other set.
    """
    best = Belonging(0.0, 1 / (2 * _LAGS + 1), 0)
    for standardised in (False, True):
        x, y = (_components(side, standardised) for side in (first, second))
        if len(first) < _LEAST_RUNS or not (x.shape[2] and y.shape[2]):
            break
        if _best_shift(x, y) == 0:
            best = replace(best, share=max(best.share, float(_hits(x, y).mean())))
        best = replace(best, rows=len(first[::2]) * (x.shape[1] - 2 * _LAGS))
    return best


def _components(rows: Tensor, standardised: bool) -> Tensor:
    """The leading components (runs, n - 2, k) of what makes each row unlike its neighbours."""
    rows = rows.double()
    unlike = (rows[:, 1:-1] - (rows[:, :-2] + rows[:, 2:]) / 2).flatten(0, 1)
    if standardised:
        spread = unlike.square().mean(0).sqrt()
        unlike = unlike / torch.where(spread > 1e-6 * spread.max(), spread, torch.inf)
    most = min(_COMPONENTS, len(unlike) // 8)
    left, sizes, _ = torch.linalg.svd(row_coordinates(unlike), full_matrices=False)
    live = int((sizes[:most] > 1e-6 * sizes[:1]).sum())
    components: Tensor = left[:, :live] * sizes[:live]
    return components.reshape(len(rows), rows.shape[1] - 2, live)


def _shifted(y: Tensor, lag: int) -> Tensor:
    """The rows (runs, m, k) that are `lag` places after those in the middle of each run."""
    return y[:, _LAGS + lag : y.shape[1] - _LAGS + lag]


def _best_shift(x: Tensor, y: Tensor) -> int:
    """The lag at which a linear map of x explains most of y: 1 if each row of y is one place too late."""
    basis = torch.linalg.qr(_shifted(x, 0).flatten(0, 1)).Q
    shares = []
    for lag in range(-_LAGS, _LAGS + 1):
        rows = _shifted(y, lag).flatten(0, 1)
        shares.append(float(((basis.T @ rows).square().sum(0) / rows.square().sum(0)).sum()))
    return int(np.argmax(shares)) - _LAGS


def _hits(x: Tensor, y: Tensor) -> Tensor:
    """For each row of the runs 0, 2, ... whether its partner is the likeliest; equal rows share the hit."""
    learnt, target = x[1::2].flatten(0, 1), y[1::2].flatten(0, 1)
    map_ = torch.linalg.lstsq(learnt, target).solution
    spread = target.square().mean(0)
    errors = (target - learnt @ map_).square().sum(0) / (len(learnt) - learnt.shape[1])
    errors = errors.clamp_min(1e-9 * spread)
    expected = _shifted(x[::2] @ map_, 0)
    lagged = [_shifted(y[::2], lag) for lag in range(-_LAGS, _LAGS + 1)]
    gains = [(near.square() / spread - (near - expected).square() / errors).sum(2) for near in lagged]
    values = torch.stack([gain.flatten() for gain in gains])
    likeliest = values >= values.amax(0) - 1e-9 * values.abs().amax(0)
    return likeliest[_LAGS] / likeliest.sum(0)


def labels_say(first: np.ndarray | None, second: np.ndarray | None) -> bool | None:
    """Whether labels (N,) of two files show that row i of both is the same. None: they show nothing.

    They show it where almost all agree and the labels are not sorted. They show the opposite where they agree
    no more often than by chance. -1 is no label.
    """
    if first is None or second is None:
        return None
    both = (first != UNLABELLED) & (second != UNLABELLED)
    one, other = first[both], second[both]
    if len(one) < _LEAST_LABELS:
        return None
    counts = [np.bincount(side, minlength=int(max(one.max(), other.max())) + 1) for side in (one, other)]
    chance = float(counts[0] @ counts[1]) / len(one) ** 2
    if chance > 1 - 1 / len(one):
        return None
    agree, shifted = float((one == other).mean()), float((one[1:] == other[:-1]).mean())
    if agree <= chance + _BEYOND * math.sqrt(chance * (1 - chance) / len(one)):
        return False
    return True if agree >= _AGREE and shifted < (agree + chance) / 2 else None
