"""Records of schema 1: a real one, and every kind of name that a score had."""

import json
from pathlib import Path

import pytest
from refusals import refuses

from fullrank.errors import DataError, UsageError
from fullrank.record import Record
from fullrank.record.old_scores import BEGINNINGS, NAMES, parts_of, scaled_channels
from fullrank.record.scores import BIAS, CLASS_ACCURACY, MEAN_OF_CLASSES, SPREAD, STATISTICS, statistic

OLD = Path(__file__).parent / "schema-1"


def old_names(content):
    return [score["measure"] for run in content["runs"] for score in run["scores"]]


@pytest.fixture
def content():
    return json.loads((OLD / "record.json").read_text())


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("linear", ("linear", "accuracy", "")),
        ("nearest", ("nearest", "accuracy", "")),
        ("few-shot", ("linear", "accuracy", "")),
        ("linear, class 3", ("linear", "class accuracy", "3")),
        ("linear, class es of 3, worst class", ("linear", "class accuracy", "es of 3, worst class")),
        ("linear, prediction bias, class 3", ("linear", "prediction bias", "3")),
        ("linear, worst class", ("linear", "worst class", "")),
        ("linear, mean over classes", ("linear", "mean over classes", "")),
        ("recall@10", ("retrieval", "recall@10", "")),
        ("mean average precision", ("retrieval", "mean average precision", "")),
        ("linear, worst group", ("linear", "worst group", "")),
        ("group-balanced, worst group", ("group-balanced", "worst group", "")),
        (
            "group-balanced, weighted by training groups",
            ("group-balanced", "weighted by training groups", ""),
        ),
        ("gap background and object", ("linear", "gap", "background and object")),
        ("linear, classes of npz:a,b=1", ("linear", "accuracy among classes", "npz:a,b=1")),
        ("nearest, classes of npz:a,b=1", ("nearest", "accuracy among classes", "npz:a,b=1")),
        ("linear, SGD, last epoch", ("sgd", "accuracy after the last epoch", "")),
        (
            "linear, SGD, best epoch chosen on the test images",
            ("sgd", "accuracy after the best test epoch", ""),
        ),
        ("factor weight", ("factors", "weight", "")),
        ("factor weight, relative", ("factors", "relative weight", "")),
        ("factor weight, predicted", ("factors", "predicted weight", "")),
        ("factor weight left out, association", ("factors", "association of a left-out factor", "")),
    ],
)
def test_parts_of_every_kind_of_name(name, parts):
    assert parts_of(name) == parts


def test_every_statistic_of_schema_1_has_an_old_name_and_each_name_a_statistic():
    kinds = [*NAMES.values(), *BEGINNINGS.values()]
    later = ("reduced", "redundancy", "views", "corrections", "segmentation")
    newer = [s for s in STATISTICS if s.over_labels or s.subject == "label" or s.measure in later]
    # Of the scores by class there were six, of the linear probe alone.
    by_class = {CLASS_ACCURACY, BIAS, MEAN_OF_CLASSES, SPREAD, "worst class", "best class"}
    newer += [s for s in STATISTICS if s.by_class and (s.probe != "linear" or s.name not in by_class)]
    assert set(kinds) == {(one.probe, one.name) for one in STATISTICS if one not in newer}
    for (probe, name), takes_subject in [
        *((kind, False) for kind in NAMES.values()),
        *((kind, True) for kind in BEGINNINGS.values()),
    ]:
        assert bool(statistic(probe, name).subject) is takes_subject


def test_a_name_that_schema_1_never_wrote_is_refused():
    name = "linear, worst group"
    with refuses(UsageError, f"'{name.replace('o', '')}'", f"'{name}'"):
        parts_of(name.replace("o", ""))


def test_the_old_record_has_every_kind_of_name(content):
    names = set(old_names(content))
    assert content["schema"] == 1 and set(NAMES) <= names
    for beginning in BEGINNINGS:
        assert any(name.startswith(beginning) for name in names), beginning


def test_a_real_record_of_schema_1_is_read_with_all_its_scores(content, tmp_path):
    record = Record.load(OLD)
    scores = [score for run in record.runs for score in run.scores]
    assert record.schema_version == 2 and [score.measure for score in scores] == old_names(content)
    old = [score for run in content["runs"] for score in run["scores"]]
    for key in ("place", "label", "split", "features", "shots", "value"):
        assert [getattr(score, key) for score in scores] == [score[key] for score in old]
    assert {(run.head, run.scales_channels) for run in record.runs} == {
        ("reweight:1.5", True),
        ("none,norm=batch", True),
        ("linear:4,norm=batch", False),
    }
    record.save(tmp_path)
    assert Record.load(tmp_path) == record
    assert json.loads((tmp_path / "record.json").read_text())["schema"] == 2


@pytest.mark.parametrize(
    ("head", "scales"),
    [
        ("diagonal", True),
        ("diagonal,norm=batch", True),
        ("reweight:1.05", True),
        ("reweight:1.05,norm=batch", True),
        ("none,norm=batch", True),
        ("none", False),
        ("linear:48,norm=batch", False),
        ("mlp:48", False),
        ("subvector:24", False),
    ],
)
def test_heads_of_schema_1_that_scale_channels(head, scales):
    assert scaled_channels(head) is scales


@pytest.mark.parametrize(
    "damage",
    [
        {"runs": 3},
        {"runs": [3]},
        {"runs": [{"head": 3, "scores": [{"measure": 3}, 4]}]},
        {"runs": [{"head": "none", "scores": [{"measure": "surprise"}]}]},
        {"schema": 3},
        {"schema": None},
    ],
)
def test_a_damaged_or_newer_record_is_one_sentence(content, tmp_path, damage):
    (tmp_path / "record.json").write_text(json.dumps({**content, **damage}))
    with refuses(DataError, tmp_path / "record.json", "schema 2", "--resume"):
        Record.load(tmp_path)


def test_a_score_of_today_has_no_english_name(content, tmp_path):
    (tmp_path / "record.json").write_text(json.dumps({**content, "schema": 2}))
    with refuses(DataError, "runs.0.scores.0"):
        Record.load(tmp_path)
