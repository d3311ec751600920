"""Objectives: losses of two embeddings z_a and z_b (N, K), of two views of the same images."""

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fullrank.bibliography import P1, P2
from fullrank.errors import UsageError
from fullrank.lazy import attach
from fullrank.objectives.terms import (
    AUXILIARIES as AUXILIARIES,
    auxiliary as auxiliary,
    register_auxiliary as register_auxiliary,
)
from fullrank.registry import Entry, Registry
from fullrank.specs import Parameter, Spec

if TYPE_CHECKING:
    from torch import nn

    from fullrank.objectives.alignment import AlignmentLoss as AlignmentLoss
    from fullrank.objectives.contract import (
        chance_of as chance_of,
        loss_of as loss_of,
        needs_of as needs_of,
        temperature_of as temperature_of,
    )
    from fullrank.objectives.contrastive import InfoNCELoss as InfoNCELoss, NTXentLoss as NTXentLoss
    from fullrank.objectives.dino import DINOLoss as DINOLoss
    from fullrank.objectives.isotropy import SIGRegLoss as SIGRegLoss, WeakSIGRegLoss as WeakSIGRegLoss
    from fullrank.objectives.manifold import MMCRLoss as MMCRLoss
    from fullrank.objectives.nested import NestedLoss as NestedLoss
    from fullrank.objectives.predictors import BYOLLoss as BYOLLoss, SimSiamLoss as SimSiamLoss
    from fullrank.objectives.queue import QueueInfoNCELoss as QueueInfoNCELoss
    from fullrank.objectives.redundancy import BarlowTwinsLoss as BarlowTwinsLoss, VICRegLoss as VICRegLoss
    from fullrank.objectives.spectral import SpectralContrastiveLoss as SpectralContrastiveLoss
    from fullrank.objectives.supervised import CrossEntropyLoss as CrossEntropyLoss, SupConLoss as SupConLoss
    from fullrank.objectives.terms.augself import AugSelfTerm as AugSelfTerm
    from fullrank.objectives.terms.contract import Auxiliary as Auxiliary
    from fullrank.objectives.terms.koleo import KoLeoTerm as KoLeoTerm
    from fullrank.objectives.terms.mmd import MMDTerm as MMDTerm
    from fullrank.objectives.terms.sdssl import SDSSLTerm as SDSSLTerm
    from fullrank.objectives.visreg import VISRegLoss as VISRegLoss

__getattr__, __dir__, __all__ = attach(__name__)
__all__ += ["AUXILIARIES", "OBJECTIVES", "auxiliary", "needs", "objective"]
__all__ += ["register_auxiliary", "register_objective"]


def _builder_of(target: Any) -> Callable[..., Any]:
    """What builds an objective: a class, a function without required parameters, or this for a loss function.

    A function with two or more required parameters, such as `loss(z_a, z_b)`, is the loss itself.
    """
    if not inspect.isfunction(target):
        return target  # type: ignore[no-any-return]
    parameters = inspect.signature(target).parameters.values()
    required = [each for each in parameters if each.default is each.empty and each.name not in _CONTEXT]
    return (lambda: target) if len(required) > 1 else target


