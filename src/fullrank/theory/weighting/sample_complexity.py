"""The depth at which a feature needs the fewest labels, by a bound from the margin."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fullrank.errors import UsageError
from fullrank.theory.common.flow import Array
from fullrank.theory.common.inputs import feature_strengths, features, whole_number
from fullrank.theory.weighting.augmentation_models import drop
from fullrank.theory.weighting.spectral_model import gains


@dataclass(frozen=True)
class Advice:
    """Where to probe for one feature: the best share of the depth, from 0 (input) to 1 (output), and why.

    `best_share` and `pre_wins` (half the depth beats the output) are None where the theory predicts nothing.
    """

    best_share: float | None
    pre_wins: bool | None
    reason: str


def samples_needed(strengths: ArrayLike, feature_gains: ArrayLike, feature: int, share: ArrayLike) -> Array:
    r"""The squared radius over the squared margin of a label that is the sign of feature j, at depth t = l/L.

    .. math:: S_j(t) = \sum_i \phi_i^2 w_i^{2t} \,/\, (\phi_j^2 w_j^{2t})

    A perceptron errs at most S times, so it is a proxy for the number of labels needed. Infinite where the
    net has lost the feature. Shapes: (d,), (d,), a `feature` from 0, `share` of any shape, 0 to 1 -> the
    shape of `share`. Raises UsageError for numbers outside their limits. Source: Novikoff 1962 for the bound;
    derived here. P2 has a theorem of its own (3.6).

    >>> samples_needed([2.0, 1.0], [0.5, 1.0], 1, [0.0, 0.5, 1.0])
    array([5., 3., 2.])
    """
    strengths, feature_gains, feature = _checked(strengths, feature_gains, feature)
    share = np.asarray(share, np.float64)
    if not ((share >= 0) & (share <= 1)).all():
        raise UsageError(f"share must be 0 (the input) to 1 (the output), but got {share.tolist()}.")
    squares = strengths**2 * feature_gains ** (2 * share[..., None])
    own = squares[..., feature]
    return np.asarray(np.divide(squares.sum(-1), own, out=np.full(share.shape, np.inf), where=own > 0))


def pre_beats_post(strengths: ArrayLike, feature_gains: ArrayLike, feature: int) -> bool:
    r"""Whether feature j needs fewer labels at half the depth than at the output, :math:`S_j(1/2) < S_j(1)`.

    .. math:: w_j < \sum_i \phi_i^2 w_i^2 \,/\, \sum_i \phi_i^2 w_i

    Raises UsageError for numbers outside their limits and a net that lost every feature. Derived here.

    >>> pre_beats_post([1.0, 1.0], [1.0, 0.5], 1), pre_beats_post([1.0, 1.0], [1.0, 0.5], 0)
    (True, False)
    """
    strengths, feature_gains, feature = _checked(strengths, feature_gains, feature)
    squares = strengths**2 * feature_gains
    if not squares.any():
        raise UsageError("gains are 0 for every feature, so no depth carries any; give the gains of a net.")
    return bool(feature_gains[feature] * squares.sum() < (squares * feature_gains).sum())


def best_share(strengths: ArrayLike, feature_gains: ArrayLike, feature: int) -> float:
    r"""The depth t in 0 to 1 at which feature j needs the fewest labels, the least where several tie.

    The minimum of the convex :math:`\log S_j`, which may lie between the layers. Raises UsageError for
    numbers outside their limits and a gain of 0: then S is not continuous at the input. Derived here.

    >>> best_share([1.0, 1.0], [1.0, 0.5], 1), best_share([1.0, 1.0], [1.0, 0.5], 0)
    (0.0, 1.0)
    """
    strengths, feature_gains, feature = _checked(strengths, feature_gains, feature)
    if not feature_gains.all():
        raise UsageError(
            f"gains must be above 0 for the best depth, but feature {int(np.argmin(feature_gains)) + 1} has "
            "0; leave out the features that the net loses."
        )
    logs = np.log(feature_gains)
    reach = 1e-12 * float(np.abs(logs).max(initial=0.0))

    def slope(share: float) -> float:
        squares = strengths**2 * feature_gains ** (2 * share)
        return float(squares @ logs / squares.sum() - logs[feature])

    if slope(0.0) >= -reach:
        return 0.0
    if slope(1.0) <= 0.0:
        return 1.0
    from scipy.optimize import brentq

    return float(brentq(slope, 0.0, 1.0, xtol=1e-12))


def advise(strengths: ArrayLike, feature_gains: ArrayLike, feature: int) -> Advice:
    """Where to probe for feature j by `best_share` and `pre_beats_post`; raises UsageError as they do.

    >>> print(advise([1.0, 1.0], [1.0, 0.5], 1).reason)
    Feature 2 needs the fewest labels at share 0 of the depth: S = 2 there, 3 halfway, 5 at the output.

    Source: derived here.
    """
    share = best_share(strengths, feature_gains, feature)
    wins = pre_beats_post(strengths, feature_gains, feature)
    least, half, end = samples_needed(strengths, feature_gains, feature, [share, 0.5, 1.0])
    reason = (
        f"Feature {feature + 1} needs the fewest labels at share {share:.3g} of the depth: S = {least:.4g} "
        f"there, {half:.4g} halfway, {end:.4g} at the output."
    )
    return Advice(share, wins, reason)


def advise_dropping(
    strengths: ArrayLike, probabilities: ArrayLike, feature: int, rank: int | None = None
) -> Advice:
    """Where to probe if views drop features: at full rank, nothing is predicted.

    In a net of lower `rank` the features dropped most are lost in every layer, so for one of them only the
    input serves; the others are advised as without. Raises as `drop`, `gains` and `advise`. Derived here.

    >>> advise_dropping([2.0, 1.0], [0.1, 0.9], 1).best_share is None
    True
    >>> advise_dropping([2.0, 1.0], [0.1, 0.9], 1, rank=1).best_share
    0.0
    """
    strengths = feature_strengths(strengths)
    learned = gains(*drop(strengths, probabilities), rank)
    _checked(strengths, learned, feature)
    if rank is None or rank == len(strengths):
        return Advice(
            None,
            None,
            f"At full rank ({len(strengths)}) each gain is 1 / strength however often a feature is dropped, "
            "so the linear theory predicts nothing about dropping.",
        )
    if not learned[feature]:
        return Advice(
            0.0,
            None,
            f"Feature {feature + 1} is not among the {rank} that are dropped least, so every layer has lost "
            "it and only the input carries it.",
        )
    alive = np.flatnonzero(learned)
    return advise(strengths[alive], learned[alive], int(np.searchsorted(alive, feature)))


def _checked(strengths: ArrayLike, feature_gains: ArrayLike, feature: int) -> tuple[Array, Array, int]:
    strengths, feature_gains = features(strengths, gains=feature_gains)
    return strengths, feature_gains, whole_number("feature", feature, 0, len(strengths) - 1)
