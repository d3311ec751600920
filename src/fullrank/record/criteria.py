"""What is known about each criterion of a choice without labels. Torch-free."""

from typing import NamedTuple

from fullrank.record.measures import MEASURES

_RANK = "Whether the directions are useful: noise has a high rank. Across methods it is no score."
_DIMENSION = "Whether the directions are useful. Its sign differs between layers of a net and between nets."
_LABEL = "Labels that the views change. Random features that hardly react to views are told apart too."


class CriterionText(NamedTuple):
    """What is known about a criterion.

    Attributes:
        title: What it is called.
        larger_is_better: Whether a larger value speaks for a candidate.
        formula: What it computes, in short; the docstring of its function has all of it.
        blind: What it cannot see.
        cost: The cost for N rows, n images with views, q views, D channels, C candidates and k clusters.
        citations: The keys of its papers in the bibliography.
    """

    title: str
    larger_is_better: bool
    formula: str
    blind: str
    cost: str
    citations: tuple[str, ...] = ()


CRITERIA_TEXTS = {
    "rankme": CriterionText(
        MEASURES["rankme"].title,
        True,
        "exp of the entropy of the singular values, not centred",
        _RANK,
        "O(N D²)",
        ("garrido2023rankme",),
    ),
    "effective_rank": CriterionText(
        MEASURES["effective_rank"].title,
        True,
        "exp of the entropy of the singular values of the centred features",
        _RANK,
        "O(N D²)",
        ("roy2007effective",),
    ),
    "participation_ratio": CriterionText(
        MEASURES["participation_ratio"].title,
        True,
        "(Σ λ)² / Σ λ², λ the eigenvalues of the covariance",
        _RANK,
        "O(N D²)",
        ("gao2017theory",),
    ),
    "alpha_req": CriterionText(
        MEASURES["alpha_req"].title,
        False,
        "how far from 1 the exponent α of λᵢ ~ i^(-α) is",
        f"{_RANK} Its sign depends on the window.",
        "O(N D²)",
        ("agrawal2022alpha",),
    ),
    "isotropy": CriterionText(
        "isotropy",
        True,
        "participation ratio / D",
        f"{_RANK} It favours narrow places.",
        "O(N D²)",
        ("batra2026uncovering",),
    ),
    "gride": CriterionText(
        MEASURES["intrinsic_dimension_gride"].title,
        True,
        "the likeliest dimension, from the distances of the 4th and the 8th neighbour",
        _DIMENSION,
        "O(N² D)",
        ("denti2022generalized",),
    ),
    "two_nn": CriterionText(
        MEASURES["intrinsic_dimension_two_nn"].title,
        True,
        "the likeliest dimension, from the distances of the first two neighbours",
        _DIMENSION,
        "O(N² D)",
        ("facco2017estimating",),
    ),
    "mst_dimension": CriterionText(
        "intrinsic dimension, spanning tree",
        True,
        "1 / (1 - m), m the slope of the log length of the spanning tree over the log of the rows",
        _DIMENSION,
        "O(N² D)",
        ("mordacq2026idest", "steele1988growth"),
    ),
    "self_cluster": CriterionText(
        "self-cluster",
        False,
        "the mean squared cosine of two rows, 0 where it is 1 / D and 1 where it is 1",
        "Useful clusters: classes that are points raise it too. It depends on the width.",
        "O(N D²)",
    ),
    "infonce": CriterionText(
        "InfoNCE at the place",
        False,
        "the InfoNCE loss of two views of each image, both ways",
        _LABEL,
        "O(n² D)",
        ("oord2018representation", "skean2025layer"),
    ),
    "view_recall": CriterionText(
        "recall of the other view",
        True,
        "how often the other view of an image is the nearest of all other views",
        _LABEL,
        "O(n² D)",
    ),
    "dime": CriterionText(
        "DiME",
        True,
        "the joint matrix entropy of two views after a shuffle, less the one before",
        f"{_LABEL} What the kernel's one width does not resolve.",
        "O(n³)",
        ("skean2023dime", "skean2025layer"),
    ),
    "lidar": CriterionText(
        MEASURES["lidar"].title,
        True,
        "exp of the entropy of the eigenvalues of linear discriminant analysis, each image a class",
        "Whether the directions are useful. It needs more images than channels, and equal views.",
        "O(q n D² + D³)",
        ("thilak2024lidar",),
    ),
    "alignment": CriterionText(
        MEASURES["alignment"].title,
        False,
        "the mean squared distance of two views of an image, of centred unit rows",
        _LABEL,
        "O(n D)",
        ("wang2020understanding",),
    ),
    "uniformity": CriterionText(
        MEASURES["uniformity"].title,
        False,
        "log of the mean of exp(-2 × squared distance) of unit rows",
        _RANK,
        "O(N² D)",
        ("wang2020understanding",),
    ),
    "cluster_learnability": CriterionText(
        "cluster learnability",
        True,
        "how often the nearest earlier row has the same k-means cluster",
        "Whether the clusters mean anything: a collapsed space is easy to predict from itself.",
        "O(N² D)",
        ("lu2022using",),
    ),
    "cluster_predictability": CriterionText(
        "cluster predictability",
        True,
        "how well a few-shot probe predicts the k-means clusters of the other candidates, less chance",
        "A structure that no other candidate has. A shortcut that most of them share wins.",
        "O(C N D² + C² k N D)",
    ),
}