_CONTEXT = ("in_dim", "num_classes")
OBJECTIVES = Registry(
    "objective",
    "objectives",
    context=_CONTEXT,
    group="fullrank.objectives",
    builder_of=_builder_of,
    terms=AUXILIARIES,
)
register_objective = OBJECTIVES.add
for _entry in [
    Entry(
        "infonce",
        "fullrank.objectives.queue:infonce",
        "cross-view negatives only (N - 1 for each image), symmetrised, cosine; a queue needs a teacher",
        "P1, authors' code (temperature 0.1); groups=8 is their group mode; queue: MoCo, He et al. 2020",
        value=Parameter("temperature", float, "divisor of the cosines, above 0", 0.1),
        options=(
            Parameter("groups", int, "number of random groups of channels, each with its own loss", 1),
            Parameter(
                "queue",
                int,
                "number of earlier keys of a teacher as negatives, in place of the batch (MoCo); 0: none",
                0,
                citations=("he2020momentum",),
            ),
            Parameter("momentum", float, "share of the teacher that a step keeps, with a queue only", 0.999),
        ),
        citations=("oord2018representation", P1),
        alone="fullrank.objectives.contrastive:InfoNCELoss",
    ),
    Entry(
        "ntxent",
        "fullrank.objectives.contrastive:NTXentLoss",
        "all other 2N - 1 views in the denominator, cosine (SimCLR)",
        "Chen et al. 2020 (2002.05709), Equation 1",
        value=Parameter("temperature", float, "divisor of the cosines, above 0", 0.5),
        aliases=("simclr",),
        citations=("chen2020simple",),
    ),
    Entry(
        "supcon",
        "fullrank.objectives.supervised:SupConLoss",
        "views of one class are positives, all other views in the denominator, cosine; needs labels",
        "Khosla et al. 2020 (2004.11362), Equation 2 (L_out)",
        value=Parameter("temperature", float, "divisor of the cosines, above 0", 0.1),
        citations=("khosla2020supervised",),
    ),
    Entry(
        "cross-entropy",
        "fullrank.objectives.supervised:CrossEntropyLoss",
        "supervised: a trained linear classifier on z classifies both views; needs labels",
        "P2, authors' code (supervised training through a head)",
        options=(Parameter("label_smoothing", float, "share of the target spread over all classes", 0.0),),
        citations=(P2,),
    ),
    Entry(
        "spectral",
        "fullrank.objectives.spectral:SpectralContrastiveLoss",
        "-2 positive products + squared products of different images; length of z at most sqrt(mu)",
        "HaoChen et al. 2021 (2106.04156), and authors' code",
        options=(
            Parameter("mu", float, "largest squared length of z, above 0", 1.0),
            Parameter("clip", bool, "limit the length of z; false: no limit, as in the formula", True),
        ),
        citations=("haochen2021provable",),
    ),
    Entry(
        "vicreg",
        "fullrank.objectives.redundancy:VICRegLoss",
        "views agree, channels have standard deviation 1 and no covariance; no negatives",
        "Bardes, Ponce, LeCun 2022 (2105.04906), Equation 6, weighted as in the authors' code",
        options=(
            Parameter("invariance", float, "weight of the distance between views", 25.0),
            Parameter("variance", float, "weight of the hinge on the standard deviations", 25.0),
            Parameter("covariance", float, "weight of the squared covariances", 1.0),
        ),
        citations=("bardes2022vicreg",),
    ),
    Entry(
        "barlow-twins",
        "fullrank.objectives.redundancy:BarlowTwinsLoss",
        "pushes the cross-correlation of the channels of both views to the identity; no negatives",
        "Zbontar et al. 2021 (2103.03230), Equation 1",
        options=(Parameter("redundancy", float, "weight of the off-diagonal entries", 0.005),),
        citations=("zbontar2021barlow",),
    ),
    Entry(
        "sigreg",
        "fullrank.objectives.isotropy:SIGRegLoss",
        "views agree, random projections look standard normal (LeJEPA); any number of views; blind to rank",
        "Balestriero and LeCun 2025 (2511.08544), Algorithm 2, with the knots of the authors' code",
        value=Parameter("weight", float, "weight of the projections, 0 to 1; the views have the rest", 0.05),
        options=(
            Parameter("slices", int, "number of random directions, new each step", 1024),
            Parameter("knots", int, "number of points of the characteristic function", 17),
            Parameter("range", float, "last of these points, above 0", 3.0),
        ),
        aliases=("lejepa",),
        citations=("balestriero2025lejepa", "epps1983test"),
    ),
    Entry(
        "weak-sigreg",
        "fullrank.objectives.isotropy:WeakSIGRegLoss",
        "views agree, the covariance of z is near the identity through a random sketch; any number of views",
        "Akbar 2026 (2603.05924), and authors' code; the distance of views is that of sigreg",
        value=Parameter("weight", float, "weight of the covariance, 0 to 1; the views have the rest", 0.05),
        options=(Parameter("sketch", int, "rows of the sketch; a z of at most this width has none", 64),),
        citations=("akbar2026weak",),
    ),
    Entry(
        "visreg",
        "fullrank.objectives.visreg:VISRegLoss",
        "views agree, channels have mean 0 and deviation 1, projections are normal; any number of views",
        "Wu, Balestriero, Levine 2026 (2606.02572), Algorithm 1",
        value=Parameter("weight", float, "weight of the distribution, 0 to 1; the views have the rest", 0.9),
        options=(
            Parameter("slices", int, "number of random directions, new each step", 4096),
            Parameter("centre", float, "weight of the means within the distribution", 1.0),
            Parameter("scale", float, "weight of the deviations within the distribution", 1.0),
            Parameter("shape", float, "weight of the projections within the distribution", 1.0),
        ),
        citations=("wu2026visreg",),
    ),
    Entry(
        "simsiam",
        "fullrank.objectives.predictors:SimSiamLoss",
        "a trained predictor of one view's embedding from another's; the target gets no gradient",
        "Chen and He 2021 (2011.10566), Equations 1 to 4, and authors' code",
        options=(
            Parameter("hidden", int, "width of the predictor's hidden layer, 1 or more", 512),
            Parameter("stop_gradient", bool, "no gradient to the target; false: it collapses", True),
        ),
        citations=("chen2021exploring",),
    ),
    Entry(
        "byol",
        "fullrank.objectives.predictors:BYOLLoss",
        "a trained predictor of a teacher's embedding of one view from that of another view",
        "Grill et al. 2020 (2006.07733), Equation 2",
        options=(
            Parameter("momentum", float, "share of the teacher that the first step keeps, 0 to 1", 0.996),
            Parameter("hidden", int, "width of the predictor's hidden layer, 1 or more", 4096),
            Parameter("predictor", str, "mlp; with none it collapses", "mlp", ("mlp", "none")),
        ),
        citations=("grill2020bootstrap",),
    ),
    Entry(
        "mmcr",
        "fullrank.objectives.manifold:MMCRLoss",
        "the images' mean embeddings take up as many directions as they can (nuclear norm, MMCR)",
        "Yerxa et al. 2023 (2303.03307), Equation 7",
        options=(Parameter("local", float, "weight of the directions of one image's views", 0.0),),
        citations=("yerxa2023learning",),
    ),
    Entry(
        "align",
        "fullrank.objectives.alignment:AlignmentLoss",
        "squared distance of the views at unit length; it collapses, unless the head whitens (W-MSE)",
        "Wang and Isola 2020 (2005.10242), Equation 1; Ermolov et al. 2021 (2007.06346)",
        citations=("wang2020understanding", "ermolov2021whitening"),
    ),
    Entry(
        "dino",
        "fullrank.objectives.dino:DINOLoss",
        "each view predicts the prototypes that a teacher assigns to the other, global views",
        "Caron et al. 2021 (2104.14294), Algorithm 1, with the schedules of the paper",
        value=Parameter("temperature", float, "divisor of the student's cosines, above 0", 0.1),
        options=(
            Parameter("prototypes", int, "number of prototypes; 1024 are enough on a CPU", 65536),
            Parameter("teacher_temperature", float, "divisor of the teacher's outputs after warm-up", 0.07),
            Parameter("warmup_temperature", float, "divisor of the teacher's outputs at the start", 0.04),
            Parameter("warmup", float, "share of the training in which that divisor rises", 0.3),
            Parameter("momentum", float, "share of the teacher that the first step keeps; rises to 1", 0.996),
            Parameter("centre_momentum", float, "share of the centre that a step keeps", 0.9),
            Parameter("centring", bool, "subtract the centre of the teacher's outputs; false: none", True),
            Parameter("freeze", float, "share of the training in which the prototypes stay fixed", 0.01),
        ),
        citations=("caron2021emerging",),
    ),
]:
    OBJECTIVES.register(_entry)


