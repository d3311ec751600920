"""The net of the study, the goodness of a layer, and the loss that a layer learns for itself."""

import math
from typing import Literal, final, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, softplus

from fullrank.errors import UsageError

Goodness = Literal["norm", "squares"]
_EPSILON = 1e-6


def goodness(activations: Tensor, kind: Goodness) -> Tensor:
    r"""How active a layer is for each row: $\lVert y \rVert_2$ (`norm`) or $\lVert y \rVert_2^2$ (`squares`).

    The sum of squares is Hinton's (2022, arXiv:2212.13345, Section 2). The norm is in the loss of Brenig and
    Timofte (arXiv:2309.11955).

    Args:
        activations: The activations (N, D) of a layer.
        kind: `norm` or `squares`.

    Returns:
        The goodness (N,).

    Raises:
        UsageError: For another kind.

    >>> goodness(torch.tensor([[3.0, 4.0]]), "norm"), goodness(torch.tensor([[3.0, 4.0]]), "squares")
    (tensor([5.]), tensor([25.]))
    """
    if kind not in get_args(Goodness):
        raise UsageError(f"The goodness must be {' or '.join(get_args(Goodness))}, but got {kind!r}.")
    return activations.norm(dim=1) if kind == "norm" else activations.square().sum(1)


def threshold(kind: Goodness, width: int, level: float) -> float:
    r"""The goodness of a layer whose activations have the root mean square `level`.

    It is $\ell \sqrt{D}$ for the norm and $\ell^2 D$ for the sum of squares, so a level means the same for
    both.

    Args:
        kind: `norm` or `squares`.
        width: The width D of the layer.
        level: The root mean square of the activations.

    >>> threshold("norm", 256, 0.5), threshold("squares", 256, 0.5)
    (8.0, 64.0)
    """
    return level * math.sqrt(width) if kind == "norm" else level**2 * width


def layer_loss(positive: Tensor, negative: Tensor, theta: float) -> Tensor:
    r"""The loss of one layer: goodness above `theta` for right labels, and below it for wrong ones.

    $$\frac{1}{N} \sum_i \mathrm{softplus}(\theta - g^+_i) + \mathrm{softplus}(g^-_i - \theta)$$

    Args:
        positive: The goodness (N,) of images with a right label.
        negative: The goodness (N,) of images with a wrong label.
        theta: The threshold, in the unit of the goodness.

    Returns:
        The mean over the rows, a scalar.

    >>> float(layer_loss(torch.tensor([2.0]), torch.tensor([2.0]), theta=2.0))  # 2 ln 2
    1.3862943649291992
    """
    return softplus(theta - positive).mean() + softplus(negative - theta).mean()


def normalised(rows: Tensor) -> Tensor:
    """Rows (N, D) brought to the root mean square 1, so that the next layer cannot read their goodness.

    >>> normalised(torch.tensor([[3.0, 4.0], [30.0, 40.0]])).square().mean(1)
    tensor([1.0000, 1.0000])
    """
    # torch's norm has the gradient 0 at a row of zeros, where a square root would have none.
    length: Tensor = rows.norm(dim=1, keepdim=True)
    return rows / (length / math.sqrt(rows.shape[1]) + _EPSILON)


@final
class LayerNet(nn.Module):
    """Hidden layers of equal width, each with a normalisation before it and a ReLU behind it.

    `output` is the layer of logits of the softmax twin; the other methods leave it alone. Weights and biases
    are drawn by torch's own rule, from a seed.

    Args:
        in_dim: The number of inputs.
        width: The width of each hidden layer.
        depth: The number of hidden layers.
        classes: The number of logits.
        seed: The seed of the weights.
    """

    def __init__(self, in_dim: int, width: int, depth: int, classes: int, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            widths = [in_dim, *[width] * depth]
            self.hidden = nn.ModuleList(map(nn.Linear, widths[:-1], widths[1:]))
            self.output = nn.Linear(width, classes)

    def forward(self, rows: Tensor) -> list[Tensor]:
        """The activations (N, width) of every hidden layer; a gradient reaches all layers below."""
        activations = []
        for layer in self.hidden:
            rows = relu(layer(normalised(rows)))
            activations.append(rows)
        return activations

    def separate(self, rows: Tensor) -> list[Tensor]:
        """The same activations; the gradient of a layer ends at its own input."""
        activations = []
        for layer in self.hidden:
            rows = relu(layer(normalised(rows.detach())))
            activations.append(rows)
        return activations

    def logits(self, rows: Tensor) -> Tensor:
        """The logits (N, classes) of the softmax twin."""
        logits: Tensor = self.output(normalised(self(rows)[-1]))
        return logits
