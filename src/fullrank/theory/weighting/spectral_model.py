"""The linear net under the spectral loss of two moments: M of one view, M~ across the two of an image."""

import numpy as np
from numpy.typing import ArrayLike

from fullrank.errors import UsageError
from fullrank.theory.collapse.linear_stack import layer_gradients, product
from fullrank.theory.common import inputs
from fullrank.theory.common.flow import Array, Trajectory, Velocity, Weights, integrate

_TIE = 1e-10


def spectral_loss(weights: Weights, moment: ArrayLike, cross_moment: ArrayLike) -> float:
    r"""The spectral contrastive loss of :math:`f(x) = W x`, :math:`W = W_L \cdots W_1`.

    .. math:: \mathcal L(W) = -2 \operatorname{tr}(W \tilde M W^\top)
              + \operatorname{tr}\big((W M W^\top)^2\big),
              \quad M = E[x x^\top],\ \tilde M = E[x_1 x_2^\top]

    Shapes: `weights` one matrix a layer, the first (m, d); moments (d, d). Raises UsageError for moments that
    are asymmetric or indefinite, and for layers that do not fit. Source: the loss of HaoChen et al. 2021
    (2106.04156), written in moments here.

    >>> spectral_loss((np.eye(2),), np.eye(2), np.eye(2))
    -2.0
    """
    moment, cross_moment = inputs.view_moments(moment, cross_moment)
    whole = product(_fitting(weights, len(moment)))
    gram = whole @ moment @ whole.T
    return float(np.sum(gram * gram) - 2 * np.sum((whole @ cross_moment) * whole))


def spectral_velocity(moment: ArrayLike, cross_moment: ArrayLike) -> Velocity:
    r"""The gradient flow of `spectral_loss` in every layer.

    .. math:: \dot W_l = -\frac{\partial \mathcal L}{\partial W_l} = 4\, (W_L \cdots W_{l+1})^\top
              \big(W \tilde M - W M W^\top W M\big) (W_{l-1} \cdots W_1)^\top

    Raises UsageError for moments that are asymmetric or indefinite. Derived here.

    >>> spectral_velocity(np.eye(2), np.eye(2))((np.eye(2) / 2, np.eye(2)))[0]
    array([[1.5, 0. ],
           [0. , 1.5]])
    """
    moment, cross_moment = inputs.view_moments(moment, cross_moment)

    def velocity(weights: Weights) -> Weights:
        whole = product(weights)
        downhill = 4 * (whole @ cross_moment - whole @ moment @ whole.T @ whole @ moment)
        return layer_gradients(weights, downhill)

    return velocity


def gradient_flow(
    start: Weights, moment: ArrayLike, cross_moment: ArrayLike, times: ArrayLike, *, rtol: float = 1e-10
) -> Trajectory:
    """The layers over `times` (T,) from `start` under `spectral_velocity`.

    Where the views agree in a direction in which no view varies, two layers or more diverge in finite time,
    and the trajectory says when. Raises UsageError for moments or layers that do not fit.

    >>> path = gradient_flow((np.eye(1) / 2, np.eye(1) / 2), np.eye(1), np.eye(1) / 4, [0, 20])
    >>> round(float(path.last[0][0, 0]) ** 2, 6)
    0.5
    """
    velocity = spectral_velocity(moment, cross_moment)
    return integrate(velocity, _fitting(start, len(np.asarray(moment))), times, rtol=rtol)


