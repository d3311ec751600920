"""The statistics that probes give, each described once. Torch-free."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

from fullrank.bibliography import P1
from fullrank.errors import unknown_name

Probe = Literal[
    "linear",
    "nearest",
    "nearest-mean",
    "group-balanced",
    "correction",
    "mean-difference",
    "leace",
    "leace-within",
    "retrieval",
    "sgd",
    "factors",
    "views",
    "segmentation",
]
PROBES: tuple[Probe, ...] = get_args(Probe)
# The papers behind each probe, as keys of the bibliography.
PROBE_CITATIONS: dict[Probe, tuple[str, ...]] = {
    "linear": ("alain2016understanding",),
    "nearest": ("wu2018unsupervised",),
    "nearest-mean": ("mensink2013distance",),
    "group-balanced": ("kirichenko2023last",),
    "correction": ("cerrato2022fair", "gretton2012kernel"),
    "mean-difference": (),
    "leace": ("belrose2023leace",),
    "leace-within": ("belrose2023leace",),
    "retrieval": ("song2016deep",),
    "sgd": (P1,),
    "factors": (),
    "views": ("lee2021improving",),
    "segmentation": ("burns2024makes", "caron2021emerging"),
}
Subject = Literal[
    "",
    "class",
    "two classes",
    "cues",
    "shift",
    "label",
    "number of directions",
    "directions and share",
    "operation",
    "share of the attention",
]

ACCURACY, AMONG_CLASSES = "accuracy", "accuracy among classes"
RECALL_AT = (1, 5, 10)
# The statistics of images with several labels.
MEAN_AUROC, MEAN_PRECISION, LABELS_SCORED = "mean AUROC", "mean average precision", "labels scored"
# The statistics of a factor, which is the label of their scores, and the place of the pixels themselves.
WEIGHT, RELATIVE, PREDICTED = "weight", "relative weight", "predicted weight"
LEFT_OUT = "association of a left-out factor"
# Accuracy in few directions: the kind of the directions -> the statistic, whose subject is their number.
IN_DIRECTIONS = {kind: f"accuracy in {kind} directions" for kind in ("principal", "random")}
IMAGES = "images"
# The statistics of single classes and of all of them, and what joins the two classes of `TAKEN_FOR`.
BY_CLASS: tuple[Probe, ...] = ("linear", "nearest-mean", "nearest")
CLASS_ACCURACY, BIAS, FALSE_POSITIVES = "class accuracy", "prediction bias", "false positives"
CLASS_ERROR, CLASS_IMAGES = "standard error of a class", "test images of a class"
MEAN_OF_CLASSES = "mean over classes"
WORST_CLASSES, BEST_CLASSES = "mean of the worst classes", "mean of the best classes"
SPREAD, BIAS_CORRELATION = "standard deviation over classes", "correlation of bias and accuracy"
AGREEMENT, TAKEN_FOR, TAKEN = "agreement with linear", "share taken for another class", " taken for "
# Diffused redundancy: the kind of the directions -> what they are called in statistics, whose subject is
# their number. The last one is of all directions.
REDUNDANCY, DIFFUSED = "redundancy", "diffused redundancy"
REDUNDANCY_KINDS = {
    "channels": "random channels",
    "principal": "leading principal directions",
    "least": "least principal directions",
    "random": "random orthonormal directions",
}
REDUNDANCY_CITATIONS = ("nanda2023diffused",)
ACCURACY_IN = {kind: f"accuracy in {name}" for kind, name in REDUNDANCY_KINDS.items()}
WORST_CLASS_IN = {kind: f"worst class in {name}" for kind, name in REDUNDANCY_KINDS.items()}
# The corrections of features against cues, and how well a linear probe still reads a cue within a class.
CORRECTED: tuple[Probe, ...] = ("correction", "mean-difference", "leace", "leace-within")
CORRECTIONS, CUE_READ = "corrections", "cue within classes"
# The statistics of what features say about the views, whose subject is an operation.
VIEWS, R2, AUROC = "views", "R2", "AUROC"
# The statistics of emergent segmentation. The subject of those of the attention is the share of the attention
# that the patches hold.
SEGMENTATION, JACCARD = "segmentation", "attention Jaccard"
PERMUTED, ABOVE = f"{JACCARD}, permuted", f"{JACCARD} above permuted"
ALL_HEADS, UNTRAINED = f"{JACCARD}, all heads", f"{JACCARD}, untrained"
GRADIENT_SHARE, AREA_SHARE = "foreground share of the gradient", "foreground share of the area"
GRADIENT_UNTRAINED = f"{GRADIENT_SHARE}, untrained"


@dataclass(frozen=True)
class Statistic:
    """One kind of number that a probe gives.

    `shown` is what pages and the terminal call it, `{}` standing for the `subject`, "" where it has none.
    Shares and their differences have the `unit` "points" and are shown times 100. `measure` is the option of
    `probe --measure` that adds it. `by_default` is the accuracy of the default protocol; `by_group`,
    `by_class`, `by_factor`, `by_operation`, `by_directions` and `of_objects` belong to the tables of groups,
    classes, factors, views, diffused redundancy and objects. `over_labels` is a mean over several labels an
    image. `few_shot` is its name with few images a class. `citations` are its own papers, as keys of the
    bibliography.
    """

    probe: Probe
    name: str
    shown: str
    subject: Subject = ""
    unit: Literal["points", "number"] = "points"
    measure: str | None = None
    by_default: bool = False
    by_group: bool = False
    by_class: bool = False
    by_factor: bool = False
    by_operation: bool = False
    by_directions: bool = False
    of_objects: bool = False
    over_labels: bool = False
    few_shot: str = ""
    citations: tuple[str, ...] = ()

    @property
    def of_all_images(self) -> bool:
        """Whether it is a share of all test images, so that their number gives its standard error."""
        of_some = self.by_class or self.by_group or self.over_labels or self.subject in ("shift", "label")
        return self.unit == "points" and not of_some

    def title(self, subject: str = "", shots: int | None = None) -> str:
        """The name of a score of this kind on pages and in the terminal."""
        return self.few_shot if shots is not None else self.shown.replace("{}", subject)


def _by_group(probe: Probe, name: str, measure: str) -> Statistic:
    return Statistic(probe, name, f"{probe}, {name}", measure=measure, by_group=True)


def _cue_read(probe: Probe) -> Statistic:
    return Statistic(probe, CUE_READ, f"{probe}, {{}} within classes", "cues", measure=CORRECTIONS)


def _by_class(probe: Probe) -> tuple[Statistic, ...]:
    """The statistics by class of a probe. Only the linear one has those that are the same for all probes."""
    of_class = partial(Statistic, probe, subject="class", measure="per-class", by_class=True)
    over = partial(Statistic, probe, measure="per-class", by_class=True)
    means = (MEAN_OF_CLASSES, "worst class", "best class", WORST_CLASSES, BEST_CLASSES, SPREAD)
    first = probe == "linear"
    return (
        of_class(CLASS_ACCURACY, f"{probe}, class {{}}"),
        of_class(CLASS_ERROR, f"{probe}, standard error, class {{}}"),
        *((of_class(CLASS_IMAGES, "test images, class {}", unit="number"),) if first else ()),
        of_class(BIAS, f"{probe}, prediction bias, class {{}}", unit="number"),
        of_class(FALSE_POSITIVES, f"{probe}, false positives, class {{}}", unit="number"),
        *((over(TAKEN_FOR, f"{probe}, {{}}", "two classes"),) if first else ()),
        *(over(name, f"{probe}, {name}") for name in means),
        over(BIAS_CORRELATION, f"{probe}, {BIAS_CORRELATION}", unit="number"),
        *(() if first else (over(AGREEMENT, f"{probe}, {AGREEMENT}", unit="number"),)),
    )


_of_label = partial(Statistic, "linear", subject="label", measure="per-class")
_reduced = partial(Statistic, "linear", subject="number of directions", measure="reduced")
_redundant = partial(
    Statistic, "linear", measure=REDUNDANCY, by_directions=True, citations=REDUNDANCY_CITATIONS
)
_of_factor = partial(Statistic, "factors", unit="number", measure="factors", by_factor=True)
_of_views = partial(Statistic, "views", subject="operation", unit="number", measure=VIEWS, by_operation=True)
_of_objects = partial(Statistic, "segmentation", measure=SEGMENTATION, of_objects=True)
GROUP_STATISTICS = ("worst group", "mean over groups", "weighted by training groups")

_of_labels = partial(Statistic, "linear", over_labels=True)
_SGD_BEST = "linear, SGD, best epoch chosen on the test images"
STATISTICS: tuple[Statistic, ...] = (
    Statistic("linear", ACCURACY, "linear", by_default=True, few_shot="few-shot"),
    Statistic("nearest", ACCURACY, "nearest", by_default=True),
    Statistic("linear", AMONG_CLASSES, "linear, classes of {}", "shift"),
    Statistic("nearest", AMONG_CLASSES, "nearest, classes of {}", "shift"),
    *(_reduced(name, f"linear, {kind} directions: {{}}") for kind, name in IN_DIRECTIONS.items()),
    _redundant(DIFFUSED, f"{DIFFUSED} of {{}}", "directions and share", "number"),
    *(
        _redundant(f"{what} in {name}", f"linear, {shown}{name}: {{}}", "number of directions")
        for what, shown in (("accuracy", ""), ("worst class", "worst class in "))
        for name in REDUNDANCY_KINDS.values()
    ),
    *(Statistic("retrieval", f"recall@{k}", f"recall@{k}", measure="retrieval") for k in RECALL_AT),
    Statistic("retrieval", "mean average precision", "mean average precision", measure="retrieval"),
    *(one for probe in BY_CLASS for one in _by_class(probe)),
    _of_labels(MEAN_AUROC, "linear, mean AUROC over labels"),
    _of_labels(MEAN_PRECISION, "linear, mean average precision over labels"),
    _of_labels(LABELS_SCORED, "labels in these means", unit="number"),
    _of_label(AUROC, "linear, AUROC of {}"),
    _of_label("average precision", "linear, average precision of {}"),
    *(_by_group("linear", name, "groups") for name in GROUP_STATISTICS),
    Statistic("linear", "gap", "gap {}", "cues", measure="groups", by_group=True),
    *(_by_group("group-balanced", name, "group-balanced") for name in GROUP_STATISTICS),
    *(_by_group(probe, name, CORRECTIONS) for probe in CORRECTED for name in GROUP_STATISTICS),
    *(_cue_read(probe) for probe in ("linear", *CORRECTED)),
    Statistic("sgd", "accuracy after the last epoch", "linear, SGD, last epoch"),
    Statistic("sgd", "accuracy after the best test epoch", _SGD_BEST),
    _of_factor(WEIGHT, "factor weight"),
    _of_factor(RELATIVE, "factor weight, relative"),
    _of_factor(PREDICTED, "factor weight, predicted"),
    _of_factor(LEFT_OUT, "factor weight left out, association"),
    _of_views(R2, "views, R2 of {}"),
    _of_views(AUROC, "views, AUROC of {}"),
    *(
        _of_objects(name, f"{name}, share {{}}", "share of the attention")
        for name in (JACCARD, PERMUTED, ABOVE, ALL_HEADS, UNTRAINED)
    ),
    *(_of_objects(name, name) for name in (GRADIENT_SHARE, GRADIENT_UNTRAINED, AREA_SHARE)),
)
_BY_NAME: dict[tuple[str, str], Statistic] = {(one.probe, one.name): one for one in STATISTICS}

# The measure of `probe` that gives no scores: the same probes on pixels and on the encoder before training.
BASELINES = "baselines"
# What `probe --measure` can add to the default protocol.
MEASURES = (*dict.fromkeys(one.measure for one in STATISTICS if one.measure is not None), BASELINES)


def statistic(probe: str, name: str) -> Statistic:
    """The statistic of that probe and name; UsageError for one that no probe gives."""
    if (probe, name) in _BY_NAME:
        return _BY_NAME[probe, name]
    if probe not in PROBES:
        raise unknown_name("probe of scores", probe, PROBES, f"there are {', '.join(PROBES)}")
    names = [one.name for one in STATISTICS if one.probe == probe]
    raise unknown_name(f"statistic of the {probe} probe", name, names, f"there are {', '.join(names)}")


def measures_for(kinds: Iterable[tuple[str, str]]) -> list[str]:
    """The measures of `probe` that add scores of these probes and statistics."""
    wanted = {statistic(*kind).measure for kind in kinds}
    return [measure for measure in MEASURES if measure in wanted]
