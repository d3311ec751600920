"""The theory of both papers: closed forms, their flows, and theorems as demos, in NumPy and SciPy."""

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from fullrank.bibliography import P1, P2
from fullrank.errors import UsageError, unknown_name
from fullrank.lazy import attach
from fullrank.registry import Entry, Registry

if TYPE_CHECKING:
    from fullrank.theory.common.flow import (
        Trajectory as Trajectory,
        descend as descend,
        integrate as integrate,
    )
    from fullrank.theory.common.theorem import (
        Curve as Curve,
        Outcome as Outcome,
        Panel as Panel,
        SteppedTheorem as SteppedTheorem,
        Theorem as Theorem,
    )

__getattr__, __dir__, __all__ = attach(__name__)
__all__ += ["THEOREMS", "theorem_named"]

# The summary of an entry is its statement, in a line.
THEOREMS = Registry("theorem", "theory")
for _entry in [
    Entry(
        "strong-augmentation",
        "fullrank.theory.collapse.theorems:StrongAugmentation",
        "Where augmentation moves the data more than the data varies, X has a negative eigenvalue and the "
        "weights lose that direction.",
        "P1, Theorem 1, Figure 3",
        citations=(P1,),
    ),
    Entry(
        "implicit-regularization",
        "fullrank.theory.collapse.theorems:ImplicitRegularization",
        "In two aligned layers a small singular value grows more slowly than a large one, so the embedding "
        "is of low rank without any augmentation.",
        "P1, Theorem 3, Figures 5 and 6",
        aliases=("implicit-regularisation",),
        citations=(P1,),
    ),
    Entry(
        "depth",
        "fullrank.theory.collapse.theorems:Depth",
        "The more linear layers, the more dimensions of the embedding collapse; one layer alone does not.",
        "P1, Figure 11",
        citations=(P1,),
    ),
    Entry(
        "feature-weighting",
        "fullrank.theory.weighting.theorems:FeatureWeighting",
        "Layer l of L weights feature i by strength^(1 - l/L) times its weight at the output^(l/L).",
        "P2, linear model; the form is derived here",
        citations=(P2,),
    ),
    Entry(
        "weight-decay",
        "fullrank.theory.weighting.theorems:WeightDecay",
        "Weight decay takes a feature below its threshold out of all layers at once.",
        "P2, linear model; the thresholds are derived here",
        citations=(P2,),
    ),
    Entry(
        "pre-or-post",
        "fullrank.theory.weighting.pre_or_post:PreOrPost",
        "A feature that augmentation disrupts, or that is strong in the input, can need fewer labels before "
        "the head than after it.",
        "P2, claims; the margin proxy is derived here",
        citations=(P2,),
    ),
    Entry(
        "absent-features",
        "fullrank.theory.weighting.theorems:AbsentFeatures",
        "Through a symmetrised ReLU a feature can live below the head and be absent above it.",
        "P2, nonlinear claim; the condition is derived here",
        citations=(P2,),
    ),
    Entry(
        "reweighting",
        "fullrank.theory.weighting.theorems:Reweighting",
        "A fixed reweighting head changes nothing after it; the layer below carries each feature the more "
        "strongly, the later its channel.",
        "P2, reweighting head; the weights are derived here",
        citations=(P2,),
    ),
]:
    THEOREMS.register(_entry)


def theorem_named(name: str, *, full: bool = False, **settings: Any) -> "Theorem":
    """A theorem by name with settings; `full` takes the paper's own for those that are not given.

    Raises UsageError for an unknown name or setting and for a value outside its limits.

    >>> theorem_named("feature-weighting", depth=3).outcome().predicted.shape
    (3, 5)
    """
    entry = THEOREMS[name]
    kind: type[Theorem] = entry.load()
    fields = kind.model_fields
    for key in settings.keys() - fields.keys():
        raise unknown_name(f"setting of '{entry.name}'", key, list(fields), f"it has {', '.join(fields)}")
    try:
        return kind(**((kind.FULL if full else {}) | settings))
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        raise UsageError(
            f"'{entry.name}': {key} = {settings.get(key)!r}: {first['msg']} ({fields[key].description}); "
            f"`fullrank theory {entry.name} --help` shows the settings."
        ) from None
