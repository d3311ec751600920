"""Objectives: the loss of two embeddings z_a, z_b (N, K) of the same images under two views.

The catalogue imports nothing; `objective` builds one, and the classes are imported on first use. Any foreign
`nn.Module` that is called as `loss(z_a, z_b)` can stand in their place in `JointEmbedding`.
"""

from typing import TYPE_CHECKING

from fullrank.lazy import attach
from fullrank.specs import Entry, Parameter, Registry, Spec

if TYPE_CHECKING:
    from torch import nn

    from fullrank.objectives.contrastive import InfoNCELoss as InfoNCELoss, NTXentLoss as NTXentLoss

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "contrastive": ["InfoNCELoss", "NTXentLoss"],
    },
)
__all__ += ["OBJECTIVES", "objective"]

OBJECTIVES = Registry("objective", "objectives")
for _entry in [
    Entry(
        "infonce",
        "fullrank.objectives.contrastive:InfoNCELoss",
        "cross-view negatives only (N - 1 for each image), symmetrised, cosine",
        "P1, authors' code (temperature 0.1); groups=8 is their group mode",
        value=Parameter("temperature", float, "divides the cosines, above 0", 0.1),
        options=(Parameter("groups", int, "split the channels at random into so many losses", 1),),
    ),
    Entry(
        "ntxent",
        "fullrank.objectives.contrastive:NTXentLoss",
        "all other 2N - 1 views in the denominator, cosine (SimCLR)",
        "Chen et al. 2020 (2002.05709), Equation 1",
        value=Parameter("temperature", float, "divides the cosines, above 0", 0.5),
        aliases=("simclr",),
    ),
]:
    OBJECTIVES.register(_entry)


def objective(spec: str | Spec) -> "nn.Module":
    """Build an objective from its spec; raises UsageError for an unknown name or a bad number.

    >>> round(objective("infonce:0.1").chance(256), 3)
    5.545
    """
    built: nn.Module = OBJECTIVES.build(spec)
    return built
