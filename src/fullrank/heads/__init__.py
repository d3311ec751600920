"""Heads: the part between the representation h (N, D) and the embedding z (N, K) that the loss sees."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fullrank.bibliography import P1, P2
from fullrank.errors import UsageError
from fullrank.lazy import attach
from fullrank.registry import Entry, Registry, takes
from fullrank.specs import Parameter, Spec

if TYPE_CHECKING:
    from torch import nn

    from fullrank.heads.conditioned import ConditionedHead as ConditionedHead
    from fullrank.heads.contract import Head as Head
    from fullrank.heads.correction import CorrectionHead as CorrectionHead
    from fullrank.heads.fixed import (
        LowRankHead as LowRankHead,
        MatryoshkaHead as MatryoshkaHead,
        NoHead as NoHead,
        RandomSubvectorHead as RandomSubvectorHead,
        ReweightHead as ReweightHead,
        SubvectorHead as SubvectorHead,
    )
    from fullrank.heads.trained import (
        DiagonalHead as DiagonalHead,
        LinearHead as LinearHead,
        MLPHead as MLPHead,
        OrthogonalHead as OrthogonalHead,
    )

__getattr__, __dir__, __all__ = attach(__name__)
__all__ += ["GROUP", "HEADS", "head", "register_head"]

NORM = Parameter(
    "norm",
    str,
    "batch: standardise z over the batch, without parameters; centre, scale: one half of that; whiten: ZCA",
    "none",
    choices=("none", "batch", "centre", "scale", "whiten"),
    word_citations=(("whiten", "ermolov2021whitening"), ("whiten", "huang2019iterative")),
)
# The width of z in most recipes, so that it is whitened as a whole; twice as many rows are needed.
GROUP = 128
WHITENED = Parameter("group", int, "most channels that norm=whiten whitens together", GROUP)
DROPOUT = Parameter(
    "dropout",
    float,
    "probability that a coordinate of h is set to 0 before the head, in training",
    0.0,
    citations=("srivastava2014dropout",),
)
# For heads whose builder takes `extra_dim`, the number of further inputs after h.
CONDITIONED = Parameter(
    "conditioned",
    str,
    "views: the head is also given the embedded parameters of each view (CASSLE)",
    "none",
    choices=("none", "views"),
    citations=("przewiezlikowski2024augmentation",),
)
EMBEDDED = Parameter("embedded", int, "width of the embedded parameters, under conditioned=views", 64)
CONDITIONING = (CONDITIONED, EMBEDDED)
_OUT_DIM = Parameter("out_dim", int, "width of z", 128)
_DIM = Parameter("dim", int, "number of channels that reach the loss", 360)

HEADS = Registry(
    "head",
    "heads",
    context=("in_dim", "extra_dim", "view_dims"),
    shared=(NORM, WHITENED, DROPOUT),
    offered={"extra_dim": CONDITIONING},
    group="fullrank.heads",
)
register_head = HEADS.add
for _entry in [
    Entry(
        "none",
        "fullrank.heads.fixed:NoHead",
        "z = h: the loss is applied to the representation itself",
        "P1 Table 1 and 2, 'no projector' (ImageNet top-1 51.5)",
        citations=(P1,),
    ),
    Entry(
        "linear",
        "fullrank.heads.trained:LinearHead",
        "z = W h, trained, no bias",
        "P1 Table 1, '1-layer linear projector'; Table 2, 'trainable linear' (61.1)",
        value=_OUT_DIM,
        options=CONDITIONING,
        citations=(P1,),
    ),
    Entry(
        "mlp",
        "fullrank.heads.trained:MLPHead",
        "linear layers, each with batch norm, ReLU between them, no bias",
        "P1 Table 1, '2-layer nonlinear projector' (66.5)",
        value=_OUT_DIM,
        options=(
            Parameter("hidden", int, "width of the hidden layers; default: the width of h"),
            Parameter("layers", int, "number of linear layers", 2),
            Parameter("last_norm", bool, "batch norm after the last layer too", True),
            *CONDITIONING,
        ),
        citations=(P1,),
    ),
    Entry(
        "diagonal",
        "fullrank.heads.trained:DiagonalHead",
        "z = w * h, one trained weight per channel, initialised to 1",
        "P1 Table 2, 'trainable diagonal' (60.2)",
        citations=(P1,),
    ),
    Entry(
        "orthogonal",
        "fullrank.heads.trained:OrthogonalHead",
        "z = Q h, trained, orthogonal by parametrisation",
        "P1 Table 2, 'orthogonal' (52.2)",
        citations=(P1,),
    ),
    Entry(
        "subvector",
        "fullrank.heads.fixed:SubvectorHead",
        "z = the first DIM channels of h, without parameters (DirectCLR)",
        "P1 Table 1, 'DirectCLR'; Table 2, 'fixed low-rank diagonal' (62.7)",
        value=_DIM,
        aliases=("directclr",),
        citations=(P1,),
    ),
    Entry(
        "matryoshka",
        "fullrank.heads.fixed:MatryoshkaHead",
        "z = the first channels of h; the loss is the mean over several nested widths",
        "Kusupati et al. 2022 (2205.13147), with the objective in place of their classifier",
        value=Parameter("widths", tuple, "ascending widths; the largest is that of z", (8, 16, 32, 96)),
        citations=("kusupati2022matryoshka",),
    ),
    Entry(
        "lowrank",
        "fullrank.heads.fixed:LowRankHead",
        "z = U diag(1..1, 0..0) V' h with fixed random rotations; rank DIM, not trained",
        "P1 Table 2, 'fixed low-rank' (62.3)",
        value=_DIM,
        citations=(P1,),
    ),
    Entry(
        "reweight",
        "fullrank.heads.fixed:ReweightHead",
        "z_i = h_i / kappa^i, not trained",
        "P2, fixed reweighting head (authors' code; kappa 1.05)",
        value=Parameter("kappa", float, "ratio of consecutive weights, 1 or more", 1.05),
        citations=(P2,),
    ),
    Entry(
        "random-subvector",
        "fullrank.heads.fixed:RandomSubvectorHead",
        "z = DIM random channels of h, redrawn at each training step; the identity in eval",
        "P1 Appendix F, 'random features each iteration' (43.0)",
        value=_DIM,
        citations=(P1,),
    ),
    Entry(
        "correction",
        "fullrank.heads.correction:CorrectionHead",
        "z = h + w(h), w a trained net with one hidden layer, 0 at the start",
        "Cerrato et al. 2022 (2201.06343), explicit correction vectors",
        options=(Parameter("hidden", int, "width of the hidden layer of w", 128),),
        citations=("cerrato2022fair",),
    ),
]:
    HEADS.register(_entry)


def head(
    spec: "str | Spec | Callable[..., nn.Module]",
    *,
    in_dim: int,
    view_dims: Mapping[str, int] | None = None,
) -> "Head":
    """Build a head from its spec, or from a class of your own.

    Any `nn.Module` with `in_dim` and `out_dim` that maps (N, in_dim) to (N, out_dim) is a head.

    Args:
        spec: A spec such as `subvector:24` (`fullrank list heads`), or a class that takes `in_dim` as a
            keyword. Every head takes the options `norm`, `group` and `dropout`. A class that also takes
            `extra_dim`, the number of further inputs after h, has the option `conditioned`.
        in_dim: The width D of the representation h.
        view_dims: Operation of the views -> how many numbers it has (`Views.number_dims`). Only a head with
            `conditioned=views`, or a class that takes `view_dims`, needs them.

    Returns:
        The head, an `nn.Module` from h (N, D) to z (N, K).

    Raises:
        UsageError: The name is unknown, the width is impossible, the class is not a head, or no parameters
            of views are known for a head that needs them.

    >>> head("subvector:24", in_dim=96).out_dim
    24
    """
    from fullrank.heads.contract import checked_head, with_options

    parsed = HEADS.parse(spec)
    entry, options = HEADS[parsed.name], dict(parsed.options)
    context: dict[str, Any] = {"in_dim": in_dim}
    if CONDITIONED in entry.options and {CONDITIONED.name, EMBEDDED.name} & set(options):
        from fullrank.heads.conditioned import embedded_width

        context["extra_dim"] = embedded_width(parsed, view_dims)
    elif entry.origin is not None and takes(entry.load(), "view_dims"):
        context["view_dims"] = view_dims or {}
    built, extra_dim = HEADS.build(parsed, **context), context.get("extra_dim", 0)
    if entry.origin is not None:
        checked_head(built, parsed, in_dim + extra_dim)
    if extra_dim:
        from fullrank.heads.conditioned import ConditionedHead

        built = ConditionedHead(built, view_dims or {}, embedded=extra_dim)
    # Somebody else's head may have an option of its own with one of these names.
    shared = [each for each in HEADS.shared if each in entry.options]
    values: dict[str, Any] = {each.name: options.get(each.name, each.default) for each in shared}
    if WHITENED in shared and WHITENED.name in options and values.get(NORM.name) != "whiten":
        raise UsageError(
            f"The head '{parsed}' has group={options[WHITENED.name]}, which only norm=whiten uses; add that, "
            "or leave group out."
        )
    return with_options(built, **values)
