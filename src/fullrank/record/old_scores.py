"""Records of schema 1, whose scores had one name in English, brought to the present schema. Torch-free."""

from typing import Any

from fullrank.errors import unknown_name

# The names that schema 1 wrote stay as they are, whatever statistics are called today.
_CLASSES = ("mean over classes", "worst class", "best class", "standard deviation over classes")
_GROUPS = ("worst group", "mean over groups", "weighted by training groups")
# What schema 1 called a score -> its probe and statistic.
NAMES: dict[str, tuple[str, str]] = {
    "linear": ("linear", "accuracy"),
    "nearest": ("nearest", "accuracy"),
    "few-shot": ("linear", "accuracy"),
    **{f"linear, {name}": ("linear", name) for name in _CLASSES},
    **{name: ("retrieval", name) for name in ("recall@1", "recall@5", "recall@10", "mean average precision")},
    **{f"{probe}, {name}": (probe, name) for probe in ("linear", "group-balanced") for name in _GROUPS},
    "linear, SGD, last epoch": ("sgd", "accuracy after the last epoch"),
    "linear, SGD, best epoch chosen on the test images": ("sgd", "accuracy after the best test epoch"),
    "factor weight": ("factors", "weight"),
    "factor weight, relative": ("factors", "relative weight"),
    "factor weight, predicted": ("factors", "predicted weight"),
    "factor weight left out, association": ("factors", "association of a left-out factor"),
}
# How the names began that ended in their subject.
BEGINNINGS: dict[str, tuple[str, str]] = {
    "linear, class ": ("linear", "class accuracy"),
    "linear, prediction bias, class ": ("linear", "prediction bias"),
    "linear, classes of ": ("linear", "accuracy among classes"),
    "nearest, classes of ": ("nearest", "accuracy among classes"),
    "gap ": ("linear", "gap"),
}
# Heads that scale channels by themselves; `none` does with a norm.
_SCALING = ("diagonal", "reweight")


def parts_of(measure: str) -> tuple[str, str, str]:
    """The probe, statistic and subject of a score that schema 1 called `measure`; UsageError if none was."""
    if measure in NAMES:
        return (*NAMES[measure], "")
    for beginning, (probe, statistic) in BEGINNINGS.items():
        if measure.startswith(beginning):
            return probe, statistic, measure.removeprefix(beginning)
    raise unknown_name("score of schema 1", measure, NAMES, "the record is damaged")


def scaled_channels(head: str) -> bool:
    """Whether a head that schema 1 called `head` only scales the channels of h."""
    first, *options = head.split(",")
    name = first.split(":")[0]
    return name in _SCALING or (name == "none" and any(one.split("=")[0] == "norm" for one in options))


def from_schema_1(content: dict[str, Any]) -> dict[str, Any]:
    """The content of a record of schema 1 as the present schema has it; damaged parts are left unchanged."""
    runs = content.get("runs")
    return {**content, "runs": [_run(run) for run in runs] if isinstance(runs, list) else runs}


def _run(run: Any) -> Any:
    if not isinstance(run, dict):
        return run
    changes: dict[str, Any] = {}
    if isinstance(head := run.get("head"), str):
        changes["scales_channels"] = scaled_channels(head)
    if isinstance(scores := run.get("scores"), list):
        changes["scores"] = [_score(score) for score in scores]
    return run | changes


def _score(score: Any) -> Any:
    if not isinstance(score, dict) or not isinstance(score.get("measure"), str):
        return score
    rest = {key: value for key, value in score.items() if key != "measure"}
    return rest | dict(zip(("probe", "statistic", "subject"), parts_of(score["measure"]), strict=True))
