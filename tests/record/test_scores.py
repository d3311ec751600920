"""The catalogue of statistics: names that are one and the same everywhere, and what follows from it."""

from pathlib import Path

import pytest
from pydantic import ValidationError
from refusals import refuses

from fullrank.errors import UsageError
from fullrank.record import Score
from fullrank.record.scores import MEASURES, PROBES, STATISTICS, measures_for, statistic

WHERE = {"place": "h", "label": "label", "split": "test", "features": "raw"}


def score(probe, statistic, subject="", shots=None):
    return Score(**WHERE, shots=shots, probe=probe, statistic=statistic, subject=subject, value=0.5)


@pytest.mark.parametrize(
    ("parts", "shown"),
    [
        (("linear", "accuracy"), "linear"),
        (("linear", "accuracy", "", 5), "few-shot"),
        (("nearest", "accuracy among classes", "imagenet-r:PATH"), "nearest, classes of imagenet-r:PATH"),
        (("linear", "class accuracy", "a {} b"), "linear, class a {} b"),
        (("linear", "prediction bias", "3"), "linear, prediction bias, class 3"),
        (("linear", "gap", "background and object"), "gap background and object"),
        (("group-balanced", "worst group"), "group-balanced, worst group"),
        (("retrieval", "recall@5"), "recall@5"),
        (("linear", "accuracy in random directions", "16"), "linear, random directions: 16"),
        (("linear", "accuracy in random channels", "16"), "linear, random channels: 16"),
        (("linear", "diffused redundancy", "random, 0.9"), "diffused redundancy of random, 0.9"),
        (("sgd", "accuracy after the last epoch"), "linear, SGD, last epoch"),
        (("factors", "relative weight"), "factor weight, relative"),
    ],
)
def test_measure_is_composed_of_the_parts(parts, shown):
    assert score(*parts).measure == shown


def test_measure_is_not_stored():
    assert "measure" not in score("linear", "accuracy").model_dump()


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (("lineal", "accuracy"), ["probe", "linear"]),
        (("linear", "acuracy"), ["linear probe", "acuracy", "accuracy"]),
        (("nearest", "worst group"), ["Unknown", "nearest probe", "worst group"]),
        (("linear", "worst group", "3"), ["linear probe", "worst group", "subject"]),
        (("nearest", "accuracy", "", 5), ["nearest probe", "accuracy", "shots"]),
    ],
)
def test_a_score_of_what_no_probe_gives_is_refused(parts, words):
    with refuses(ValidationError, *words):
        score(*parts)


def test_every_statistic_is_described_once_and_shown_under_a_name_of_its_own():
    kinds = [(one.probe, one.name) for one in STATISTICS]
    assert len(set(kinds)) == len(kinds) and [statistic(*kind) for kind in kinds] == list(STATISTICS)
    titles = [one.title("SUBJECT") for one in STATISTICS]
    assert len(set(titles)) == len(titles)
    for one in STATISTICS:
        assert ("SUBJECT" in one.title("SUBJECT")) is (one.subject != "")


def test_the_docs_name_every_key_of_a_score_and_every_statistic():
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    for name in (*Score.model_fields, *PROBES, *(one.name for one in STATISTICS)):
        assert f"`{name}`" in page, name


def test_measures_are_those_of_the_probe_command():
    names = (
        "reduced redundancy retrieval per-class groups group-balanced corrections factors views "
        "segmentation baselines"
    )
    assert names == " ".join(MEASURES)


def test_measures_for_names_each_once_and_none_for_the_default_protocol():
    plain = [("linear", "accuracy"), ("nearest", "accuracy"), ("sgd", "accuracy after the last epoch")]
    assert measures_for(plain) == []
    kinds = [("group-balanced", "worst group"), ("linear", "gap"), ("linear", "worst group")]
    assert measures_for(kinds) == ["groups", "group-balanced"]
    assert measures_for([("retrieval", "recall@1"), ("linear", "worst class")]) == ["retrieval", "per-class"]
    with refuses(UsageError, "probe", "lineal", "linear"):
        measures_for([("lineal", "accuracy")])
