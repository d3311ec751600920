"""Heads without a trained parameter: what they keep of h is decided before training starts."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from fullrank.errors import UsageError
from fullrank.heads.contract import Head, check_width
from fullrank.heads.whitening import Whitening
from fullrank.specs import write


class _NarrowHead(Head):
    """A head whose form limits the rank of z to `linear_rank`."""

    def imposed_rank(self, place: str) -> int | None:
        """The rank of the map, at z."""
        return self.linear_rank if place == "z" else None


class NoHead(Head):
    """The loss sees the representation itself: z = h.

    Shapes: (N, D) -> (N, D).

    Args:
        in_dim: The width D of h.

    >>> NoHead(8)(torch.ones(2, 8)).shape
    torch.Size([2, 8])

    Source: P1 Table 1 and Table 2, 'no projector', ImageNet top-1 51.5.
    """

    passes_h = True

    def __init__(self, in_dim: int):
        super().__init__(in_dim, in_dim)

    def project(self, h: Tensor) -> Tensor:
        """Return z = h."""
        return h

    def imposed_rank(self, place: str) -> None:
        """None: the head imposes no rank."""

    @property
    def scales_channels(self) -> bool:
        """True only with a norm that keeps the channels apart."""
        return self.norm_name not in ("none", "whiten")

    def depth_shares(self) -> dict[str, float]:
        """h and z are the same place."""
        return {"h": 1.0, "z": 1.0}

    def steps(self) -> list[nn.Module]:
        """The norm alone."""
        return [self.norm]


class SubvectorHead(_NarrowHead):
    """DirectCLR: the first `dim` channels of h, z = h[:, :dim].

    Shapes: (N, D) -> (N, dim). The loss gives the other channels no direct gradient. They learn through the
    residual connection of the encoder's last block, so that block needs an identity shortcut.

    Args:
        in_dim: The width D of h.
        dim: How many channels the loss sees, 1 to D.

    Raises:
        UsageError: `dim` is outside 1 to D.

    >>> SubvectorHead(8, 3)(torch.arange(8.0)[None])
    tensor([[0., 1., 2.]])

    Source: P1 Section 6, Table 1 'DirectCLR' and Table 2 'fixed low-rank diagonal', 62.7 (dim 360 of 2048).
    """

    def __init__(self, in_dim: int, dim: int = 360):
        super().__init__(in_dim, check_width("dim", dim, in_dim))

    def project(self, h: Tensor) -> Tensor:
        """Return the first `out_dim` channels."""
        return h[:, : self.out_dim]

    def depth_shares(self) -> dict[str, float]:
        """z is the first channels of h; the loss does not determine the others."""
        return {f"h[:{self.out_dim}]": 1.0, "z": 1.0}


class MatryoshkaHead(SubvectorHead):
    r"""The first K channels of h, of which the loss sees several nested widths, each as much as all of them.

    .. math:: z = h^{[1..K]}, \qquad L = \frac1{|M|} \sum_{k \in M} L\big(z^{[1..k]}\big), \quad K = \max M

    Shapes: (N, D) -> (N, K). The head only says the widths, in `nested`. Whoever builds the objective makes
    one for each width (`NestedLoss`), so cross-entropy has a classifier for each.

    Args:
        in_dim: The width D of h.
        widths: The widths M, ascending from 1 or more to D or less; one width is `SubvectorHead`.

    Raises:
        UsageError: The widths do not ascend, or lie outside 1 to D.

    >>> part = MatryoshkaHead(8, (2, 6))
    >>> part.nested, part(torch.ones(1, 8)).shape
    ((2, 6), torch.Size([1, 6]))

    Source: Kusupati et al. 2022 (2205.13147), with equal weights; there the loss is a classifier's.
    """

    def __init__(self, in_dim: int, widths: Sequence[int] = (8, 16, 32, 96)):
        widths = tuple(widths)
        if not widths or any(one >= other for one, other in pairwise((0, *widths, in_dim + 1))):
            raise UsageError(
                f"The nested widths '{write(widths)}' must ascend and lie in 1 to {in_dim}, the width of h; "
                "write them as in 4-8-16, or choose a wider encoder."
            )
        super().__init__(in_dim, widths[-1])
        self.nested = widths

    def depth_shares(self) -> dict[str, float]:
        """Those of a sub-vector for one width; the linear theory has one loss, not several."""
        return super().depth_shares() if len(self.nested) == 1 else {}


class LowRankHead(_NarrowHead):
    r"""A fixed linear map of rank `dim` whose nonzero singular values are 1.

    .. math:: z = U \,\mathrm{diag}(\underbrace{1,\dots,1}_{dim}, 0, \dots, 0)\, V^\top h

    U and V are orthogonal. They are drawn once, from torch's generator, and saved with the head. Shapes:
    (N, D) -> (N, D). Inner products of z depend on V'h alone. For a cosine loss this head is therefore
    `SubvectorHead` after a fixed rotation of h. We do not know which orthogonal matrices P1 used.

    Args:
        in_dim: The width D of h.
        dim: The rank, 1 to D.

    Raises:
        UsageError: `dim` is outside 1 to D.

    >>> torch.linalg.matrix_rank(LowRankHead(8, 3).weight)
    tensor(3)

    Source: P1 Table 2, 'fixed low-rank', 62.3.
    """

    left: Tensor
    right: Tensor

    def __init__(self, in_dim: int, dim: int = 360):
        super().__init__(in_dim, in_dim)
        check_width("dim", dim, in_dim)
        for name in ("left", "right"):
            rotation = nn.init.orthogonal_(torch.empty(in_dim, in_dim))
            self.register_buffer(name, rotation[:, :dim].contiguous())

    @property
    def weight(self) -> Tensor:
        """The map as one matrix (D, D)."""
        return self.left @ self.right.T

    def project(self, h: Tensor) -> Tensor:
        """Return z = U V'h, through the `dim` channels in the middle."""
        return h @ self.right @ self.left.T

    @property
    def linear_rank(self) -> int:
        """The rank of the map."""
        return int(self.right.shape[1])

    def depth_shares(self) -> dict[str, float]:
        """The loss does not determine what h holds outside the sub-space."""
        return {"z": 1.0}


