"""DINO: the student predicts to which prototypes the teacher assigns another view of the image."""

import math
from typing import ClassVar

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
    in_single,
    unit_rows,
)


@in_single
def products(u: Tensor, directions: Tensor) -> Tensor:
    """The cosines of unit rows (N, K) and unit directions (P, K): (N, P)."""
    return u @ directions.T


@in_single
def centred_targets(teacher: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """What the teacher assigns, softmax((t - centre) / temperature): (G, N, P), (P,) -> (G, N, P)."""
    return ((teacher - centre) / temperature).softmax(2)


@in_single
def self_distillation(u: Tensor, directions: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """The mean cross-entropy of views v under the targets of other, global views w.

    Args:
        u: The unit rows (V, N, K) of the student, the global views first.
        directions: The unit directions (P, K) of the prototypes.
        targets: The shares (G, N, P) that the teacher gives to the prototypes; each row sums to 1.
        temperature: Divides the student's cosines.
    """
    everyones = targets.sum(0)  # one tensor that all local crops share
    losses = []
    for view, rows in enumerate(u):
        others = [number for number in range(len(targets)) if number != view]
        if others:
            target = everyones if view >= len(targets) else targets[others].sum(0)
            scores = products(rows, directions) / temperature
            # The sum over the targets of -q log p, since each q sums to 1.
            losses.append(len(others) * scores.logsumexp(1) - (target * scores).sum(1))
    return torch.stack(losses).sum(0).mean() / (len(targets) * (len(u) - 1))


class Prototypes(nn.Module):
    """A linear layer without bias from unit rows to the cosines with P trained directions.

    Args:
        in_dim: The width K of z.
        count: The number P of prototypes.

    >>> Prototypes(4, 10)(torch.randn(3, 4)).shape
    torch.Size([3, 10])
    """

    def __init__(self, in_dim: int, count: int):
        super().__init__()
        # As torch's linear layer starts. Only the directions count, but the lengths scale their gradients.
        self.weight = nn.Parameter(torch.empty(count, in_dim).uniform_(-1, 1) / math.sqrt(in_dim))

    @property
    def directions(self) -> Tensor:
        """The unit directions (P, K)."""
        return unit_rows(self.weight)

    def forward(self, z: Tensor) -> Tensor:
        """(N, K) -> (N, P)."""
        scores: Tensor = products(unit_rows(z), self.directions)
        return scores


class DINOLoss(ViewsLoss):
    r"""DINO: each view predicts the prototypes that a teacher assigns to the other, global views.

    With unit vectors u along z, unit prototypes c_1 .. c_P, the student's temperature T, the teacher's
    outputs t (its own cosines with its own prototypes), their centre m and the teacher's temperature T',

    .. math:: p_v = \operatorname{softmax}(C u_v / T), \quad
              q_w = \operatorname{softmax}\big((t_w - m) / T'\big), \quad
              L = \operatorname{mean}_{v \ne w,\ w\ \text{global}} \Big[-\sum_k q_{wk} \log p_{vk}\Big]

    After each step in training mode :math:`m \leftarrow \mu m + (1 - \mu) \bar t`, where the mean is over the
    global views of all images of all processes. T' rises linearly from `warmup_temperature` to
    `teacher_temperature` over the first `warmup` of the training. Called as
    `loss(z, teacher=t, progress=..., global_views=G)`. Shapes: (V, N, K) and (G, N, P) -> scalar.

    The prototypes belong to the objective, and the MLP below them is the head of the run.

    Args:
        temperature: The student's temperature T, above 0.
        in_dim: The width K of z, 1 or more.
        prototypes: The number P of prototypes, 2 or more.
        teacher_temperature: The teacher's temperature T' after the warm-up, above 0.
        warmup_temperature: The teacher's temperature T' at the start, above 0.
        warmup: The share of the training in which T' rises, 0 to 1.
        momentum: The share of the teacher that the first step keeps, 0 to 1. It rises to 1 as half a cosine.
        centre_momentum: The share mu of the centre that a step keeps, 0 or more and below 1.
        centring: Whether the centre is subtracted; false: m stays 0.
        freeze: The share of the training in which the prototypes get a zero gradient, 0 to 1.
        gather: Whether centre and loss are means over the rows of all processes. Each process computes the
            loss of its own rows only, and the gradients are still exact.

    Raises:
        UsageError: A setting is outside its limits, there is one view or one image, or `teacher` has another
            shape.

    >>> loss = DINOLoss(in_dim=4, prototypes=16)
    >>> loss(torch.randn(3, 5, 4), teacher=torch.randn(2, 5, 16), progress=0.5, global_views=2).shape
    torch.Size([])
    >>> round(loss.chance(5), 4)  # ln 16
    2.7726

    Source: Caron et al. 2021 (2104.14294), Algorithm 1, with the schedules of the paper's section
    "Implementation details", and authors' code. The code's own defaults are `teacher_temperature=0.04` with
    `warmup=0`, and it changes T' once an epoch. The paper warms up for 30 epochs, and `warmup=0.3` is that of
    100 epochs. The code freezes the prototypes in the first epoch, and `freeze=0.01` is that of 100 epochs.
    The lengths of the prototypes are fixed at 1, as `norm_last_layer` does.
    """

    trains = frozenset({"alignment", "cluster_learnability"})

    needs: ClassVar[frozenset[str]] = frozenset({"teacher", "progress", "global_views"})
    averaged: ClassVar[tuple[str, ...]] = ("prototypes",)
    centre: Tensor

    def __init__(
        self,
        temperature: float = 0.1,
        *,
        in_dim: int,
        prototypes: int = 65536,
        teacher_temperature: float = 0.07,
        warmup_temperature: float = 0.04,
        warmup: float = 0.3,
        momentum: float = 0.996,
        centre_momentum: float = 0.9,
        centring: bool = True,
        freeze: float = 0.01,
        gather: bool = True,
    ):
        super().__init__(gather)
        if in_dim < 1 or prototypes < 2:
            raise UsageError(
                f"DINO needs z of width 1 or more and 2 prototypes or more, but got in_dim={in_dim} and "
                f"prototypes={prototypes}; 65536 are public, and 1024 fit a CPU."
            )
        self.temperature = check_number("temperature", temperature, above=0)
        self.teacher_temperature = check_number("teacher_temperature", teacher_temperature, above=0)
        self.warmup_temperature = check_number("warmup_temperature", warmup_temperature, above=0)
        self.warmup, self.momentum = check_share("warmup", warmup), check_share("momentum", momentum)
        self.centre_momentum = check_share("centre_momentum", centre_momentum)
        if centre_momentum == 1:
            raise UsageError(
                f"centre_momentum must be below 1, but got {centre_momentum}, with which the centre never "
                "moves; write centring=false to train without one."
            )
        self.centring, self.freeze = centring, check_share("freeze", freeze)
        self.prototypes = Prototypes(in_dim, prototypes)
        self.register_buffer("centre", torch.zeros(prototypes))

    def forward(  # type: ignore[override]  # its keywords are those that it needs
        self, z: Tensor, *, teacher: Tensor, progress: float = 1.0, global_views: int | None = None
    ) -> Tensor:
        """Return the loss of the views (V, N, K) under what the teacher makes of the global ones."""
        check_views(z)
        self._check(z, teacher, len(z) if global_views is None else global_views)
        with torch.no_grad():
            targets = centred_targets(teacher, self.centre, self.teacher_temperature_at(progress))
        directions = self.prototypes.directions
        if progress < self.freeze:
            # A gradient of zero and not none, because several processes wait for one of every weight.
            directions = directions.detach() + 0 * directions
        u = torch.stack([unit_rows(view) for view in z])
        own = self_distillation(u, directions, targets, self.temperature)
        if self.training and self.centring:
            self._move_centre(teacher)
        [everyones] = self.gathered(own[None])
        return everyones.mean()

    @torch.no_grad()
    def _move_centre(self, teacher: Tensor) -> None:
        own = teacher.to(torch.promote_types(teacher.dtype, torch.float32)).mean((0, 1))
        [means] = self.gathered(own[None])
        self.centre.lerp_(means.mean(0).to(self.centre), 1 - self.centre_momentum)

    def teacher_temperature_at(self, progress: float) -> float:
        """The teacher's temperature at a share of the training.

        >>> loss = DINOLoss(in_dim=4, prototypes=16)
        >>> [round(loss.teacher_temperature_at(progress), 4) for progress in (0.0, 0.15, 0.3, 1.0)]
        [0.04, 0.055, 0.07, 0.07]
        """
        risen = min(1.0, progress / self.warmup) if self.warmup > 0 else 1.0
        return self.warmup_temperature + risen * (self.teacher_temperature - self.warmup_temperature)

    def momentum_at(self, progress: float) -> float:
        """The share of the teacher that a step keeps."""
        return cosine_momentum(self.momentum, progress)

    def chance(self, n: int, width: int | None = None, global_views: int = 2, local_views: int = 0) -> float:
        """The loss of a student that prefers no prototype: ln P, whatever the teacher assigns."""
        return math.log(len(self.prototypes.weight))

    def collapsed(self, n: int, width: int, global_views: int = 2, local_views: int = 0) -> dict[str, float]:
        r"""All outputs uniform: ln P; without the centre also all of them at one prototype.

        A centre that has caught up makes the targets of equal outputs uniform, so a student at one prototype
        does not stay there. Without it, with cosines of 1 with one prototype and of -1 with the others, the
        loss is almost 0: :math:`\ln(1 + (P - 1) e^{-2 / T}) + (1 - q)\,2 / T` with the share
        :math:`q = 1 / (1 + (P - 1) e^{-2 / T'})` of the teacher.
        """
        levels = {"one point": self.chance(n)}
        if not self.centring:
            others = len(self.prototypes.weight) - 1
            missed = others / (others + math.exp(2 / self.teacher_temperature))
            gap = 2 / self.temperature
            levels["one prototype"] = math.log1p(others * math.exp(-gap)) + missed * gap
        return levels

    def unguarded(self) -> tuple[Unguarded, ...]:
        """Centring, sharpening and an averaged teacher, where one is switched off (Sections 5.2 and 5.3)."""
        parts = []
        if not self.centring:
            parts.append(
                Unguarded(
                    "no centring",
                    "the outputs of all images can go to one prototype",
                    "leave out centring=false",
                )
            )
        if self.teacher_temperature >= self.temperature:
            parts.append(
                Unguarded(
                    "no sharpening",
                    "the teacher's targets are no sharper than the student's, and all can become uniform",
                    f"choose a teacher_temperature below {self.temperature:g}, such as 0.04",
                )
            )
        if self.momentum == 0:
            parts.append(
                Unguarded(
                    "no averaged teacher",
                    "the teacher starts as a copy of the student, and the authors report that this fails",
                    "choose a momentum such as 0.996",
                )
            )
        return tuple(parts)

    def _check(self, z: Tensor, teacher: Tensor, global_views: int) -> None:
        count, width = self.prototypes.weight.shape
        if z.shape[2] != width:
            raise UsageError(
                f"These prototypes take z of width {width}, but got {z.shape[2]}; build them with in_dim as "
                "wide as the head's output."
            )
        if teacher.shape != (global_views, z.shape[1], count):
            raise UsageError(
                f"Expected what the teacher makes of {global_views} global views of {z.shape[1]} images, "
                f"({global_views}, {z.shape[1]}, {count}), but got {tuple(teacher.shape)}; give it the same "
                "views and a copy of the prototypes."
            )