def optimal_gram(moment: ArrayLike, cross_moment: ArrayLike, rank: int | None = None) -> Array:
    r"""The Gram matrix :math:`W^\top W` of the net that minimises `spectral_loss` with `rank` outputs.

    .. math:: W^\top W = M^{-1/2} \big[M^{-1/2} \tilde M M^{-1/2}\big]_p M^{-1/2},
              \quad\text{at full rank } M^{-1} \tilde M M^{-1}

    :math:`[\cdot]_p` keeps the p largest eigenvalues. Shapes: (d, d) -> (d, d). W is 0 where M is. Derived
    here (completing the square; Eckart and Young 1936).

    Raises:
        UsageError: The moments are asymmetric or indefinite, or the rank is outside 1 to d. Or no minimum
            exists, because M~ is above 0 in the null space of M. Or the minimiser is not unique, because the
            eigenvalues p and p + 1 are equal.

    >>> optimal_gram(np.diag([4.0, 1.0]), np.diag([4.0, 0.25]), rank=1)
    array([[0.25, 0.  ],
           [0.  , 0.  ]])
    """
    moment, cross_moment = inputs.view_moments(moment, cross_moment)
    rank = len(moment) if rank is None else inputs.whole_number("rank", rank, 1, len(moment))
    variances, axes = np.linalg.eigh(moment)
    varies = variances > inputs.VANISHING * variances[-1]
    still = axes[:, ~varies]
    stray = float(np.abs(still.T @ cross_moment @ still).max(initial=0.0))
    if stray > inputs.ROUNDING * np.abs(cross_moment).max():
        raise UsageError(
            f"cross_moment is {stray:.3g} in a direction in which moment is 0, so the loss has no minimum; "
            "measure both moments on the same views."
        )
    root = (axes[:, varies] / np.sqrt(variances[varies])) @ axes[:, varies].T
    agreements, directions = np.linalg.eigh(root @ cross_moment @ root)
    agreements, directions = np.clip(agreements[::-1], 0.0, None), directions[:, ::-1]
    _require_no_tie(agreements, rank)
    factor = root @ directions[:, :rank] * np.sqrt(agreements[:rank])
    return np.asarray(factor @ factor.T)


def balanced_factors(gram: ArrayLike, depth: int, width: int | None = None) -> Weights:
    r"""Layers :math:`W_1, \dots, W_L` of equal singular values whose product has the given Gram matrix.

    .. math:: W^\top W = U \operatorname{diag}(\sigma^2) U^\top, \quad
              W_1 = \operatorname{diag}(\sigma^{1/L}) U^\top, \quad
              W_{l>1} = \operatorname{diag}(\sigma^{1/L})

    Of all factorisations this one has the smallest :math:`\sum_l |W_l|_F^2`. Shapes: (d, d) -> (width, d),
    then (width, width); the width is d where none is given. Raises UsageError for a matrix that is asymmetric
    or indefinite, for a depth below 1, and for a Gram matrix of rank above the width. Derived here
    (arithmetic and geometric means of singular values).

    >>> first, second = balanced_factors(np.diag([16.0, 0.0]), depth=2, width=1)
    >>> abs(second @ first)
    array([[4., 0.]])
    """
    gram = inputs.semidefinite("gram", gram)
    depth = inputs.whole_number("depth", depth, 1)
    width = inputs.whole_number("width", len(gram) if width is None else width, 1, len(gram))
    values, axes = np.linalg.eigh(gram)
    values, axes = np.clip(values[::-1], 0.0, None), axes[:, ::-1]
    rank = int((values > inputs.VANISHING * values[0]).sum())
    if rank > width:
        raise UsageError(f"A Gram matrix of rank {rank} does not fit through layers of width {width}.")
    shared = values[:width] ** (0.5 / depth)
    return (shared[:, None] * axes[:, :width].T, *(np.diag(shared) for _ in range(depth - 1)))


def layer_grams(gram: ArrayLike, depth: int) -> tuple[Array, ...]:
    r"""The Gram matrix of the representation after each of L balanced layers, the last being the given one.

    .. math:: P_l^\top P_l = (W^\top W)^{l/L}, \quad P_l = W_l \cdots W_1

    Shapes: (d, d) -> L times (d, d). Raises UsageError for a matrix that is asymmetric or indefinite and for
    a depth below 1. Derived here; progressive weighting by depth is P2's claim.

    >>> [matrix.diagonal().tolist() for matrix in layer_grams(np.diag([16.0, 1.0]), depth=2)]
    [[4.0, 1.0], [16.0, 1.0]]
    """
    gram = inputs.semidefinite("gram", gram)
    depth = inputs.whole_number("depth", depth, 1)
    values, axes = np.linalg.eigh(gram)
    values = np.where(values > inputs.VANISHING * values[-1], values, 0.0)
    return tuple((axes * values ** (layer / depth)) @ axes.T for layer in range(1, depth + 1))


