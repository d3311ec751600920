r"""InfoNCE on squared distances for z = W x, summed over anchors with one view each: X and what collapses."""

import numpy as np

from fullrank.errors import UsageError
from fullrank.theory.common.flow import Array, Velocity, Weights
from fullrank.theory.common.inputs import require_symmetric, semidefinite, whole_number


def softmax_weights(z: Array, z_views: Array) -> Array:
    r"""The weight of each embedding in an anchor's softmax, by squared distances.

    .. math:: \alpha_{ij} = e^{-\|z_i - z_j\|^2/2} / Z_i \; (j \ne i), \qquad
              \alpha_{ii} = e^{-\|z_i - z'_i\|^2/2} / Z_i

    Shapes: (N, K), (N, K) -> (N, N), rows sum to 1. Raises UsageError for different shapes. Source: P1, Eq.
    4.

    >>> softmax_weights(np.zeros((2, 1)), np.zeros((2, 1))).tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """
    return np.asarray(np.exp(_log_weights(z, z_views)))


def distance_loss(z: Array, z_views: Array) -> float:
    r"""InfoNCE on squared distances, summed over the anchors.

    .. math:: L = -\sum_i \log \frac{e^{-\|z_i - z'_i\|^2/2}}
                  {\sum_{j \ne i} e^{-\|z_i - z_j\|^2/2} + e^{-\|z_i - z'_i\|^2/2}}

    Shapes: (N, K), (N, K) -> a number. Raises as `softmax_weights`. Source: P1 Equation 2, not normalised.

    >>> round(distance_loss(np.zeros((2, 1)), np.zeros((2, 1))), 6)
    1.386294
    """
    return -float(np.trace(_log_weights(z, z_views)))


def distance_gradients(z: Array, z_views: Array, weights: Array) -> tuple[Array, Array]:
    r"""The gradients of `distance_loss` to the anchors and to their views, for the softmax weights alpha.

    .. math:: g_{z_i} = \sum_{j \ne i} \alpha_{ij} (z_j - z'_i) + \sum_{j \ne i} \alpha_{ji} (z_j - z_i),
              \qquad g_{z'_i} = (1 - \alpha_{ii}) (z'_i - z_i)

    Shapes: (N, K), (N, K), (N, N) -> (N, K), (N, K). Raises as `data_covariance`. Source: P1 Lemma 1.

    >>> z, views = np.array([[0.0], [1.0]]), np.array([[0.5], [1.0]])
    >>> [g.round(3).tolist() for g in distance_gradients(z, views, np.full((2, 2), 0.5))]
    [[[0.75], [-1.0]], [[0.25], [0.0]]]
    """
    _require_weights(weights, len(z))
    others = weights - np.diag(np.diag(weights))
    left = others.sum(1)[:, None]
    to_anchors = others @ z - left * z_views + others.T @ z - others.sum(0)[:, None] * z
    return to_anchors, left * (z_views - z)


def data_covariance(x: Array, weights: Array) -> Array:
    r"""The weighted covariance of the data: how the anchors differ from each other.

    .. math:: \hat\Sigma_0 = \sum_{i,j} \alpha_{ij} (x_i - x_j)(x_i - x_j)^\top

    Shapes: (N, D), (N, N) -> (D, D). Raises UsageError unless the rows of alpha sum to 1. Source: P1 Lemma 2.

    >>> data_covariance(np.array([[0.0], [2.0]]), np.full((2, 2), 0.5)).tolist()
    [[4.0]]
    """
    _require_weights(weights, len(x))
    both = weights + weights.T
    scatter: Array = (x * both.sum(1)[:, None]).T @ x - x.T @ both @ x
    return (scatter + scatter.T) / 2


def augmentation_covariance(x: Array, views: Array, weights: Array) -> Array:
    r"""The weighted covariance of the augmentation: how the two views of a sample differ.

    .. math:: \hat\Sigma_1 = \sum_i (1 - \alpha_{ii}) (x'_i - x_i)(x'_i - x_i)^\top

    Shapes: (N, D), (N, D), (N, N) -> (D, D). Raises as `data_covariance`. Source: P1 Section 4.2, Lemma 2.

    >>> augmentation_covariance(np.zeros((2, 1)), np.ones((2, 1)), np.full((2, 2), 0.5)).tolist()
    [[1.0]]
    """
    _require_weights(weights, len(x))
    shift, left = views - x, (weights - np.diag(np.diag(weights))).sum(1)
    scatter: Array = (shift * left[:, None]).T @ shift
    return (scatter + scatter.T) / 2


def driving_matrix(x: Array, views: Array, weights: Array) -> Array:
    r"""The symmetric matrix X that drives the flow: data covariance minus augmentation covariance.

    .. math:: X = \hat\Sigma_0 - \hat\Sigma_1, \qquad \nabla_W L = -W X

    Shapes and errors as of `augmentation_covariance`. Source: P1 Section 4.2, Lemma 2; Appendix B.2.

    >>> driving_matrix(np.array([[0.0], [2.0]]), np.array([[1.0], [3.0]]), np.full((2, 2), 0.5)).tolist()
    [[3.0]]
    """
    return data_covariance(x, weights) - augmentation_covariance(x, views, weights)


