r"""InfoNCE on a stack z = W_L ... W_1 x of any depth; `weights` has one matrix a layer, first layer first."""

from collections.abc import Callable
from functools import reduce
from itertools import pairwise

import numpy as np

from fullrank.errors import UsageError
from fullrank.theory.collapse.infonce_flow import distance_gradients, softmax_weights
from fullrank.theory.common.flow import Array, Velocity, Weights
from fullrank.theory.common.inputs import require_symmetric

Pullback = Callable[[Array], Weights]
# Embeds x (N, D), and gives the map from the gradient to the embedding (N, K) to that to each layer.
Network = Callable[[Weights, Array], tuple[Array, Pullback]]


def product(weights: Weights) -> Array:
    """The whole stack as one matrix, W_L ... W_1; raises UsageError where the layers do not fit.

    >>> product((np.array([[2.0]]), np.array([[3.0], [1.0]]))).tolist()
    [[6.0], [2.0]]
    """
    _require_chain(weights)
    return reduce(lambda below, layer: layer @ below, weights)


def layer_gradients(weights: Weights, gradient: Array) -> Weights:
    r"""The gradient to each layer, from the gradient G to their product.

    .. math:: \nabla_{W_l} L = (W_L \cdots W_{l+1})^\top G \, (W_{l-1} \cdots W_1)^\top

    Shapes: G (K, D) -> one like each layer. Raises as `product`. Source: P1 Lemma 3, at any depth.

    >>> [g.tolist() for g in layer_gradients((np.array([[2.0]]), np.array([[3.0]])), np.array([[1.0]]))]
    [[[3.0]], [[2.0]]]
    """
    _require_chain(weights)
    below, gradients = [np.eye(weights[0].shape[1])], []
    for layer in weights[:-1]:
        below.append(layer @ below[-1])
    for layer, under in zip(reversed(weights), reversed(below), strict=True):
        gradients.append(gradient @ under.T)
        gradient = layer.T @ gradient
    return tuple(reversed(gradients))


def linear(weights: Weights, x: Array) -> tuple[Array, Pullback]:
    """The linear stack on x (N, D): z (N, K), and the gradients to the layers from a gradient to z.

    >>> z, pull = linear((np.array([[2.0]]), np.array([[3.0]])), np.array([[1.0], [2.0]]))
    >>> z.tolist(), [g.tolist() for g in pull(np.ones((2, 1)))]
    ([[6.0], [12.0]], [[[9.0]], [[6.0]]])
    """
    return x @ product(weights).T, lambda gradient: layer_gradients(weights, gradient.T @ x)


def rectified(weights: Weights, x: Array) -> tuple[Array, Pullback]:
    r"""The same with a ReLU between the layers, and none after the last.

    .. math:: h_0 = x, \quad h_l = \max(0, W_l h_{l-1}), \quad z = W_L h_{L-1}

    The slope at exactly 0 is 0. Raises as `product`. Source: P1 Appendix C, Figure 11.

    >>> layers = (np.array([[1.0], [-1.0]]), np.array([[2.0, 5.0]]))
    >>> z, pull = rectified(layers, np.array([[3.0]]))
    >>> z.tolist(), [g.tolist() for g in pull(np.ones((1, 1)))]
    ([[6.0]], [[[6.0], [0.0]], [[3.0, 0.0]]])
    """
    _require_chain(weights)
    inputs = [x]
    for layer in weights[:-1]:
        inputs.append(np.maximum(inputs[-1] @ layer.T, 0.0))

    def pull(gradient: Array) -> Weights:
        gradients = [gradient.T @ inputs[-1]]
        for layer, below, above in zip(weights[-2::-1], inputs[-2::-1], weights[:0:-1], strict=True):
            gradient = gradient @ above * (below @ layer.T > 0)
            gradients.append(gradient.T @ below)
        return tuple(reversed(gradients))

    return inputs[-1] @ weights[-1].T, pull


