"""InfoNCE against a queue of earlier embeddings, as in MoCo: many negatives for any batch size."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from fullrank.errors import UsageError
from fullrank.objectives.contract import (
    ViewsLoss,
    check_number,
    check_share,
    check_views,
    in_single,
    unit_rows,
)
from fullrank.objectives.contrastive import InfoNCELoss
from fullrank.objectives.tiles import log_sums_between

_MOMENTUM = 0.999  # that of MoCo v1 and v2


@in_single
def against_queue(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """The loss of unit queries (V, N, K) under unit keys (G, N, K) of global views, with a queue (Q, K)."""
    pairs = [(v, w) for v in range(len(queries)) for w in range(len(keys)) if v != w]
    scale = 1 / temperature
    # Relative to the largest similarity that there can be, as in the sums over the queue.
    negatives = {v: log_sums_between(queries[v], queue, scale)[0] for v in {v for v, _ in pairs}}
    losses = []
    for v, w in pairs:
        own = ((queries[v] * keys[w]).sum(1) - 1) * scale
        losses.append(torch.logaddexp(own, negatives[v]) - own)
    return torch.stack(losses).mean()


class QueueInfoNCELoss(ViewsLoss):
    r"""InfoNCE whose negatives are the last Q keys of a teacher, and not the other images of the batch.

    With unit vectors u_v along z, unit keys k_w along the teacher's z of global view w, the queue's rows
    b_1 .. b_Q and the temperature T,

    .. math:: L = \operatorname{mean}_{v \ne w,\ w\ \text{global}}
              \Big[\log\Big(e^{u_v \cdot k_w / T} + \sum_j e^{u_v \cdot b_j / T}\Big) - u_v \cdot k_w / T\Big]

    After each step in training mode the keys of all global views and of all processes replace the oldest rows
    of the queue, view after view. The queue may have any size. It starts with random unit rows, the same in
    every process. Called as `loss(z, teacher=k, global_views=G)`. Shapes: (V, N, K), (G, N, K) -> scalar.

    Args:
        temperature: Divides the cosines, above 0.
        in_dim: The width K of z, 1 or more.
        queue: The number Q of rows in the queue, 1 or more.
        momentum: The share of the teacher that a step keeps, 0 to 1.
        gather: Whether the queue takes the keys of all processes, and the loss is the mean over their rows.
            Each process computes the loss of its own rows only, and the gradients are still exact.

    Raises:
        UsageError: A setting is outside its limits, there is one view or one image, or `teacher` has another
            shape.

    >>> loss = QueueInfoNCELoss(0.2, in_dim=4, queue=64)
    >>> loss(torch.randn(2, 5, 4), teacher=torch.randn(2, 5, 4)).shape, int(loss.oldest)
    (torch.Size([]), 10)
    >>> round(loss.chance(5), 4)  # ln 65
    4.1744

    Source: He et al. 2020 (MoCo, 1911.05722), Equation 1 and Algorithm 1, and authors' code. There the second
    view alone is the key. Here each global view is one in turn, as in the authors' symmetric example for
    CIFAR-10, which adds both directions and does not average them. The authors also shuffle the images
    between devices for the batch norms of the teacher, which is left out.
    """

    trains = frozenset({"infonce", "alignment", "uniformity", "view_recall"})

    needs: ClassVar[frozenset[str]] = frozenset({"teacher", "global_views"})
    queue: Tensor
    oldest: Tensor

    def __init__(
        self,
        temperature: float = 0.1,
        *,
        in_dim: int,
        queue: int,
        momentum: float = _MOMENTUM,
        gather: bool = True,
    ):
        super().__init__(gather)
        if in_dim < 1 or queue < 1:
            raise UsageError(
                f"A queue needs z of width 1 or more and 1 row or more, but got in_dim={in_dim} and "
                f"queue={queue}; 4096 is common for small data, and 65536 for ImageNet."
            )
        self.temperature = check_number("temperature", temperature, above=0)
        self.momentum = check_share("momentum", momentum)
        # A generator of its own: every process starts with the same rows, and no other draw is changed.
        start = torch.randn(queue, in_dim, generator=torch.Generator().manual_seed(0))
        self.register_buffer("queue", unit_rows(start))
        self.register_buffer("oldest", torch.zeros((), dtype=torch.int64))

    def forward(  # type: ignore[override]  # its keywords are those that it needs
        self, z: Tensor, *, teacher: Tensor, global_views: int | None = None
    ) -> Tensor:
        """Return the loss of the views (V, N, K) under the teacher's z of the global ones (G, N, K)."""
        check_views(z)
        self._check(z, teacher, len(z) if global_views is None else global_views)
        queries, keys = (torch.stack([unit_rows(view) for view in views]) for views in (z, teacher.detach()))
        # A copy, because the backward pass needs the rows that are about to be replaced.
        own = against_queue(queries, keys, self.queue.to(keys, copy=True), self.temperature)
        if self.training:
            self._take(keys)
        [everyones] = self.gathered(own[None])
        return everyones.mean()

    @torch.no_grad()
    def _take(self, keys: Tensor) -> None:
        """Replace the oldest rows by the keys (G, N, K) of all processes; of too many the last ones stay."""
        rows, size = self.gathered_views(keys).flatten(0, 1), len(self.queue)
        newest = rows[-size:]
        # No number is read here, which would wait for the device.
        first = self.oldest + (len(rows) - len(newest))
        positions = (first + torch.arange(len(newest), device=self.queue.device)) % size
        self.queue[positions] = newest.to(self.queue)
        self.oldest.copy_((self.oldest + len(rows)) % size)

    def momentum_at(self, progress: float) -> float:
        """The share of the teacher that a step keeps: always the same."""
        return self.momentum

    def chance(self, n: int, width: int | None = None, global_views: int = 2, local_views: int = 0) -> float:
        """The loss where all similarities are equal: ln(1 + Q), whatever n is."""
        return math.log1p(len(self.queue))

    def collapsed(self, n: int, width: int, global_views: int = 2, local_views: int = 0) -> dict[str, float]:
        r"""All rows alike, or half along a vector and half against it: ln(1 + Q/2 (1 + e^{-2/T}))."""
        line = math.log1p(len(self.queue) / 2 * (1 + math.exp(-2 / self.temperature)))
        return {"one point": self.chance(n), "one line": line}

    def _check(self, z: Tensor, teacher: Tensor, global_views: int) -> None:
        width = self.queue.shape[1]
        if z.shape[2] != width:
            raise UsageError(
                f"This queue holds z of width {width}, but got {z.shape[2]}; build it with in_dim as wide as "
                "the head's output."
            )
        if teacher.shape != (global_views, *z.shape[1:]):
            raise UsageError(
                f"Expected the teacher's z of {global_views} global views of {z.shape[1]} images, "
                f"{(global_views, *z.shape[1:])}, but got {tuple(teacher.shape)}; give it the same views."
            )