def gains(moment: ArrayLike, cross_moment: ArrayLike, rank: int | None = None) -> Array:
    r"""The factor by which the net multiplies each of d independent features; 0 for those beyond `rank`.

    .. math:: w_i = \sqrt{\tilde M_{ii}} \,/\, M_{ii} \quad\text{for the } p \text{ largest }
              \tilde M_{ii} / M_{ii}

    Shapes: diagonal (d, d) -> (d,). A feature that never varies has gain 0. Raises UsageError as
    `optimal_gram` does, and for moments that are not diagonal. Derived here.

    >>> gains(np.diag([4.0, 1.0]), np.diag([4.0, 0.25]))
    array([0.5, 0.5])
    """
    first, second = inputs.diagonal_moments(moment, cross_moment)
    rank = len(first) if rank is None else inputs.whole_number("rank", rank, 1, len(first))
    varies = first > 0
    if (second[~varies] > 0).any():
        raise UsageError(
            "cross_moment is above 0 for a feature whose moment is 0, so the loss has no minimum; measure "
            "both moments on the same views."
        )
    agreements = np.divide(second, first, out=np.zeros_like(first), where=varies)
    order = np.argsort(-agreements, kind="stable")
    _require_no_tie(agreements[order], rank)
    gain = np.divide(np.sqrt(second), first, out=np.zeros_like(first), where=varies)
    gain[order[rank:]] = 0.0
    return np.asarray(gain)


def layer_weights(strengths: ArrayLike, feature_gains: ArrayLike, depth: int) -> Array:
    r"""The weight of each feature in the representation after each of L balanced layers.

    .. math:: a_i^{(l)} = \phi_i\, w_i^{l/L} = \phi_i^{1 - l/L} \big(\phi_i w_i\big)^{l/L}

    At L = 2 the layers are pre- and post-projection. Shapes: (d,), (d,) -> (L, d). Raises UsageError for
    strengths not above 0, negative gains, lists of different length and a depth below 1. Derived here.

    >>> layer_weights([4.0, 1.0], [0.25, 1.0], depth=2)
    array([[2., 1.],
           [1., 1.]])
    """
    strengths, feature_gains = inputs.features(strengths, gains=feature_gains)
    depth = inputs.whole_number("depth", depth, 1)
    shares = np.arange(1, depth + 1)[:, None] / depth
    return np.asarray(strengths * feature_gains**shares)


def measured_weights(weights: Weights, strengths: ArrayLike) -> Array:
    r"""The weight of each feature after each layer of a given net, :math:`\phi_i\, |P_l e_i|`, (L, d).

    >>> measured_weights((np.diag([2.0, 1.0]), np.ones((1, 2))), [1.0, 3.0])
    array([[2., 3.],
           [2., 3.]])
    """
    strengths = inputs.feature_strengths(strengths)
    partial, rows = np.eye(len(strengths)), []
    for layer in _fitting(weights, len(strengths)):
        partial = layer @ partial
        rows.append(strengths * np.linalg.norm(partial, axis=0))
    return np.array(rows)


def balanced_start(
    depth: int, features: int, width: int | None = None, scale: float = 0.6, seed: int = 0
) -> Weights:
    r"""Layers with :math:`W_{l+1}^\top W_{l+1} = W_l W_l^\top`: random rotations times `scale`.

    A scale of 0.5 to 0.8 learns features of every usual strength soon; from 0.05 two layers or more leave
    weak features unlearned for very long. Shapes: (width, features), then (width, width). Raises UsageError
    for a depth below 1, a width outside 1 to the number of features, and a scale that is not above 0.

    >>> first, second = balanced_start(2, features=3, width=2, scale=0.5)
    >>> np.allclose(first @ first.T, np.eye(2) / 4), np.allclose(second.T @ second, np.eye(2) / 4)
    (True, True)
    """
    depth = inputs.whole_number("depth", depth, 1)
    width = inputs.whole_number("width", features if width is None else width, 1, features)
    scale = inputs.number("scale", scale, above=True, remedy="take 0.5 to 0.8")
    generator = np.random.default_rng(seed)
    sizes = [features] + [width] * (depth - 1)
    return tuple(scale * np.linalg.qr(generator.normal(size=(size, width)))[0].T for size in sizes)


def _require_no_tie(agreements: Array, rank: int) -> None:
    if rank == len(agreements) or agreements[rank] == 0:
        return
    if agreements[rank - 1] - agreements[rank] <= _TIE * agreements[0]:
        raise UsageError(
            f"At rank {rank} the minimiser is not unique: directions {rank} and {rank + 1} agree equally "
            f"between views ({agreements[rank]:.4g}); take another rank."
        )


def _fitting(weights: Weights, features: int) -> Weights:
    layers = tuple(np.array(layer, np.float64) for layer in weights)
    width = features
    for index, layer in enumerate(layers, 1):
        if layer.ndim != 2 or layer.shape[1] != width:
            raise UsageError(f"Layer {index} must take width {width}, but has shape {layer.shape}.")
        width = len(layer)
    if not layers:
        raise UsageError("A net needs 1 layer or more, but got none.")
    return layers
