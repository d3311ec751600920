"""What each criterion of a choice without labels is called, and which way is better. Torch-free."""

from typing import NamedTuple

from fullrank.record.measures import MEASURES


class CriterionText(NamedTuple):
    """The title of a criterion, and whether a larger value speaks for a candidate."""

    title: str
    larger_is_better: bool


CRITERIA_TEXTS = {
    "rankme": CriterionText(MEASURES["rankme"].title, True),
    "effective_rank": CriterionText(MEASURES["effective_rank"].title, True),
    "participation_ratio": CriterionText(MEASURES["participation_ratio"].title, True),
    "alpha_req": CriterionText(MEASURES["alpha_req"].title, False),
    "isotropy": CriterionText("isotropy", True),
    "gride": CriterionText(MEASURES["intrinsic_dimension_gride"].title, True),
    "two_nn": CriterionText(MEASURES["intrinsic_dimension_two_nn"].title, True),
    "mst_dimension": CriterionText("intrinsic dimension, spanning tree", True),
    "self_cluster": CriterionText("self-cluster", False),
    "infonce": CriterionText("InfoNCE at the place", False),
    "view_recall": CriterionText("recall of the other view", True),
    "dime": CriterionText("DiME", True),
    "lidar": CriterionText(MEASURES["lidar"].title, True),
    "alignment": CriterionText(MEASURES["alignment"].title, False),
    "uniformity": CriterionText(MEASURES["uniformity"].title, False),
    "cluster_learnability": CriterionText("cluster learnability", True),
    "cluster_predictability": CriterionText("cluster predictability", True),
}
