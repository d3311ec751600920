"""The training step, as a LightningModule that works under anybody's Trainer."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from fullrank.batch import Batch
from fullrank.errors import UsageError
from fullrank.training.recipe import Optimizer
from fullrank.views import step_generator

if TYPE_CHECKING:
    from fullrank.views import Views


@dataclass(frozen=True)
class Step:
    """What the last training step saw, detached: h (2N, D), the embeddings z_a and z_b (N, K), the loss."""

    h: Tensor
    z_a: Tensor
    z_b: Tensor
    loss: Tensor


class JointEmbedding(pl.LightningModule):
    """Encoder, head and objective, trained on two views of each image.

    `objective` is anything called as `loss(z_a, z_b)`. Batches are `fullrank.batch.Batch`; the views of step
    t in epoch e are drawn from (`seed`, e, t), so a resumed run sees the views an unbroken one would. For one
    process: several would draw the same views, and negatives are not gathered.

    >>> from fullrank import Optimizer, encoder, head, objective, view_pipeline
    >>> module = JointEmbedding(encoder("tiny-resnet", image_size=8, in_chans=1),
    ...                         head("subvector:24", in_dim=96),
    ...                         objective("infonce:0.2"), view_pipeline("weak", image_size=8, channels=1),
    ...                         Optimizer(lr=1e-3))
    >>> module.head.out_dim
    24
    """

    latest: Step

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module,
        objective: nn.Module,
        views: "Views",
        optimizer: Optimizer | None = None,
        *,
        seed: int = 0,
    ):
        super().__init__()
        self.encoder, self.head, self.objective = encoder, head, objective
        self.views, self.optimizer, self.seed = views, optimizer or Optimizer(), seed

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) in 0 to 1 -> h (N, D)."""
        h: Tensor = self.encoder(images)
        return h

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step: two views, both through the encoder in one call, the head on both, the loss."""
        generator = step_generator(self.seed, self.current_epoch, batch_idx)
        height, width = batch.images.shape[-2:]
        parameters = self.views.sample(len(batch), generator, (height, width))
        h = self.encoder(torch.cat(self.views.apply(batch, parameters)))
        z_a, z_b = self.head(h).chunk(2)
        loss: Tensor = self.objective(z_a, z_b)
        self.latest = Step(h.detach(), z_a.detach(), z_b.detach(), loss.detach())
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The recipe's optimizer, with warm-up and cosine for each step of the whole run."""
        optimizer = build_optimizer(self.optimizer, [self.encoder, self.head, self.objective])
        if not math.isfinite(total := self.trainer.estimated_stepping_batches):
            raise UsageError("The schedule needs to know its end: give the Trainer max_epochs or max_steps.")
        total, warmup = int(total), round(self.optimizer.warmup * total)
        schedule = LambdaLR(optimizer, lambda step: warmup_cosine(step, warmup, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def warmup_cosine(step: int, warmup: int, total: int) -> float:
    """The share of the base learning rate at `step`: linear up to 1 over `warmup`, then cosine to 0.

    >>> [round(warmup_cosine(t, 2, 6), 2) for t in range(7)]
    [0.5, 1.0, 1.0, 0.85, 0.5, 0.15, 0.0]
    """
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))


def build_optimizer(settings: Optimizer, modules: list[nn.Module]) -> torch.optim.Optimizer:
    """AdamW or SGD over all parameters; norms, biases and other 1-d parameters have no weight decay."""

    def parameters() -> Iterator[nn.Parameter]:
        return (p for module in modules for p in module.parameters() if p.requires_grad)

    groups = [
        {"params": [p for p in parameters() if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum)
    return torch.optim.AdamW(groups, lr=settings.lr)