def fixed_velocity(drive: Array) -> Velocity:
    r"""The coupled flow of all layers while X stays fixed.

    .. math:: \dot W_l = (W_L \cdots W_{l+1})^\top \, W X \, (W_{l-1} \cdots W_1)^\top,
              \qquad W = W_L \cdots W_1

    With two layers or more it can grow without bound in finite time (`aligned_modes.divergence_time`). Raises
    UsageError for an X that is not symmetric. Source: P1 Section 5.2, Lemma 3 and Equation 9.

    >>> velocity = fixed_velocity(np.array([[1.0]]))
    >>> [v.tolist() for v in velocity((np.array([[2.0]]), np.array([[3.0]])))]
    [[[18.0]], [[12.0]]]
    """
    require_symmetric(drive, "X")
    return lambda weights: layer_gradients(weights, product(weights) @ drive)


def contrastive_velocity(network: Network, x: Array, views: Array) -> Velocity:
    """The flow of `infonce_flow.distance_loss` on fixed samples x and their views, (N, D), through a network.

    `network` is `linear` or `rectified`; X moves with the weights. Source: P1 Section 5.2, Lemma 3.

    >>> x, views = np.array([[0.0], [2.0]]), np.array([[1.0], [3.0]])
    >>> velocity = contrastive_velocity(linear, x, views)
    >>> [v.round(6).tolist() for v in velocity((np.array([[1e-6]]), np.array([[1.0]])))]
    [[[3e-06]], [[0.0]]]
    """
    both = np.concatenate([x, views])

    def velocity(weights: Weights) -> Weights:
        embeddings, pull = network(weights, both)
        z, z_views = embeddings[: len(x)], embeddings[len(x) :]
        to_both = distance_gradients(z, z_views, softmax_weights(z, z_views))
        return tuple(-gradient for gradient in pull(np.concatenate(to_both)))

    return velocity


def imbalance(weights: Weights) -> Weights:
    r"""The matrices that the linear flow conserves, one for each pair of neighbours; zero if balanced.

    .. math:: W_{l+1}^\top W_{l+1} - W_l W_l^\top

    Layers may carry a time axis. With a ReLU between the layers only the diagonals are conserved. Source: P1
    Section 5.2 and Appendix B.5; the remark on the ReLU is derived here.

    >>> [b.tolist() for b in imbalance((np.array([[1.0]]), np.array([[3.0]])))]
    [[[8.0]]]
    """
    _require_chain(weights)
    return tuple(
        np.swapaxes(upper, -1, -2) @ upper - lower @ np.swapaxes(lower, -1, -2)
        for lower, upper in pairwise(weights)
    )


def relative_imbalance(weights: Weights) -> Array:
    r"""The size of the imbalance relative to the lower layer, for each pair of neighbours.

    .. math:: \|W_l W_l^\top - W_{l+1}^\top W_{l+1}\|_F \,/\, \|W_l W_l^\top\|_F

    Shapes: layers (..., K, D) -> (..., L - 1). Raises UsageError for a lower layer that is all zero.

    >>> relative_imbalance((np.array([[1.0]]), np.array([[3.0]]))).tolist()
    [8.0]
    """
    sizes = [np.linalg.norm(layer @ np.swapaxes(layer, -1, -2), axis=(-2, -1)) for layer in weights[:-1]]
    if any((size == 0).any() for size in sizes):
        raise UsageError("A layer is all zero, so the imbalance has no relative size; use `imbalance`.")
    gaps = [np.linalg.norm(gap, axis=(-2, -1)) for gap in imbalance(weights)]
    return np.stack([gap / size for gap, size in zip(gaps, sizes, strict=True)], -1)


