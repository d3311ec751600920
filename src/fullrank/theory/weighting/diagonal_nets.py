"""Nets that do not mix features: correlated features, labels in place of views, and a symmetrised ReLU."""

import numpy as np
from numpy.typing import ArrayLike

from fullrank.errors import UsageError
from fullrank.theory.common import inputs
from fullrank.theory.common.flow import Array, Velocity, Weights


def correlated_gains(moment: ArrayLike, cross_moment: ArrayLike) -> Array:
    r"""The end-to-end gain of each feature in a diagonal net, whose features may be correlated.

    .. math:: w = \sqrt g, \quad
              g = \arg\min_{g \ge 0}\ g^\top (M \circ M)\, g - 2 \operatorname{diag}(\tilde M)^\top g

    A feature at the bound is given up for those correlated with it. `layer_weights` gives the layers. Shapes:
    (d, d) -> (d,). Raises UsageError for moments asymmetric or indefinite, or a g not unique. Derived here.

    >>> correlated_gains([[1.0, 0.5], [0.5, 1.0]], np.eye(2)) ** 2
    array([0.8, 0.8])
    """
    from scipy.optimize import nnls

    moment, cross_moment = inputs.view_moments(moment, cross_moment)
    squared, target = moment * moment, np.diag(cross_moment).copy()
    variances = np.linalg.eigvalsh(squared)
    if variances[0] <= inputs.VANISHING * variances[-1]:
        raise UsageError(
            "Features are so correlated that a diagonal net's gains are not unique (the lowest eigenvalue of "
            f"M * M is {variances[0]:.3g} against {variances[-1]:.3g}); leave out one of each such pair."
        )
    interior = np.linalg.solve(squared, target)
    if (interior >= 0).all():
        return np.asarray(np.sqrt(interior))
    factor = np.linalg.cholesky(squared)
    return np.asarray(np.sqrt(nnls(factor.T, np.linalg.solve(factor, target))[0]))


def diagonal_velocity(moment: ArrayLike, cross_moment: ArrayLike) -> Velocity:
    r"""The gradient flow of the spectral loss in a diagonal net, one vector (d,) a layer.

    .. math:: \dot u_l = 4 \Big(\prod_{k \ne l} u_k\Big) \circ w \circ
              \big(\operatorname{diag}(\tilde M) - (M \circ M)\, w^2\big),
              \quad w = u_1 \circ \cdots \circ u_L

    Raises UsageError for moments that are asymmetric or indefinite. Derived here.

    >>> diagonal_velocity(np.eye(1), np.eye(1))((np.array([0.5]), np.array([1.0])))
    (array([1.5]), array([0.75]))
    """
    moment, cross_moment = inputs.view_moments(moment, cross_moment)
    squared, target = moment * moment, np.diag(cross_moment).copy()

    def velocity(weights: Weights) -> Weights:
        layers = np.stack(weights)
        w = layers.prod(0)
        force = 4 * w * (target - squared @ w**2)
        others = (np.delete(layers, number, 0).prod(0) for number in range(len(layers)))
        return tuple(force * other for other in others)

    return velocity


def class_moment(means: ArrayLike, shares: ArrayLike | None = None) -> Array:
    r"""The cross moment that labels give: two inputs of one class are each other's views.

    .. math:: \tilde M = \sum_y \pi_y\, \mu_y \mu_y^\top

    With it `optimal_gram` describes supervised contrastive learning in its spectral form. Shapes: means (C,
    d), shares (C,), equal where not given -> (d, d). Raises UsageError unless means are finite and shares sum
    to 1. Derived here.

    >>> class_moment([[1.0, 0.5], [-1.0, -0.5]])
    array([[1.  , 0.5 ],
           [0.5 , 0.25]])
    """
    means = np.array(means, np.float64)
    if means.ndim != 2 or not means.size or not np.isfinite(means).all():
        raise UsageError(f"means must be finite, one row a class, but got shape {means.shape}.")
    count = len(means)
    shares = inputs.per_feature("shares", np.full(count, 1 / count) if shares is None else shares, high=1)
    if len(shares) != count or abs(shares.sum() - 1) > inputs.ROUNDING:
        raise UsageError(
            f"shares must be {count} numbers that sum to 1, but got {len(shares)} that sum to "
            f"{shares.sum():g}; divide the counts of the classes by their sum."
        )
    return np.asarray((means.T * shares) @ means)


def supervised_map(moment: ArrayLike, label_moment: ArrayLike) -> Array:
    r"""The linear net that predicts labels y with the least squared error.

    .. math:: W = \Sigma_{yx} \Sigma_{xx}^{-1}, \quad
              P_l^\top P_l = (W^\top W)^{l/L} \text{ for balanced layers}

    `layer_grams` of W'W gives the layers. Shapes: (d, d), (C, d) -> (C, d). Raises UsageError for a moment
    that is asymmetric, indefinite or singular, and label moments that do not fit. Derived here.

    >>> supervised_map(np.diag([2.0, 1.0]), [[1.0, 1.0]])
    array([[0.5, 1. ]])
    """
    moment, labels = inputs.semidefinite("moment", moment), np.array(label_moment, np.float64)
    if labels.ndim != 2 or labels.shape[1] != len(moment) or not np.isfinite(labels).all():
        raise UsageError(f"label_moment must be finite, (C, {len(moment)}), but got shape {labels.shape}.")
    variances = np.linalg.eigvalsh(moment)
    if variances[0] <= inputs.VANISHING * variances[-1]:
        raise UsageError(
            f"moment must be invertible for a unique supervised net, but its eigenvalues go from "
            f"{variances[0]:.3g} to {variances[-1]:.3g}; leave out inputs that never vary."
        )
    return np.asarray(np.linalg.solve(moment, labels.T).T)