class ReweightHead(Head):
    r"""Fixed weights that fall geometrically along the channels.

    .. math:: z_i = h_i\, e^{-i \ln \kappa}, \quad i = 0, \dots, D - 1

    Shapes: (N, D) -> (N, D). Weights below float32's smallest normal number (1.2e-38) are set to 0, so that
    no denormal number slows the step. Under a cosine loss the head is a soft sub-vector of about
    (1 + kappa^-2) / (1 - kappa^-2) channels. Optimizers of the Adam family rescale the gradient of each
    channel, which undoes much of the reweighting.

    Args:
        in_dim: The width D of h.
        kappa: The ratio of two neighbouring weights, 1 or more; 1 is no reweighting.

    Raises:
        UsageError: `kappa` is below 1 or not finite.

    >>> ReweightHead(4, kappa=2.0).weight
    tensor([1.0000, 0.5000, 0.2500, 0.1250])

    Source: P2, fixed reweighting head (authors' code: kappa 1.05 in pre-training, 1.01 in evaluation).
    """

    weight: Tensor

    def __init__(self, in_dim: int, kappa: float = 1.05):
        super().__init__(in_dim, in_dim)
        if not (math.isfinite(kappa) and kappa >= 1):
            raise UsageError(f"kappa must be a number of 1 or more, but got {kappa}; 1 is no reweighting.")
        # In float64: kappa ** i overflows for wide h, and the power of a rounded 1/kappa drifts.
        weight = torch.exp(torch.arange(in_dim, dtype=torch.float64) * -math.log(kappa)).float()
        weight[weight < torch.finfo(torch.float32).tiny] = 0.0
        self.register_buffer("weight", weight)

    def project(self, h: Tensor) -> Tensor:
        """Return z = w * h."""
        return h * self.weight

    def imposed_rank(self, place: str) -> int | None:
        r"""The channels of the soft sub-vector, :math:`(1 + \kappa^{-2}) / (1 - \kappa^{-2})` rounded up.

        Whitening undoes the weights. It leaves the channels whose variance its shrinkage does not replace.
        """
        ratio = self.channel_ratio
        if place != "z" or ratio is None or ratio == 1:
            return None
        if isinstance(self.norm, Whitening):
            rank = self.norm.kept(self.weight.square())
            return rank if rank < self.out_dim else None
        square = ratio**-2
        return min(math.ceil((1 + square) / (1 - square)), self.out_dim)

    @property
    def scales_channels(self) -> bool:
        """True unless z is whitened."""
        return self.norm_name != "whiten"

    @property
    def channel_ratio(self) -> float | None:
        """kappa, if float32 holds at least two of the weights."""
        if self.out_dim < 2 or not self.weight[1] > 0:
            return None
        return float(self.weight[0] / self.weight[1])

    def depth_shares(self) -> dict[str, float]:
        """The loss does not determine how h carries what z needs."""
        return {"z": 1.0}


class RandomSubvectorHead(_NarrowHead):
    """In training, `dim` channels of h that are drawn anew at each call; in eval mode, the identity.

    Shapes: (N, D) -> (N, dim) in training, (N, D) in eval mode. A `norm` applies to all of h, before the
    draw, so that its running statistics belong to channels and not to positions.

    Args:
        in_dim: The width D of h.
        dim: How many channels are drawn, 1 to D.
        generator: Where the draw comes from; None is torch's own generator.

    Raises:
        UsageError: `dim` is outside 1 to D.

    >>> RandomSubvectorHead(8, 3)(torch.zeros(2, 8)).shape
    torch.Size([2, 3])

    Source: P1 Appendix F, new random features at each iteration, 43.0.
    """

    def __init__(self, in_dim: int, dim: int = 360, generator: torch.Generator | None = None):
        super().__init__(in_dim, check_width("dim", dim, in_dim))
        self.generator = generator

    @property
    def normed_width(self) -> int:
        """The width of h, since the norm comes before the draw."""
        return self.in_dim

    @property
    def eval_dim(self) -> int:
        """The width of h, since nothing is drawn in eval mode."""
        return self.in_dim

    def project(self, h: Tensor) -> Tensor:
        """Return `out_dim` channels, the same for every row, or all of them in eval."""
        if not self.training:
            return h
        return h[:, torch.randperm(self.in_dim, generator=self.generator)[: self.out_dim].to(h.device)]

    def forward(self, h: Tensor) -> Tensor:
        """h (N, D) -> z (N, dim), standardised before the draw."""
        return self.project(self.norm(self.input_dropout(self.checked(h))))
