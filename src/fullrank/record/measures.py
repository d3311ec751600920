"""What each measure of a diagnosis is called, and what it cannot see. Torch-free."""

from typing import NamedTuple


class MeasureText(NamedTuple):
    """The title of a measure, one sentence on what it cannot see, and whether it counts directions.

    A number of directions grows with the rows and depends on the width.
    """

    title: str
    blind: str
    counts_directions: bool = False


MEASURES = {
    "effective_rank": MeasureText(
        "effective rank", "Whether the directions are useful; it compares runs of one method only.", True
    ),
    "rankme": MeasureText(
        "RankMe", "A strong mean, which counts as one direction and hides the others.", True
    ),
    "participation_ratio": MeasureText(
        "participation ratio", "Weak directions beside a strong one; few rows make it too small.", True
    ),
    "corrected_participation_ratio": MeasureText(
        "participation ratio, corrected for the number of rows",
        "Weak directions beside a strong one; rows of very unequal length make it too small.",
        True,
    ),
    "stable_rank": MeasureText(
        "stable rank", "All directions beside the strongest one, often the mean.", True
    ),
    "nesum": MeasureText("NESum", "Weak directions: it is the total variance over the largest one.", True),
    "lidar": MeasureText(
        "LiDAR", "Anything that the views keep but labels do not need; it compares runs with the same views."
    ),
    "alpha_req": MeasureText(
        "alpha-ReQ", "The spectrum outside its window; it means nothing if that is no power law."
    ),
    "live_dimensions": MeasureText(
        "live dimensions", "How strong they are: rounding and noise of any size above it count as live.", True
    ),
    "dimensions_above_largest_gap": MeasureText(
        "dimensions above the largest gap",
        "Whether the gap is large: every spectrum has a largest gap.",
        True,
    ),
    "largest_gap": MeasureText("largest gap", "A collapse without a gap: a gradual fall of the variance."),
    "intrinsic_dimension_two_nn": MeasureText(
        "intrinsic dimension, TwoNN",
        "Which dimensions are noise; of more than about 10 it counts too few.",
    ),
    "intrinsic_dimension_gride": MeasureText(
        "intrinsic dimension, GRIDE",
        "Details finer than 32 neighbours; of more than about 10 it counts too few.",
    ),
    "mean_cosine": MeasureText("mean cosine", "The rank: a strong mean alone makes it 1."),
    "hubness": MeasureText("hubness", "Collapse: wide healthy features have hubs too."),
    "gaussian_excess": MeasureText(
        "distance from N(0, I), of SIGReg",
        "A missing rank: r directions with the whole variance have about 0.24 / r.",
    ),
    "isotropy_excess": MeasureText(
        "distance from an isotropic Gaussian",
        "A missing rank, as above, and the use of the features: good ones are seldom Gaussian.",
    ),
    "near_duplicates": MeasureText(
        "share of near duplicates", "Whether images are equal: a strong mean makes all rows near duplicates."
    ),
    "largest_variance_share": MeasureText(
        "largest share of one channel", "Directions that are no channel, and whether the labels need it."
    ),
    "alignment": MeasureText("alignment", "Collapse to one point, which has the best value."),
    "uniformity": MeasureText("uniformity", "Labels; spread-out features may be useless."),
}


def counts_directions(name: str) -> bool:
    """Whether the measure of this name is a number of directions.

    >>> counts_directions("effective_rank"), counts_directions("mean_cosine")
    (True, False)
    """
    return name in MEASURES and MEASURES[name].counts_directions
