"""What one training step computes, for the terms of its loss."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fullrank.view_numbers import ViewNumbers


@dataclass(frozen=True, eq=False)
class Step:
    """A training step: the features of both views of N images, and what is known of them.

    The first N rows of `h`, `z` and `features` are the first views, the others the second views.

    Attributes:
        h: The representations (2N, D).
        z: The embeddings (2N, K), float32 or better.
        features: Place -> features (2N, D_p), from the same pass as h, at the places that the terms name.
        views: The parameters of the views as numbers; None if no part asks for them.
        labels: The labels (N,), -1 where there is none; None without labels.
        generator: The source of randomness, the same in every process and after a resume.
        progress: The share of the training that is done, 0 to 1.
        losses: Name -> the loss (a scalar, weighted) of the objective and of each term.
        cues: Name of a label that a term reads beside `labels` -> the labels (N,), -1 where there is none.

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

    @property
    def h_a(self) -> Tensor:
        """The representations of the first views, (N, D)."""
        return self.h.chunk(2)[0]

    @property
    def h_b(self) -> Tensor:
        """The representations of the second views, (N, D)."""
        return self.h.chunk(2)[1]

    @property
    def z_a(self) -> Tensor:
        """The embeddings of the first views, (N, K)."""
        return self.z.chunk(2)[0]

    @property
    def z_b(self) -> Tensor:
        """The embeddings of the second views, (N, K)."""
        return self.z.chunk(2)[1]

    @property
    def loss(self) -> Tensor:
        """The sum of the losses."""
        return torch.stack(list(self.losses.values())).sum()

    def detached(self) -> "Step":
        """The same tensors of this step without their graph; places, parameters and cues are left out."""
        losses = {name: loss.detach() for name, loss in self.losses.items()}
        h, z = self.h.detach(), self.z.detach()
        return Step(h, z, labels=self.labels, progress=self.progress, losses=losses)