def moving_velocity(x: Array, views: Array) -> Velocity:
    r"""The flow of one layer under the true X, which changes with W; x and its views are fixed samples.

    .. math:: \dot W = W X(W)

    The weights are a tuple of one matrix (K, D). Source: P1 Section 4.2, Lemma 1 and Equation 5.

    >>> velocity = moving_velocity(np.array([[0.0], [2.0]]), np.array([[1.0], [3.0]]))
    >>> round(float(velocity((np.array([[1e-9]]),))[0][0, 0] * 1e9), 6)
    3.0
    """

    def velocity(weights: Weights) -> Weights:
        (w,) = weights
        alpha = softmax_weights(x @ w.T, views @ w.T)
        return (w @ driving_matrix(x, views, alpha),)

    return velocity


def exact_weights(start: Array, drive: Array, times: Array) -> Array:
    r"""The exact solution of the flow while X stays fixed, through the eigenvectors of X.

    .. math:: W(t) = W(0)\, e^{X t} = W(0)\, U e^{\Lambda t} U^\top

    Shapes: (K, D), (D, D), (T,) -> (T, K, D). Raises UsageError for an asymmetric X. Source: P1 Appendix B.3.

    >>> exact_weights(np.eye(2), np.diag([0.0, -np.log(2)]), np.array([0.0, 1.0]))[1].round(6).tolist()
    [[1.0, 0.0], [0.0, 0.5]]
    """
    require_symmetric(drive, "X")
    values, vectors = np.linalg.eigh(drive)
    growth = np.exp(np.multiply.outer(np.asarray(times, np.float64), values))
    return np.asarray((start @ vectors * growth[:, None, :]) @ vectors.T)


def collapsing_directions(drive: Array, tolerance: float = 1e-9) -> Array:
    r"""The directions that a fixed X makes vanish: its eigenvectors of negative eigenvalue, fastest first.

    An eigenvalue counts as negative below `-tolerance` times the mean size of all. Shapes: (D, D) -> (D, k).
    Raises UsageError for an X that is not symmetric. Source: P1 Section 4.2, Theorem 1.

    >>> collapsing_directions(np.diag([2.0, -1.0])).round(6).tolist()
    [[0.0], [1.0]]
    """
    require_symmetric(drive, "X")
    values, vectors = np.linalg.eigh(drive)
    return np.asarray(vectors[:, values < -tolerance * np.abs(values).mean()])


def collapse_count(drive: Array, width: int, tolerance: float = 1e-9) -> int:
    r"""How many of the min(K, D) singular values of W (K, D) vanish under an X with k falling directions.

    .. math:: \min(K, D) - \min(K, D - k)

    from any start of full rank. Raises UsageError for a width below 1 and as `collapsing_directions`. Source:
    P1 Section 4.2, Theorem 1, for a square W; the counting is derived here.

    >>> drive = np.diag([2.0, 1.0, -1.0])
    >>> collapse_count(drive, width=3), collapse_count(drive, width=2)
    (1, 0)
    """
    width = whole_number("width", width, 1)
    falling = int(collapsing_directions(drive, tolerance).shape[1])
    return min(width, len(drive)) - min(width, len(drive) - falling)


def embedding_covariance(weight: Array, covariance: Array) -> Array:
    r"""The covariance of the embedding of a linear layer, low-rank wherever W is.

    .. math:: C = W \,\mathrm{Cov}(x)\, W^\top

    Shapes: (K, D), (D, D) -> (K, K). Raises UsageError for a covariance that is not symmetric and positive
    semi-definite. Source: P1 Section 4.2, Corollary 1.

    >>> embedding_covariance(np.array([[1.0, 2.0]]), np.eye(2)).tolist()
    [[5.0]]
    """
    return np.asarray(weight @ semidefinite("covariance", covariance) @ weight.T)


def _log_weights(z: Array, z_views: Array) -> Array:
    if z.shape != z_views.shape or z.ndim != 2:
        raise UsageError(
            f"Anchors and views must have one shape (N, K), but got {z.shape} and {z_views.shape}; "
            "give one view to each anchor."
        )
    # Distances by the Gram matrix lose digits to a common mean, which changes no distance.
    mean = z.mean(0)
    z, z_views = z - mean, z_views - mean
    squares = (z * z).sum(1)
    logits: Array = z @ z.T - (squares[:, None] + squares) / 2
    logits[np.diag_indices(len(z))] = -((z - z_views) ** 2).sum(1) / 2
    top = logits.max(1, keepdims=True)
    logits -= top + np.log(np.exp(logits - top).sum(1, keepdims=True))
    return logits


def _require_weights(weights: Array, count: int) -> None:
    if weights.shape != (count, count):
        raise UsageError(
            f"{count} samples need softmax weights of shape ({count}, {count}), but got {weights.shape}."
        )
    off = float(np.abs(weights.sum(1) - 1).max(initial=0.0))
    if not off <= 1e-8:
        raise UsageError(
            f"Each row of the softmax weights must sum to 1, but one is off by {off:.3g}; divide by the sums."
        )