def infonce(
    temperature: float = 0.1,
    groups: int = 1,
    queue: int = 0,
    momentum: float = _MOMENTUM,
    in_dim: int | None = None,
    gather: bool = True,
) -> InfoNCELoss | QueueInfoNCELoss:
    """`InfoNCELoss`, or with a queue `QueueInfoNCELoss`, which needs a teacher.

    Args:
        temperature: Divides the cosines, above 0.
        groups: The number of random groups of channels, without a queue only.
        queue: The number of rows in the queue; 0 is no queue.
        momentum: The share of the teacher that a step keeps, with a queue only.
        in_dim: The width K of z, which a queue needs.
        gather: Whether the loss sees the rows of all processes.

    Raises:
        UsageError: A setting is outside its limits, or belongs to the other of the two.

    >>> infonce(0.2, queue=64, in_dim=4).needs == {"teacher", "global_views"}
    True
    """
    if queue == 0:
        if momentum != _MOMENTUM:
            raise UsageError(
                f"momentum={momentum} belongs to a teacher, which infonce has only with a queue; add "
                "queue=4096, or leave momentum out."
            )
        return InfoNCELoss(temperature, groups, gather)
    if groups != 1:
        raise UsageError(
            f"infonce takes groups={groups} or queue={queue}, but not both; leave one of them out."
        )
    if in_dim is None:
        raise UsageError(
            f"A queue of {queue} rows needs the width of z; write objective('infonce,queue={queue}', "
            "in_dim=...)."
        )
    return QueueInfoNCELoss(temperature, in_dim=in_dim, queue=queue, momentum=momentum, gather=gather)
