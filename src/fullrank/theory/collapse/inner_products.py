r"""InfoNCE on inner products of two views a and b, as in P1's toys, and its limit for Gaussian views."""

import numpy as np
from scipy.special import logsumexp

from fullrank.theory.common.flow import Array, Velocity, Weights
from fullrank.theory.common.inputs import view_moments
from fullrank.theory.weighting.spectral_model import optimal_gram


def inner_loss(z_a: Array, z_b: Array, temperature: float) -> float:
    r"""InfoNCE on inner products, from view a of each sample to view b of all samples; mean over anchors.

    .. math:: L = -\frac1N \sum_i \log \frac{e^{z_i \cdot z'_i / T}}{\sum_j e^{z_i \cdot z'_j / T}}

    Shapes: (N, K), (N, K) -> a number. Source: P1's public code, which does not normalise.

    >>> round(inner_loss(np.zeros((4, 1)), np.zeros((4, 1)), 0.1), 6)
    1.386294
    """
    logits = z_a @ z_b.T / temperature
    return float(np.mean(logsumexp(logits, axis=1) - np.diag(logits)))


def inner_residual(z_a: Array, z_b: Array, temperature: float) -> Array:
    r"""The gradient of `inner_loss` to its logits, (P - I)/N, with P the softmax of each row: (N, N).

    >>> inner_residual(np.zeros((2, 1)), np.zeros((2, 1)), 0.1).tolist()
    [[-0.25, 0.25], [0.25, -0.25]]
    """
    residual: Array = (z_a / temperature) @ z_b.T
    residual -= residual.max(1, keepdims=True)
    np.exp(residual, out=residual)
    residual /= residual.sum(1, keepdims=True)
    residual[np.diag_indices(len(residual))] -= 1.0
    residual /= len(residual)
    return residual


def inner_gradients(z_a: Array, z_b: Array, temperature: float) -> tuple[Array, Array]:
    r"""The gradients of `inner_loss` to both embeddings.

    .. math:: g_a = \frac{(P - I) Z_b}{N T}, \qquad g_b = \frac{(P - I)^\top Z_a}{N T}

    Shapes: (N, K), (N, K) -> (N, K), (N, K). Derived here.

    >>> [g.round(6).tolist() for g in inner_gradients(np.eye(2) * 0.0, np.eye(2), 0.5)]
    [[[-0.5, 0.5], [0.5, -0.5]], [[0.0, 0.0], [0.0, 0.0]]]
    """
    residual = inner_residual(z_a, z_b, temperature)
    return residual @ (z_b / temperature), residual.T @ (z_a / temperature)


def inner_driving_matrix(x_a: Array, x_b: Array, residual: Array, temperature: float) -> Array:
    r"""The X of `inner_loss` for z = W x: the gradient to W is -W X here too, and X is symmetric.

    .. math:: X = S + S^\top, \qquad S = \frac{1}{N T} X_a^\top (I - P) X_b

    with the samples as the rows of X_a and X_b. Shapes: (N, D), (N, D), (N, N) -> (D, D). Derived here.

    >>> x = np.array([[1.0], [-1.0]])
    >>> inner_driving_matrix(x, x, inner_residual(0 * x, 0 * x, 0.1), 0.1).round(6).tolist()
    [[20.0]]
    """
    half: Array = x_a.T @ residual @ x_b / -temperature
    return half + half.T


def limit_loss(weight: Array, bias: Array, moment: Array, cross_moment: Array, temperature: float) -> float:
    r"""`inner_loss` minus log N, for z = W x + b, Gaussian views of mean 0 and infinitely many negatives.

    .. math:: L - \log N \to -\frac1T \operatorname{tr} W \tilde M W^\top
              + \frac{1}{2 T^2} \Big( \operatorname{tr} C^2 + b^\top C b \Big), \qquad C = W M W^\top

    with M the second moment of one view, and M~ the one across the two views. Derived here. Shapes: (K, D),
    (K,), (D, D), (D, D). Raises UsageError for moments that are not symmetric and positive semi-definite.

    >>> limit_loss(np.array([[1.0]]), np.zeros(1), np.array([[1.0]]), np.array([[1.0]]), 1.0)
    -0.5
    """
    moment, cross_moment = view_moments(moment, cross_moment)
    covariance = weight @ moment @ weight.T
    spread = np.sum(covariance**2) + bias @ covariance @ bias
    return float(spread / (2 * temperature**2) - np.sum(weight @ cross_moment * weight) / temperature)


def limit_driving_matrix(weight: Array, moment: Array, cross_moment: Array, temperature: float) -> Array:
    r"""The X of `limit_loss` without bias: the gradient to W is -W X.

    .. math:: X = \frac2T \Big( \tilde M - \frac1T M W^\top W M \Big)

    Derived here. Shapes: (K, D), (D, D), (D, D) -> (D, D). Raises as `limit_loss`.

    >>> limit_driving_matrix(np.array([[1.0]]), np.array([[2.0]]), np.array([[1.0]]), 4.0).tolist()
    [[0.0]]
    """
    moment, cross_moment = view_moments(moment, cross_moment)
    return np.asarray(2 / temperature * (cross_moment - moment @ weight.T @ weight @ moment / temperature))


def limit_velocity(moment: Array, cross_moment: Array, temperature: float) -> Velocity:
    r"""The gradient flow of `limit_loss`, whose weights are the tuple (W, b) of shapes (K, D) and (K,).

    .. math:: \dot W = W X - \frac{1}{T^2} b b^\top W M, \qquad \dot b = -\frac{1}{T^2} C b

    Derived here. Raises as `limit_loss`.

    >>> velocity = limit_velocity(np.eye(1), np.eye(1), 1.0)
    >>> [v.tolist() for v in velocity((np.array([[1.0]]), np.array([2.0])))]
    [[[-4.0]], [-2.0]]
    """
    moment, cross_moment = view_moments(moment, cross_moment)

    def velocity(weights: Weights) -> Weights:
        w, bias = weights
        spread = w @ moment
        drift = 2 * w @ cross_moment - (2 * spread @ w.T + np.outer(bias, bias)) @ spread / temperature
        return drift / temperature, -spread @ (w.T @ bias) / temperature**2

    return velocity


def limit_gram(moment: Array, cross_moment: Array, temperature: float) -> Array:
    r"""W'W at the minimum of `limit_loss` without bias, for K of D or more.

    .. math:: W^\top W = T M^{-1} \tilde M M^{-1}

    Derived here. Shapes: (D, D), (D, D) -> (D, D). Raises as `spectral_model.optimal_gram`.

    >>> limit_gram(np.diag([1.0, 2.0]), np.eye(2), 0.16).round(6).tolist()
    [[0.16, 0.0], [0.0, 0.04]]
    """
    return temperature * optimal_gram(moment, cross_moment)
