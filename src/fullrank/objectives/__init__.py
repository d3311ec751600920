"""Objectives: the loss of two embeddings z_a, z_b (N, K) of the same images under two views."""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fullrank.bibliography import P1, P2
from fullrank.errors import UsageError
from fullrank.lazy import attach
from fullrank.registry import Entry, Registry
from fullrank.specs import Parameter, Spec

if TYPE_CHECKING:
    from torch import nn

    from fullrank.objectives.contract import (
        chance_of as chance_of,
        loss_of as loss_of,
        needs_of as needs_of,
        temperature_of as temperature_of,
    )
    from fullrank.objectives.contrastive import InfoNCELoss as InfoNCELoss, NTXentLoss as NTXentLoss
    from fullrank.objectives.redundancy import BarlowTwinsLoss as BarlowTwinsLoss, VICRegLoss as VICRegLoss
    from fullrank.objectives.spectral import SpectralContrastiveLoss as SpectralContrastiveLoss
    from fullrank.objectives.supervised import CrossEntropyLoss as CrossEntropyLoss, SupConLoss as SupConLoss

__getattr__, __dir__, __all__ = attach(__name__)
__all__ += ["OBJECTIVES", "needs", "objective", "register_objective"]


def _builder_of(target: Any) -> Callable[..., Any]:
    """What builds an objective: a class or function without required parameters, or for a loss itself, this.

    A function that needs two things or more, as in `loss(z_a, z_b)`, is the loss.
    """
    if not inspect.isfunction(target):
        return target  # type: ignore[no-any-return]
    parameters = inspect.signature(target).parameters.values()
    required = [each for each in parameters if each.default is each.empty and each.name not in _CONTEXT]
    return (lambda: target) if len(required) > 1 else target


_CONTEXT = ("in_dim", "num_classes")
OBJECTIVES = Registry(
    "objective", "objectives", context=_CONTEXT, group="fullrank.objectives", builder_of=_builder_of
)
register_objective = OBJECTIVES.add
for _entry in [
    Entry(
        "infonce",
        "fullrank.objectives.contrastive:InfoNCELoss",
        "cross-view negatives only (N - 1 for each image), symmetrised, cosine",
        "P1, authors' code (temperature 0.1); groups=8 is their group mode",
        value=Parameter("temperature", float, "divides the cosines, above 0", 0.1),
        options=(Parameter("groups", int, "split the channels at random into so many losses", 1),),
        citations=("oord2018representation", P1),
    ),
    Entry(
        "ntxent",
        "fullrank.objectives.contrastive:NTXentLoss",
        "all other 2N - 1 views in the denominator, cosine (SimCLR)",
        "Chen et al. 2020 (2002.05709), Equation 1",
        value=Parameter("temperature", float, "divides the cosines, above 0", 0.5),
        aliases=("simclr",),
        citations=("chen2020simple",),
    ),
    Entry(
        "supcon",
        "fullrank.objectives.supervised:SupConLoss",
        "views of one class are positives, all other views in the denominator, cosine; needs labels",
        "Khosla et al. 2020 (2004.11362), Equation 2 (L_out)",
        value=Parameter("temperature", float, "divides the cosines, above 0", 0.1),
        citations=("khosla2020supervised",),
    ),
    Entry(
        "cross-entropy",
        "fullrank.objectives.supervised:CrossEntropyLoss",
        "supervised: a trained linear classifier above z, both views classified; needs labels",
        "P2, authors' code (supervised training through a head)",
        options=(Parameter("label_smoothing", float, "share of the target spread over all classes", 0.0),),
        citations=(P2,),
    ),
    Entry(
        "spectral",
        "fullrank.objectives.spectral:SpectralContrastiveLoss",
        "-2 positive products + squared products of other images; lengths at most sqrt(mu)",
        "HaoChen et al. 2021 (2106.04156), and authors' code",
        options=(
            Parameter("mu", float, "largest squared length of z, above 0", 1.0),
            Parameter("clip", bool, "false leaves the lengths free, as in the formula", True),
        ),
        citations=("haochen2021provable",),
    ),
    Entry(
        "vicreg",
        "fullrank.objectives.redundancy:VICRegLoss",
        "views close, channels of standard deviation 1, no covariance between them; no negatives",
        "Bardes, Ponce, LeCun 2022 (2105.04906), Equation 6, weighted as in the authors' code",
        options=(
            Parameter("invariance", float, "weight of the distance between views", 25.0),
            Parameter("variance", float, "weight of the hinge on each channel's deviation", 25.0),
            Parameter("covariance", float, "weight of the squared covariances", 1.0),
        ),
        citations=("bardes2022vicreg",),
    ),
    Entry(
        "barlow-twins",
        "fullrank.objectives.redundancy:BarlowTwinsLoss",
        "the cross-correlation of the views' channels brought to the identity; no negatives",
        "Zbontar et al. 2021 (2103.03230), Equation 1",
        options=(Parameter("redundancy", float, "weight of the entries off the diagonal", 0.005),),
        citations=("zbontar2021barlow",),
    ),
]:
    OBJECTIVES.register(_entry)


def objective(
    spec: "str | Spec | Callable[..., nn.Module]",
    *,
    in_dim: int | None = None,
    num_classes: int | None = None,
) -> "nn.Module":
    """Build an objective from its spec, or from a class of yours.

    One with weights needs the width of z and how many classes there are. Raises UsageError for an unknown
    name, a bad number, a width or a number of classes that the objective needs and does not get, and for one
    that needs what no training step has.

    >>> round(objective("infonce:0.1").chance(256), 3)
    5.545
    >>> objective("cross-entropy", in_dim=24, num_classes=10).classifier
    Linear(in_features=24, out_features=10, bias=True)
    """
    from fullrank.objectives.contract import checked_objective

    parsed = OBJECTIVES.parse(spec)
    parameters = inspect.signature(OBJECTIVES[parsed.name].load()).parameters
    sizes = {"in_dim": in_dim, "num_classes": num_classes}
    taken = {name: size for name, size in sizes.items() if name in parameters}
    required = [name for name in taken if parameters[name].default is inspect.Parameter.empty]
    if any(taken[name] is None for name in required):
        raise UsageError(
            f"The objective '{parsed}' has weights of its own, so it needs {' and '.join(taken)}; write "
            f"objective('{parsed}', {', '.join(f'{name}=...' for name in taken)})."
        )
    context = {name: size for name, size in taken.items() if size is not None}
    return checked_objective(OBJECTIVES.build(parsed, **context), parsed)


def needs(spec: "str | Spec | Callable[..., nn.Module]") -> frozenset[str]:
    """The keywords that an objective needs, by its spec; this imports it and does not build it.

    >>> needs("supcon:0.1"), needs("infonce:0.1")
    (frozenset({'labels'}), frozenset())
    """
    from fullrank.objectives.contract import needs_of

    return needs_of(OBJECTIVES[OBJECTIVES.parse(spec).name].load())
