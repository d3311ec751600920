"""Theory of dimensional collapse and projection heads: closed forms, flows and theorems to run, in NumPy."""

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

# The summary of an entry is the theorem in one line.
THEOREMS = Registry("theorem", "theory")
for _entry in [
    Entry(
        "strong-augmentation",
        "fullrank.theory.collapse.theorems:StrongAugmentation",
        "Where augmentation moves the data more than the data vary, the weights shrink to zero and the "
        "embedding loses that dimension.",
        "Jing et al. 2022 (P1), Theorem 1, Figure 3",
        citations=(P1,),
    ),
    Entry(
        "implicit-regularization",
        "fullrank.theory.collapse.stacked_theorems:ImplicitRegularization",
        "In two layers small singular values grow more slowly than large ones, so the embedding becomes "
        "low-rank without any augmentation.",
        "Jing et al. 2022 (P1), Theorem 3, Figures 5 and 6",
        aliases=("implicit-regularisation",),
        citations=(P1,),
    ),
    Entry(
        "depth",
        "fullrank.theory.collapse.stacked_theorems:Depth",
        "The more linear layers, the more dimensions of the embedding collapse; one layer alone does not.",
        "Jing et al. 2022 (P1), Figure 11",
        citations=(P1,),
    ),
    Entry(
        "feature-weighting",
        "fullrank.theory.weighting.theorems:FeatureWeighting",
        "Each layer moves the weight of a feature further from its strength in the input towards its weight "
        "at the output.",
        "our linear model of a claim of Xue et al. 2024 (P2)",
        citations=(P2,),
    ),
    Entry(
        "weight-decay",
        "fullrank.theory.weighting.theorems:WeightDecay",
        "If weight decay is above a feature's threshold, the net loses the feature in all layers at once.",
        "our linear model of a claim of Xue et al. 2024 (P2)",
        citations=(P2,),
    ),
    Entry(
        "pre-or-post",
        "fullrank.theory.weighting.pre_or_post:PreOrPost",
        "A feature that augmentation disrupts, or that is strong in the input, can need fewer labels before "
        "the head than after it.",
        "our linear model of a claim of Xue et al. 2024 (P2)",
        citations=(P2,),
    ),
    Entry(
        "absent-features",
        "fullrank.theory.weighting.head_theorems:AbsentFeatures",
        "Through a symmetrised ReLU a feature can be present before the head and absent after it.",
        "our diagonal model of a claim of Xue et al. 2024 (P2)",
        citations=(P2,),
    ),
    Entry(
        "reweighting",
        "fullrank.theory.weighting.head_theorems:Reweighting",
        "A fixed reweighting head leaves the weights after it unchanged; before it, features in late "
        "channels are stronger.",
        "our linear model of a claim of Xue et al. 2024 (P2)",
        citations=(P2,),
    ),
]:
    THEOREMS.register(_entry)


def theorem_named(name: str, *, full: bool = False, **settings: Any) -> "Theorem":
    """The theorem with that name and settings; `full` takes the paper's settings for those not given.

    Raises UsageError for an unknown name or setting, and for a value outside its limits.

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