def objective(
    spec: "str | Spec | Callable[..., nn.Module]",
    *,
    in_dim: int | None = None,
    num_classes: int | None = None,
    nested: Sequence[int] = (),
) -> "nn.Module":
    """Build an objective from its spec, or from a class or function of your own.

    Args:
        spec: A spec such as `infonce:0.1` (`fullrank list objectives`), a class, or a function
            `loss(z_a, z_b)`.
        in_dim: The width K of z, for objectives with weights of their own.
        num_classes: The number of classes, for objectives with a classifier.
        nested: Widths k, as a head `matryoshka` says in its `nested`. The objective is then the mean of one
            for each k, which sees the first k coordinates of z.

    Returns:
        The objective, called as `loss(z_a, z_b)` with embeddings (N, K), and with `labels` or `generator` as
        keywords if its `needs` name them.

    Raises:
        UsageError: The name is unknown, a number is outside its limits, a size is missing, or the objective
            needs what no training step has.

    >>> round(objective("infonce:0.1").chance(256), 3)
    5.545
    >>> objective("cross-entropy", in_dim=24, num_classes=10).classifier
    Linear(in_features=24, out_features=10, bias=True)
    """
    from fullrank.objectives.contract import checked_objective

    parsed = OBJECTIVES.parse(spec)
    if nested:
        from fullrank.objectives.nested import NestedLoss

        parts = [objective(parsed, in_dim=width, num_classes=num_classes) for width in nested]
        return NestedLoss(parts, nested)
    if parsed.terms:
        raise UsageError(
            f"'{parsed}' has terms, which see more than z; build {parsed.alone} here, and each term with "
            "auxiliary()."
        )
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
    """The keywords that an objective needs, from its spec; imports the objective and does not build it.

    Args:
        spec: A spec, a class or a function.

    >>> needs("supcon:0.1"), needs("infonce:0.1")
    (frozenset({'labels'}), frozenset())
    """
    from fullrank.objectives.contract import needs_of

    return needs_of(OBJECTIVES[OBJECTIVES.parse(spec).name].load())