def alignment(lower: Array, upper: Array) -> Array:
    r"""How the outputs of one layer align with the inputs of the next: the identity if they are aligned.

    .. math:: |A|, \qquad A = V_2^\top U_1, \qquad W_l = U_l S_l V_l^\top

    Singular values are descending, and the sign of a singular vector is free. Shapes: (..., K, D), (..., M,
    K) -> (..., K, K). Source: P1 Section 5.3, Theorem 2 and Figure 5.

    >>> alignment(np.diag([2.0, 1.0]), np.diag([1.0, 3.0])).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    _require_chain((lower, upper))
    return np.asarray(np.abs(np.linalg.svd(upper)[2] @ np.linalg.svd(lower)[0]))


def within_block_share(aligned: Array, values: Array, tolerance: float = 0.1) -> float:
    r"""The share of an alignment matrix within the blocks of nearly equal singular values, from 0 to 1.

    .. math:: \frac1n \sum_{B} \sum_{i, j \in B} A_{ij}^2

    A block B is a run of descending values of which each is less than `tolerance` of itself below the one
    before. Derived here. Shapes: (n, n), (n,). Raises UsageError for negative or ascending values.

    >>> half = np.full((2, 2), 0.5**0.5)
    >>> [round(within_block_share(half, np.array([1.0, second])), 6) for second in (0.99, 0.5)]
    [1.0, 0.5]
    """
    if (np.diff(values) > 0).any() or (values < 0).any():
        raise UsageError(
            f"Singular values must descend and be 0 or more, but got {values.tolist()}; sort them."
        )
    block = np.concatenate([[0], np.cumsum(values[:-1] - values[1:] > tolerance * values[:-1])])
    within = block[:, None] == block
    return float((aligned**2)[within].sum() / len(values))


def singular_rates(weight: Array, velocity: Array) -> tuple[Array, Array, Array]:
    r"""The rates of the singular values and vectors of a square W = U S V' while W moves.

    .. math:: \dot\sigma_k = u_k^\top \dot W v_k, \qquad
              \dot U = U \big(H \circ (U^\top \dot W V S + S V^\top \dot W^\top U)\big), \qquad
              \dot V = V \big(H \circ (V^\top \dot W^\top U S + S U^\top \dot W V)\big), \\
              H_{kk'} = \frac{1}{\sigma_{k'}^2 - \sigma_k^2} \; (k \ne k'), \qquad H_{kk} = 0

    Shapes: (n, n), (n, n) -> (n,), (n, n), (n, n). Raises UsageError for a W that is not square or has equal
    singular values. Source: P1 Lemmas 4 and 5, with the sign of H corrected.

    >>> values, _, _ = singular_rates(np.diag([2.0, 1.0]), np.eye(2))
    >>> values.tolist()
    [1.0, 1.0]
    """
    u, s, vt = np.linalg.svd(weight)
    h = _inverse_gaps(s, weight.shape)
    core = u.T @ velocity @ vt.T
    left = h * (core * s + (core * s).T)
    right = h * (core.T * s + (core.T * s).T)
    return np.diag(core).copy(), u @ left, vt.T @ right


def alignment_rate(lower: Array, upper: Array, gradient: Array) -> Array:
    r"""The rate of the signed alignment A = V_2' U_1 of two square layers; G is the gradient to the product.

    .. math:: \dot A = -A \big(H_1 \circ (A^\top F + F^\top A)\big)
              + \big(H_2 \circ (A F^\top + F A^\top)\big) A, \qquad F = S_2 U_2^\top G V_1 S_1

    with the H of `singular_rates`. Shapes: (n, n) each. Errors likewise. Source: P1 Lemma 6, H corrected.

    >>> alignment_rate(np.diag([2.0, 1.0]), np.diag([2.0, 1.0]), np.eye(2)).tolist()
    [[0.0, 0.0], [0.0, 0.0]]
    """
    u1, s1, v1t = np.linalg.svd(lower)
    u2, s2, v2t = np.linalg.svd(upper)
    a = v2t @ u1
    f = s2[:, None] * (u2.T @ gradient @ v1t.T) * s1
    first = _inverse_gaps(s1, lower.shape) * (a.T @ f + f.T @ a)
    second = _inverse_gaps(s2, upper.shape) * (a @ f.T + f @ a.T)
    return np.asarray(second @ a - a @ first)


def _inverse_gaps(values: Array, shape: tuple[int, ...]) -> Array:
    if shape[0] != shape[1]:
        raise UsageError(f"The rates of singular vectors are of square matrices, but got shape {shape}.")
    squares = values**2
    gaps = squares - squares[:, None]
    np.fill_diagonal(gaps, np.inf)
    if np.abs(gaps).min(initial=np.inf) <= 1e-12 * squares.max(initial=0.0):
        raise UsageError(
            f"Singular values must differ for their vectors to have a rate, but got {values.tolist()}; "
            "perturb the matrix."
        )
    return 1 / gaps


def _require_chain(weights: Weights) -> None:
    if not weights:
        raise UsageError("A stack needs 1 layer or more, but got none.")
    for index, (lower, upper) in enumerate(pairwise(weights), 1):
        if upper.shape[-1] != lower.shape[-2]:
            raise UsageError(
                f"Layer {index} gives width {lower.shape[-2]}, but layer {index + 1} takes "
                f"{upper.shape[-1]}; make them equal."
            )
