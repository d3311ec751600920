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

# Rows are read in runs, because each row is compared with its neighbours in the other set.
_RUN, _MOST_RUNS = 16, 128
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
        why = f"of the 5 rows around its place, that at its place is most like it for {share} of {rows}, and "
        why += f"{chance} would be chance"
    notes = (
        f"The rows of {now.name} and {before.name} do not belong together by their order: {why}.",
        "Both are compared as two sets. Ids in both files would match rows in any order.",
    )
    return MatchedRows("none", matched.now[:0], matched.before[:0], notes=notes)


@dataclass(frozen=True)
class Belonging:
    """How often the row of the other set that is most like a row is its partner.

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
    r"""Whether row i of one set is more like row i of another than like the rows around that one.

    .. math:: s_i(l) = \sum_{j \in J} \langle x_i, x_j \rangle \langle y_{i + l}, y_j \rangle, \qquad
              l = -2, \dots, 2

    The rows come in runs of consecutive rows. Every second run is the set J, and the rows i are from the
    others. If rows do not belong together, each l has the largest value in a fifth of the rows. This also
    holds for two sets that are sorted by class, whose CKA is large.

    Args:
        first: Features (runs, n, D) of both sets in the same runs, n of 5 or more.
        second: Features (runs, n, E).
    """
    best = Belonging(0.0, 1 / (2 * _LAGS + 1), 0)
    for standardised in (False, True):
        sides = [_centred(side, standardised) for side in (first, second)]
        if len(first) < _LEAST_RUNS or not all(side.any() for side in sides):
            break
        hits = _hits(*sides)
        best = replace(best, share=max(best.share, float(hits.mean())), rows=len(hits))
    return best


def _centred(rows: Tensor, standardised: bool) -> Tensor:
    flat = rows.double().flatten(0, 1)
    flat = flat - flat.mean(0)
    if standardised:
        spread = flat.square().mean(0).sqrt()
        flat = flat / torch.where(spread > 1e-6 * spread.max(), spread, torch.inf)
    return flat.reshape(rows.shape)


def _hits(x: Tensor, y: Tensor) -> Tensor:
    """For each compared row whether its partner is the row most like it; equal ones share the hit."""
    middle = slice(_LAGS, x.shape[1] - _LAGS)
    across = x[1::2].flatten(0, 1).T @ y[1::2].flatten(0, 1)  # the sum over J of outer products, (D, E)
    seen = x[::2, middle] @ across
    lags = [y[::2].roll(-lag, 1)[:, middle] for lag in range(-_LAGS, _LAGS + 1)]
    values = torch.stack([(seen * lagged).sum(2).flatten() for lagged in lags])
    most = values >= values.amax(0) - 1e-12 * values.abs().amax(0)
    return most[_LAGS] / most.sum(0)


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
