"""Auxiliary objectives: terms that are added to an objective, and see more of a step than z.

`infonce:0.2 + augself:1` is one objective and one term. The value of a term is always its weight.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from fullrank.lazy import attach
from fullrank.registry import Entry, Registry
from fullrank.specs import Parameter, Spec

if TYPE_CHECKING:
    from fullrank.objectives.terms.augself import AugSelfTerm as AugSelfTerm
    from fullrank.objectives.terms.contract import Auxiliary as Auxiliary
    from fullrank.objectives.terms.koleo import KoLeoTerm as KoLeoTerm
    from fullrank.objectives.terms.mmd import MMDTerm as MMDTerm
    from fullrank.objectives.terms.sdssl import SDSSLTerm as SDSSLTerm

__getattr__, __dir__, __all__ = attach(__name__)
__all__ += ["AUXILIARIES", "auxiliary", "register_auxiliary"]

WEIGHT = Parameter("weight", float, "weight of the term, 0 or more", 1.0)
# What a builder may ask for: the widths of h and z, of each place and each operation, and the classes.
_CONTEXT = ("in_dim", "out_dim", "place_dims", "view_dims", "num_classes")

AUXILIARIES = Registry("auxiliary objective", "auxiliary", context=_CONTEXT, group="fullrank.auxiliary")
register_auxiliary = AUXILIARIES.add
for _entry in [
    Entry(
        "augself",
        "fullrank.objectives.terms.augself:AugSelfTerm",
        "predicts from h_a and h_b how the two views differ: crop, colour, blur, solarize, flip",
        "Lee et al. 2021 (2111.09613), and authors' code",
        value=WEIGHT,
        options=(
            Parameter("hidden", int, "width of the two hidden layers of each head", 512),
            Parameter(
                "only",
                str,
                "operations to predict, as in crop+colour*0.5, the factor of the second; all that are on",
            ),
        ),
        citations=("lee2021improving",),
    ),
    Entry(
        "sdssl",
        "fullrank.objectives.terms.sdssl:SDSSLTerm",
        "inner places of the encoder learn from z of the other view; contrastive form, not BYOL or MoCo v3",
        "Jang et al. 2023 (2111.12958), and authors' code",
        value=replace(WEIGHT, default=0.8),
        options=(
            Parameter("temperature", float, "divisor of the cosines, above 0", 0.2),
            Parameter("places", str, "places that learn, as in stage1.1+stage2.1; all blocks but the last"),
            Parameter("hidden", int, "width of hidden layers of each projector; that of the widest place"),
            Parameter("layers", int, "number of linear layers of each projector", 3),
            Parameter("ramp", bool, "the term rises from 0 over the training; false: full at once", True),
        ),
        citations=("jang2023self",),
    ),
    Entry(
        "mmd",
        "fullrank.objectives.terms.mmd:MMDTerm",
        "pulls together z under different values of another label, within each class; needs labels",
        "Cerrato et al. 2022 (2201.06343); MMD: Gretton et al. 2012; within classes: ours",
        value=WEIGHT,
        options=(
            Parameter(
                "label", str, "label whose values are compared; several as background+object", "background"
            ),
        ),
        citations=("cerrato2022fair", "gretton2012kernel"),
    ),
    Entry(
        "koleo",
        "fullrank.objectives.terms.koleo:KoLeoTerm",
        "pushes each row of a global view away from its nearest neighbour, as in DINOv2",
        "Sablayrolles et al. 2019 (1806.03198); Oquab et al. 2024 (DINOv2, 2304.07193), authors' code",
        value=replace(WEIGHT, default=0.1),
        options=(Parameter("place", str, "whose rows: h, z or a place of the encoder", "h"),),
        citations=("sablayrolles2019spreading", "oquab2024dinov"),
    ),
]:
    AUXILIARIES.register(_entry)


def auxiliary(
    spec: "str | Spec | Callable[..., Auxiliary]",
    *,
    in_dim: int,
    out_dim: int,
    place_dims: Mapping[str, int] | None = None,
    view_dims: Mapping[str, int] | None = None,
    num_classes: int | None = None,
) -> "Auxiliary":
    """Build an auxiliary objective from its spec, or from a class of your own.

    Args:
        spec: A spec such as `augself:1` (`fullrank list auxiliary`), or a class.
        in_dim: The width D of h.
        out_dim: The width K of z.
        place_dims: Place of the encoder -> its width, in the order of the places.
        view_dims: Operation of the views -> how many numbers it has (`Views.number_dims`).
        num_classes: The number of classes.

    Returns:
        The term, called as `term(step)` with a `fullrank.step.Step`; its `weight` is not yet applied.

    Raises:
        UsageError: The name is unknown, a number is outside its limits, or the term cannot work with this
            encoder or these views.
    """
    from fullrank.objectives.terms.contract import checked_auxiliary

    parsed = AUXILIARIES.parse(spec)
    given = {
        "in_dim": in_dim,
        "out_dim": out_dim,
        "place_dims": place_dims or {},
        "view_dims": view_dims or {},
        "num_classes": num_classes,
    }
    parameters = inspect.signature(AUXILIARIES[parsed.name].load()).parameters
    context = {name: size for name, size in given.items() if name in parameters}
    return checked_auxiliary(AUXILIARIES.build(parsed, **context), parsed)
