"""Objectives without negatives that predict the embedding of one view from that of another: SimSiam, BYOL."""

import torch
from torch import Tensor, nn

from fullrank.errors import UsageError
from fullrank.objectives.contract import (
    Unguarded,
    ViewsLoss,
    check_number,
    check_share,
    check_views,
    cosine_momentum,
    unit_rows,
)


def mean_cosine(predictions: Tensor, targets: Tensor) -> Tensor:
    """The mean cosine of predictions and targets over all images and all pairs of two different views.

    The targets are those of the leading views. Shapes: (V, N, K), (G, N, K) -> scalar, G of 1 to V.
    """
    p, t = unit_rows(predictions), unit_rows(targets)
    pairs = len(t) * (len(p) - 1)
    # The sum over all pairs is one product of two sums; a view is no target of its own.
    every, own = (p.sum(0) * t.sum(0)).sum(), (p[: len(t)] * t).sum()
    return (every - own) / (pairs * p.shape[1])


def mlp_predictor(width: int, hidden: int) -> nn.Sequential:
    """A layer to `hidden` channels, batch norm, ReLU, and a layer back to `width` channels.

    The first layer has no bias, which batch norm would take away. The second has one, as in SimSiam's code.
    """
    check_number("hidden", hidden, least=1)
    return nn.Sequential(
        nn.Linear(width, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, width)
    )


def predicted(predictor: nn.Module, z: Tensor) -> Tensor:
    """What a predictor makes of each view, (V, N, K) -> (V, N, K).

    The views go through one after the other, as in the authors' codes: batch norm has the statistics of one
    view at a time.
    """
    return torch.stack([predictor(view) for view in z])


def check_targets(z: Tensor, targets: Tensor) -> None:
    """Raise UsageError unless the targets are (G, N, K) for views z (V, N, K), with G of 1 to V."""
    if targets.shape[1:] != z.shape[1:] or not 1 <= len(targets) <= len(z):
        raise UsageError(
            f"Views {tuple(z.shape)} need targets (G, {z.shape[1]}, {z.shape[2]}) of 1 to {len(z)} global "
            f"views, but got {tuple(targets.shape)}; give those of the leading views."
        )


class SimSiamLoss(ViewsLoss):
    r"""A predictor of each view's embedding from another view's, where the target gets no gradient.

    .. math:: L = -\frac1{|P| N} \sum_{(v, w) \in P} \sum_n \cos\big(q(z_{v,n}),\ \mathrm{sg}(z_{w,n})\big)

    with P the ordered pairs of a view v and another, global, view w, and sg the stop-gradient. q is linear,
    batch norm, ReLU, linear, and sees one view at a time, with the rows of all processes. Called as
    `loss(z, global_views=G)`. Shapes: (V, N, K) -> scalar, V and N of 2 or more.

    The lowest value, -1, is also that of a collapse, so the loss alone does not say that training is
    healthy. The authors' code keeps the learning rate of q constant; here q is trained like every other part.

    Args:
        in_dim: The width K of z.
        hidden: The width of the predictor's hidden layer.
        stop_gradient: Whether the target gets no gradient. Without it the embeddings collapse.
        gather: Whether batch norm has the statistics of the rows of all processes.

    Raises:
        UsageError: `hidden` is below 1, there are fewer than two views or images, or no view is global.

    >>> loss = SimSiamLoss(in_dim=6, hidden=4)
    >>> bool(loss(torch.randn(3, 8, 6), global_views=2) > -1)
    True

    Source: Chen and He 2021 (2011.10566), Equations 1 to 4, and authors' code (predictor).
    """

    trains = frozenset({"alignment"})

    needs = frozenset({"global_views"})

    def __init__(self, in_dim: int, hidden: int = 512, stop_gradient: bool = True, gather: bool = True):
        super().__init__(gather)
        self.predictor = mlp_predictor(in_dim, hidden)
        self.detaches = stop_gradient

    def forward(self, z: Tensor, global_views: int | None = None) -> Tensor:  # type: ignore[override]
        """Return the loss of the views (V, N, K), of which the first `global_views` are targets."""
        check_views(z)
        z = self.gathered_views(z)
        targets = z[:global_views]
        check_targets(z, targets)
        return -mean_cosine(predicted(self.predictor, z), targets.detach() if self.detaches else targets)

    def chance(self, n: int, width: int | None = None, global_views: int = 2, local_views: int = 0) -> float:
        """The loss of embeddings that are all alike, once they are predicted: -1, the lowest there is."""
        return -1.0

    def collapsed(self, n: int, width: int, global_views: int = 2, local_views: int = 0) -> dict[str, float]:
        """All rows alike, and predicted: -1."""
        return {"one point": -1.0}

    def unguarded(self) -> tuple[Unguarded, ...]:
        """The stop-gradient, where it is switched off."""
        if self.detaches:
            return ()
        return (
            Unguarded(
                "no stop-gradient",
                means="the target moves towards its prediction, so all embeddings can meet at one point",
                remedy="leave out stop_gradient=false",
            ),
        )


