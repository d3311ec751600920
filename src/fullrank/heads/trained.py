"""Heads that learn together with the encoder."""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from fullrank.heads.contract import Head, check_positive, narrowest, unfolded


class _LayeredHead(Head):
    """A head that consists of its layers, applied in order."""

    def __init__(self, in_dim: int, out_dim: int, layers: Sequence[nn.Module]):
        super().__init__(in_dim, out_dim)
        self.layers.extend(layers)

    def project(self, h: Tensor) -> Tensor:
        """Apply the layers in order."""
        for layer in self.layers:
            h = layer(h)
        return h

    def imposed_rank(self, place: str) -> int | None:
        """The narrowest layer since the last nonlinearity, if the features at `place` are wider."""
        count = len(self.layers)
        before = {"z": count} | {f"head.{number}": number for number in range(1, count + 1)}
        layers = self.layers[: before.get(place, 0)]
        return narrowest([step for layer in layers for step in unfolded(layer)])

    @property
    def linear_rank(self) -> int:
        """The narrowest of the linear layers."""
        inner = [part.out_features for part in self.layers.modules() if isinstance(part, nn.Linear)]
        return min(self.in_dim, self.out_dim, *inner)

    def depth_shares(self) -> dict[str, float]:
        """Each layer adds one map."""
        maps = len(self.layers) + 1
        inner = {f"head.{layer}": (layer + 1) / maps for layer in range(1, maps)}
        return {"h": 1 / maps, **inner, "z": 1.0}


class LinearHead(_LayeredHead):
    """One trained linear map without bias, z = W h.

    Shapes: (N, D) -> (N, out_dim).

    Args:
        in_dim: The width D of h.
        out_dim: The width K of z, 1 or more.
        extra_dim: The number of further inputs after h.

    Raises:
        UsageError: `out_dim` is below 1.

    >>> LinearHead(8, 3)(torch.zeros(2, 8)).shape
    torch.Size([2, 3])

    Source: P1 Table 1 '1-layer linear projector' and Table 2 'trainable linear', 61.1 (2048 -> 128).
    """

    def __init__(self, in_dim: int, out_dim: int = 128, *, extra_dim: int = 0):
        check_positive("out_dim", out_dim)
        super().__init__(in_dim + extra_dim, out_dim, [nn.Linear(in_dim + extra_dim, out_dim, bias=False)])


class MLPHead(_LayeredHead):
    """P1's nonlinear projector: linear layers without bias, batch norm after each, ReLU between them.

    For two layers z = BN(W2 ReLU(BN(W1 h))); without `last_norm`, z = W2 ReLU(BN(W1 h)), the form of BYOL,
    VICReg and LeJEPA. Shapes: (N, D) -> (N, out_dim).

    Args:
        in_dim: The width D of h.
        out_dim: The width K of z, 1 or more.
        hidden: The width of the hidden layers; None is D.
        layers: The number of linear layers, 1 to 100.
        last_norm: Whether the last layer has a batch norm too.
        extra_dim: The number of further inputs after h.

    Raises:
        UsageError: A width or the number of layers is outside its limits.

    >>> MLPHead(8, 3, layers=3)(torch.randn(4, 8)).shape
    torch.Size([4, 3])

    Source: P1 Table 1, '2-layer nonlinear projector', 66.5 (2048 -> 2048 -> 128); the form is the authors'.
    Without `last_norm`: the published code of BYOL (2006.07733) and VICReg (2105.04906), but for biases.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int = 128,
        hidden: int | None = None,
        layers: int = 2,
        last_norm: bool = True,
        *,
        extra_dim: int = 0,
    ):
        check_positive("out_dim", out_dim)
        check_positive("layers", layers, most=100)
        hidden = check_positive("hidden", in_dim if hidden is None else hidden)
        widths = [in_dim + extra_dim, *[hidden] * (layers - 1), out_dim]
        blocks = []
        for i, (before, after) in enumerate(pairwise(widths), start=1):
            parts: list[nn.Module] = [nn.Linear(before, after, bias=False)]
            parts += [nn.BatchNorm1d(after)] if last_norm or i < layers else []
            blocks.append(nn.Sequential(*parts, *([nn.ReLU()] if i < layers else [])))
        super().__init__(in_dim + extra_dim, out_dim, blocks)


class DiagonalHead(Head):
    """One trained weight for each channel, 1 at the start: z = w * h.

    Shapes: (N, D) -> (N, D).

    Args:
        in_dim: The width D of h.

    >>> DiagonalHead(3)(torch.ones(1, 3))
    tensor([[1., 1., 1.]], grad_fn=<MulBackward0>)

    Source: P1 Table 2, 'trainable diagonal', 60.2, and Proposition 1.
    """

    def __init__(self, in_dim: int):
        super().__init__(in_dim, in_dim)
        self.weight = nn.Parameter(torch.ones(in_dim))

    def project(self, h: Tensor) -> Tensor:
        """Return z = w * h."""
        return h * self.weight

    def imposed_rank(self, place: str) -> None:
        """None: the head imposes no rank."""

    @property
    def scales_channels(self) -> bool:
        """True unless z is whitened."""
        return self.norm_name != "whiten"

    def depth_shares(self) -> dict[str, float]:
        """The weights add one map."""
        return {"h": 0.5, "z": 1.0}


class OrthogonalHead(_LayeredHead):
    """A trained rotation: z = Q h, where Q stays orthogonal as the matrix exponential of a skew matrix.

    Shapes: (N, D) -> (N, D). Under a cosine loss neither the value nor the gradient to h depends on Q, so the
    encoder trains as it would without a head.

    Args:
        in_dim: The width D of h.

    >>> q = OrthogonalHead(8).weight
    >>> torch.allclose(q @ q.T, torch.eye(8), atol=1e-5)
    True

    Source: P1 Table 2, 'orthogonal' (ExpM parametrisation, all singular values 1), 52.2.
    """

    def __init__(self, in_dim: int):
        rotation = nn.Linear(in_dim, in_dim, bias=False)
        nn.init.orthogonal_(rotation.weight)
        parametrizations.orthogonal(rotation, orthogonal_map="matrix_exp")
        super().__init__(in_dim, in_dim, [rotation])

    @property
    def weight(self) -> Tensor:
        """The rotation Q, (D, D)."""
        return cast(Tensor, self.layers[0].weight)

    def depth_shares(self) -> dict[str, float]:
        """A rotation adds no map."""
        return {"h": 1.0, "z": 1.0}
