"""What one training step computes, for the terms of its loss."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fullrank.view_numbers import ViewNumbers


@dataclass(frozen=True, eq=False)
class Step:
    """A training step: the features of V views of N images, and what is known of them.

    The first N rows of `h`, `z` and `features` are the first views, the next N the second, and so on; global
    views come before local crops.

    Attributes:
        h: The representations (V N, D).
        z: The embeddings (V N, K), float32 or better.
        features: Place -> features (V N, D_p), from the same pass as h, at the places that the terms name.
        views: The parameters of the views as numbers; None if no part asks for them.
        labels: The labels (N,), -1 where there is none; None without labels.
        generator: The source of randomness, the same in every process and after a resume.
        progress: The share of the training that is done, 0 to 1.
        losses: Name -> the loss (a scalar, weighted) of the objective and of each term.
        cues: Name of a label that a term reads beside `labels` -> the labels (N,), -1 where there is none.
        targets: What a teacher makes of the global views, (G, N, P); None without a teacher.
        view_count: The number of views, V.
        global_count: How many of them are global.

    >>> step = Step(torch.zeros(4, 3), torch.ones(4, 2))
    >>> step.h_a.shape, step.z_b.shape
    (torch.Size([2, 3]), torch.Size([2, 2]))
    """

    h: Tensor
    z: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)
    views: ViewNumbers | None = None
    labels: Tensor | None = None
    generator: torch.Generator | None = None
    progress: float = 1.0
    losses: Mapping[str, Tensor] = field(default_factory=dict)
    cues: Mapping[str, Tensor] = field(default_factory=dict)
    targets: Tensor | None = None
    view_count: int = 2
    global_count: int = 2

    def __len__(self) -> int:
        """The number of images, N."""
        return len(self.z) // self.view_count

    def by_view(self, rows: Tensor) -> Tensor:
        """Rows (V N, K) of this step as (V, N, K)."""
        return rows.reshape(self.view_count, -1, *rows.shape[1:])

    @property
    def h_a(self) -> Tensor:
        """The representations of the first views, (N, D)."""
        return self.h[: len(self)]

    @property
    def h_b(self) -> Tensor:
        """The representations of the second views, (N, D)."""
        return self.h[len(self) : 2 * len(self)]

    @property
    def z_a(self) -> Tensor:
        """The embeddings of the first views, (N, K)."""
        return self.z[: len(self)]

    @property
    def z_b(self) -> Tensor:
        """The embeddings of the second views, (N, K)."""
        return self.z[len(self) : 2 * len(self)]

    def pair(self, one: int, other: int) -> "Step":
        """The step as if it had two of its views only."""
        if self.view_count == 2:
            return self

        def both(rows: Tensor) -> Tensor:
            return self.by_view(rows)[[one, other]].flatten(0, 1)

        return replace(
            self,
            h=both(self.h),
            z=both(self.z),
            features={place: both(rows) for place, rows in self.features.items()},
            views=None if self.views is None else self.views.pair(one, other),
            view_count=2,
            global_count=2,
        )

    @property
    def loss(self) -> Tensor:
        """The sum of the losses."""
        return torch.stack(list(self.losses.values())).sum()

    def detached(self) -> "Step":
        """The same tensors of this step without their graph; places, parameters and cues are left out."""
        losses = {name: loss.detach() for name, loss in self.losses.items()}
        return Step(
            self.h.detach(),
            self.z.detach(),
            labels=self.labels,
            progress=self.progress,
            losses=losses,
            targets=self.targets,
            view_count=self.view_count,
            global_count=self.global_count,
        )
