"""Prediction of the linear theory for known factors: the linear net of pixels, at any depth."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fullrank.errors import UsageError
from fullrank.theory.common.flow import Array
from fullrank.theory.common.inputs import VANISHING, Indices, whole_number
from fullrank.theory.weighting.fixed_reweighting import channels_by_speed, order_margin, reweighting

IMAGES_PER_COMPONENT = 4
# From a start of 1e-3 less than a tenth of any feature is then in a channel that is not its own.
DECIDED = 1 / 3


@dataclass(frozen=True, eq=False)
class ViewMoments:
    r"""What the linear theory needs of the views of n images, as rows of width D, in float64.

    .. math:: M = \operatorname{cov}(x), \quad \tilde M = E_i\big[(\bar a_i - \mu)(\bar b_i - \mu)^\top\big]

    with :math:`\bar a_i, \bar b_i` the means of the first and of the second views of image i: given the image
    its views are independent, so M~ is unbiased, and the sharper the more views there are. `mean` (D,) is
    that of all views; `square` and `cross` (D, D) are the uncentred moments, so that sets of images merge.
    """

    images: int
    mean: Array
    square: Array
    cross: Array

    @classmethod
    def of(cls, rounds: Iterable[tuple[ArrayLike, ArrayLike]]) -> "ViewMoments":
        """The moments of one or more rounds of two views of the same images, (n, D) each.

        Raises UsageError for no round, and for views that do not fit together.
        """
        return cls.of_parts(rounds, [slice(None)])[0]

    @classmethod
    def of_parts(
        cls, rounds: Iterable[tuple[ArrayLike, ArrayLike]], parts: Sequence[slice | Indices]
    ) -> "list[ViewMoments]":
        """The moments of the images at each of `parts`, rows of the views; raises as `of` does."""
        count, sums = 0, (np.zeros(()), np.zeros(()))
        squares = [np.zeros(()) for _ in parts]
        for pair in rounds:
            first, second = (np.asarray(view, np.float64) for view in pair)
            fitting = first.ndim == 2 and first.shape == second.shape and len(first) > 0
            if not fitting or (count and sums[0].shape != first.shape):
                raise UsageError(
                    f"Views of the same images are needed as (n, D), but got {first.shape} and "
                    f"{second.shape}; draw both views of each image in each round."
                )
            for number, rows in enumerate(parts):
                a, b = first[rows], second[rows]
                squares[number] = squares[number] + (a.T @ a + b.T @ b) / (2 * len(a))
            sums, count = (sums[0] + first, sums[1] + second), count + 1
        if not count:
            raise UsageError("No views are given, but moments need 1 round or more; draw some.")
        moments = []
        for rows, square in zip(parts, squares, strict=True):
            a, b = sums[0][rows] / count, sums[1][rows] / count
            cross = a.T @ b / len(a)
            moments.append(cls(len(a), (a.mean(0) + b.mean(0)) / 2, square / count, (cross + cross.T) / 2))
        return moments

    @classmethod
    def merged(cls, parts: Sequence["ViewMoments"]) -> "ViewMoments":
        """The moments of the images of all `parts` together; raises UsageError for different widths."""
        if len({len(part.mean) for part in parts}) != 1:
            widths = ", ".join(str(len(part.mean)) for part in parts) or "none"
            raise UsageError(f"Moments of one width are merged, but got {widths}; use images of one size.")
        images = sum(part.images for part in parts)
        mean, square, cross = (
            sum((part.images / images * getattr(part, name) for part in parts), np.zeros(()))
            for name in ("mean", "square", "cross")
        )
        return cls(images, mean, square, cross)

    @property
    def moment(self) -> Array:
        """M, centred, (D, D)."""
        return self.square - np.outer(self.mean, self.mean)

    @property
    def cross_moment(self) -> Array:
        """M~, centred and symmetric, (D, D)."""
        return self.cross - np.outer(self.mean, self.mean)


@dataclass(frozen=True, eq=False)
class LinearNet:
    r"""The linear net that minimises the spectral contrastive loss on measured views, in balanced layers.

    .. math:: W^\top W = U \operatorname{diag}(\nu) U^\top, \quad
              P_t^\top P_t = (W^\top W)^t = Q \operatorname{diag}(\sigma^{2t}) Q^\top

    at the share t of its depth; t = 1 is the output. Derived here, as `spectral_model.layer_grams`.

    Args:
        mean: (D,).
        whitening: U (D, p), onto coordinates of variance 1 in the views.
        agreement: :math:`\nu` (p,), the correlation of each coordinate between two views, the largest first.
        patterns: M U (D, p), the image of each direction.
        directions: Q (D, p), orthonormal.
        gains: :math:`\sigma` (p,).
        agreeing: The number of directions in which views agree at all. The p with the highest agreement
            are kept.
    """

    mean: Array
    whitening: Array
    agreement: Array
    patterns: Array
    directions: Array
    gains: Array
    agreeing: int

    def represent(self, images: ArrayLike, share: float) -> Array:
        r"""Images at the share t of the depth, up to a rotation: :math:`Q^\top (x - \mu)\, \sigma^t`.

        Shapes: (n, D) -> (n, p). Raises UsageError for a share outside 0 to 1, or 0, which is the images.
        """
        if not 0 < share <= 1:
            raise UsageError(f"share must be above 0 (the images) to 1 (the output), but got {share:g}.")
        return np.asarray((np.asarray(images, np.float64) - self.mean) @ self.directions * self.gains**share)

    def represent_below(self, images: ArrayLike, kappa: float) -> Array | None:
        r"""Images below a fixed head of weights :math:`\kappa^{-c}`, or None where no order is decided.

        .. math:: h_{c(i)} = \kappa^{c(i)} \sqrt{\nu_i}\, u_i^\top (x - \mu)

        The channels are taken by speed, as in `channels_by_speed`, with :math:`m_i = |M u_i|^2` the strength
        of direction i in the views. The order is decided where there is a channel for each direction in which
        views agree, and `order_margin` of :math:`m_i` and :math:`\nu_i m_i` is a third or more. Shapes: (n,
        D) -> (n, p). Raises UsageError for a kappa below 1.
        """
        alive = self.agreement > 0
        if self.agreeing > alive.sum():
            return None
        strengths = np.square(self.patterns[:, alive]).sum(0)
        moments = np.diag(strengths), np.diag(strengths * self.agreement[alive])
        if order_margin(*moments, kappa) < DECIDED:
            return None
        raised = 1 / reweighting(int(alive.sum()), kappa)[channels_by_speed(*moments)]
        coordinates = (np.asarray(images, np.float64) - self.mean) @ self.whitening[:, alive]
        return np.asarray(coordinates * np.sqrt(self.agreement[alive]) * raised)


def linear_net(moments: ViewMoments, rank: int | None = None, components: int | None = None) -> LinearNet:
    r"""The net of at most `rank` outputs that minimises the spectral contrastive loss on measured views.

    .. math:: W^\top W = M^{-1/2} \big[M^{-1/2} \tilde M M^{-1/2}\big]_p M^{-1/2}

    Only the leading `components` of M are looked at, by default so many that there are 4 images for each, so
    that whitening does not invent directions; an agreement below 0 is 0. Raises UsageError for fewer than 8
    images, images that do not vary, and a rank or components below 1. Derived here, as `optimal_gram`.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(4000, 2)) * [2, 1]
    >>> net = linear_net(ViewMoments.of([(x + [0, 1] * rng.normal(size=x.shape), x)]))
    >>> net.agreement.round(1)
    array([1. , 0.7])
    """
    width = len(moments.mean)
    rank = width if rank is None else whole_number("rank", rank, 1)
    if moments.images < 2 * IMAGES_PER_COMPONENT:
        raise UsageError(
            f"Views of {moments.images} images show no direction, but {2 * IMAGES_PER_COMPONENT} or more "
            "are needed; give more images."
        )
    from scipy.linalg import eigh

    moment = moments.moment
    components = moments.images // IMAGES_PER_COMPONENT if components is None else components
    components = min(width, whole_number("components", components, 1))
    variances, axes = eigh(moment, subset_by_index=[width - components, width - 1])
    varies = variances > VANISHING * max(variances[-1], np.square(moments.mean).max())
    if not varies.any():
        raise UsageError("The images do not vary, so no direction can be predicted; give other images.")
    root = axes[:, varies] / np.sqrt(variances[varies])
    agreements, rotation = np.linalg.eigh(root.T @ moments.cross_moment @ root)
    whitening = root @ rotation[:, ::-1][:, :rank]
    agreement = np.clip(agreements[::-1][:rank], 0.0, None)
    agreeing = int((agreements > 0).sum())
    directions, gains, _ = np.linalg.svd(whitening * np.sqrt(agreement), full_matrices=False)
    return LinearNet(moments.mean, whitening, agreement, moment @ whitening, directions, gains, agreeing)


def labels_needed(variance: float, weight: float) -> float:
    r"""The squared radius over the squared margin of a factor, up to a constant; infinite if it is lost.

    .. math:: S_f(t) = \frac{\operatorname{tr}(C\, (W^\top W)^t)}{\operatorname{tr}(B_f (W^\top W)^t)}

    with C the covariance of the clean images, which a probe sees, and `weight` the root of the trace below.
    Where features are independent and a factor is one of them, it is `sample_complexity.samples_needed`.
    Raises UsageError for negative numbers. Derived here.

    >>> labels_needed(5.0, 2.0), labels_needed(5.0, 0.0)
    (1.25, inf)
    """
    if not (variance >= 0 and weight >= 0):
        raise UsageError(f"variance and weight must be 0 or more, but got {variance:g} and {weight:g}.")
    return variance / weight**2 if weight**2 > 0 else float("inf")