def core_to_spurious(core_gain: float, spurious_gain: float, depth: int) -> Array:
    r"""How much more a core feature is amplified than a spurious one, after each layer of a diagonal net.

    .. math:: (w_c / w_s)^{l / L}

    Shapes: -> (L,). Raises UsageError for gains not above 0 and a depth below 1. Derived here.

    >>> core_to_spurious(1.0, 4.0, depth=2)
    array([0.5 , 0.25])
    """
    core_gain = inputs.number("core_gain", core_gain, above=True)
    spurious_gain = inputs.number("spurious_gain", spurious_gain, above=True)
    depth = inputs.whole_number("depth", depth, 1)
    return np.asarray((core_gain / spurious_gain) ** (np.arange(1, depth + 1) / depth))


def symmetric_relu(values: ArrayLike, threshold: float) -> Array:
    r"""The symmetrised ReLU, an odd soft threshold; raises UsageError for a negative threshold.

    .. math:: \sigma_b(x) = \max(x - b, 0) - \max(-x - b, 0)

    >>> symmetric_relu([-2.0, 0.4, 2.0], threshold=0.5)
    array([-1.5,  0. ,  1.5])

    Source: P2, authors' code (there b is learned and starts at 0).
    """
    values, threshold = np.asarray(values, np.float64), inputs.number("threshold", threshold)
    return np.asarray(np.maximum(values - threshold, 0) - np.maximum(-values - threshold, 0))


def absent_above(first: ArrayLike, strengths: ArrayLike, threshold: float) -> inputs.Mask:
    r"""Which features (d,) never pass the symmetrised ReLU, so that neither layer gets a gradient from them.

    .. math:: |w_{1, i}|\, \phi_i \le b

    for the net :math:`z_i = w_{2, i}\, \sigma_b(w_{1, i} x_i)`. Raises UsageError for strengths not above 0,
    a negative threshold and lists of different length. Derived here; the claim is P2's.

    >>> absent_above([0.8, 0.8], [2.0, 0.5], threshold=0.5)
    array([False,  True])
    """
    first, strengths = inputs.per_feature("first", first, low=-np.inf), inputs.feature_strengths(strengths)
    inputs.same_count(first=first, strengths=strengths)
    return np.asarray(np.abs(first) * strengths <= inputs.number("threshold", threshold))


def relu_weights(
    first: ArrayLike, second: ArrayLike, strengths: ArrayLike, keep: ArrayLike, threshold: float
) -> Array:
    r"""The weight of each feature before and after the head where the flow of `relu_velocity` ends, (2, d).

    .. math:: a_i = |w_{2,i}|\, s_i \to k_i, \quad s_i = |w_{1,i}| \phi_i - b, \quad
              s_i^2 - \phi_i^2 w_{2,i}^2 = C_i \text{ conserved}

    for a feature that passes at the start. Hence :math:`s^2 = (C + \sqrt{C^2 + 4 \phi^2 k^2}) / 2`, and the
    weights are :math:`s + b` before the head and k after it; a feature that does not pass keeps its initial
    weight and is 0 after it. Shapes: (d,) each; `first` and `second` are the initial layers, neither 0.
    Raises UsageError for numbers outside their limits and lists of different length. Derived here.

    >>> relu_weights([0.8, 0.8], [0.8, 0.8], [2.0, 0.5], [1.0, 1.0], threshold=0.5).round(2)
    array([[1.7, 0.4],
           [1. , 0. ]])
    """
    first, second = (
        inputs.per_feature("first", first, low=-np.inf),
        inputs.per_feature("second", second, low=-np.inf),
    )
    strengths, keep = inputs.features(strengths, keep=keep, high=1)
    inputs.same_count(first=first, second=second, strengths=strengths)
    if not (first.all() and second.all()):
        raise UsageError(
            "Both layers must start away from 0, where their gradient vanishes; start them higher."
        )
    absent = absent_above(first, strengths, threshold)
    before = np.abs(first) * strengths
    conserved = (before - threshold) ** 2 - (strengths * second) ** 2
    passed = np.sqrt((conserved + np.hypot(conserved, 2 * strengths * keep)) / 2)
    return np.stack([np.where(absent, before, passed + threshold), np.where(absent, 0.0, keep)])


def relu_velocity(strengths: ArrayLike, keep: ArrayLike, threshold: float) -> Velocity:
    r"""The gradient flow of the spectral loss for the net of `absent_above`, two vectors (d,).

    Views keep or resample features :math:`x_i = \pm \phi_i`, so that the loss is :math:`\sum_i -2 k_i^2 a_i^2
    + a_i^4` with :math:`a_i = |w_{2,i}| (|w_{1,i}| \phi_i - b)_+`. Raises UsageError for numbers outside
    their limits and lists of different length. Derived here.

    >>> relu_velocity([1.0], [1.0], 0.5)((np.array([0.4]), np.array([1.0])))
    (array([0.]), array([0.]))
    """
    strengths, keep = inputs.features(strengths, keep=keep, high=1)
    threshold = inputs.number("threshold", threshold)

    def velocity(weights: Weights) -> Weights:
        first, second = weights
        passed = np.maximum(np.abs(first) * strengths - threshold, 0)
        force = 4 * (keep**2 - (second * passed) ** 2) * second * passed
        return force * second * strengths * np.sign(first), force * passed

    return velocity