class BYOLLoss(ViewsLoss):
    r"""A predictor of a teacher's embedding of each global view from the other views' embeddings.

    .. math:: L = \frac1{|P| N} \sum_{(v, w) \in P} \sum_n
                  \big(2 - 2 \cos(q(z_{v,n}),\ t_{w,n})\big)

    with P the ordered pairs of a view v and another, global, view w. The teacher's embeddings t get no
    gradient. q is linear, batch norm, ReLU, linear, and sees one view at a time, with the rows of all
    processes. The share of the teacher that a step keeps rises from :math:`\tau` to 1:

    .. math:: 1 - (1 - \tau) (\cos(\pi s) + 1) / 2, \quad s \text{ the share of the training that is done}

    Called as `loss(z, teacher=t)`. Shapes: (V, N, K), (G, N, K) -> scalar, V and N of 2 or more.

    The loss is a mean over pairs. For two views the paper adds both orders, which is twice this loss. Half of
    the sum of both negative cosines, as other libraries have it, is L / 2 - 1. The lowest value, 0, is also
    that of a collapse, so the loss alone does not say that training is healthy.

    Args:
        in_dim: The width K of z.
        momentum: The share tau of the teacher that the first step keeps, 0 to 1. With 0 training begins like
            SimSiam's: each target is the present embedding without a gradient.
        hidden: The width of the predictor's hidden layer.
        predictor: `mlp`, or `none`: z itself is compared with the target, and the embeddings collapse.
        gather: Whether batch norm has the statistics of the rows of all processes.

    Raises:
        UsageError: A setting is outside its limits, there are fewer than two views or images, or the
            teacher's embeddings have another shape.

    >>> loss = BYOLLoss(in_dim=6, hidden=4)
    >>> z = torch.randn(3, 8, 6)
    >>> bool(loss(z, teacher=z[:2]) > 0)
    True
    >>> [round(loss.momentum_at(share), 3) for share in (0, 0.5, 1)]
    [0.996, 0.998, 1.0]

    Source: Grill et al. 2020 (2006.07733), Equation 2, Section 3.1 (loss) and Section 3.2 (momentum).
    """

    trains = frozenset({"alignment"})

    needs = frozenset({"teacher"})

    def __init__(
        self,
        in_dim: int,
        momentum: float = 0.996,
        hidden: int = 4096,
        predictor: str = "mlp",
        gather: bool = True,
    ):
        super().__init__(gather)
        if predictor not in ("mlp", "none"):
            raise UsageError(f"predictor must be mlp or none, but got {predictor!r}; leave it out for mlp.")
        self.momentum = check_share("momentum", momentum)
        self.predictor = nn.Identity() if predictor == "none" else mlp_predictor(in_dim, hidden)

    def forward(self, z: Tensor, teacher: Tensor) -> Tensor:  # type: ignore[override]
        """Return the loss of the views (V, N, K) and the teacher's embeddings (G, N, K)."""
        check_views(z)
        check_targets(z, teacher)
        z, targets = self.gathered_views(z), self.gathered_views(teacher.detach())
        return 2 - 2 * mean_cosine(predicted(self.predictor, z), targets)

    def momentum_at(self, progress: float) -> float:
        """The share of the teacher that a step keeps, after this share of the training."""
        return cosine_momentum(self.momentum, progress)

    def chance(self, n: int, width: int | None = None, global_views: int = 2, local_views: int = 0) -> float:
        """The loss of embeddings that are all alike, once they are predicted: 0, the lowest there is."""
        return 0.0

    def collapsed(self, n: int, width: int, global_views: int = 2, local_views: int = 0) -> dict[str, float]:
        """All rows alike, and predicted: 0."""
        return {"one point": 0.0}

    def unguarded(self) -> tuple[Unguarded, ...]:
        """The predictor, where there is none. Without momentum the loss is guarded as SimSiam is."""
        if not isinstance(self.predictor, nn.Identity):
            return ()
        return (
            Unguarded(
                "no predictor",
                means="z and its slow average are pulled together, so all embeddings can meet at one point",
                remedy="leave out predictor=none",
            ),
        )
