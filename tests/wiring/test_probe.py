"""What `probe`, `embed` and their commands read of a finished run: places, labels, splits and shifts."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transparent import CLASSES, LOUD, QUIET, SHADES, TEST, TRAIN, Clear, coded_images, pixel_rows
from typer.testing import CliRunner

from fullrank import embed, probe
from fullrank.cli.commands import app
from fullrank.probes import retrieval
from fullrank.record.scores import STATISTICS
from fullrank.spectrum import factor_weights

LINEAR = [one.name for one in STATISTICS if one.probe == "linear"]
PLACES = ["z", "h", "quiet", "h[:10]"]


def values(evaluation, **wanted):
    """Scores by place that agree with what is wanted."""
    defaults = {"split": "test", "shots": None, "subject": ""} | wanted
    return {
        score.place: score.value
        for score in evaluation.scores
        if all(getattr(score, key) == value for key, value in defaults.items())
    }


@pytest.fixture(scope="module")
def everything(transparent_run):
    measures = ("retrieval", "per-class", "groups", "factors")
    return probe(transparent_run, PLACES, measures=measures, shots=(2, 5), shifts=["transparent:Clear"])


def test_each_place_is_read_and_scored_under_its_own_name(everything):
    expected = {"z": QUIET, "h": LOUD, "quiet": QUIET, "h[:10]": LOUD}
    for name in ("linear", "nearest"):
        assert {place: getattr(scores, name) for place, scores in everything.probes.items()} == expected
        assert values(everything, probe=name, statistic="accuracy") == expected
    rows = pixel_rows("test")
    for place, features in (("h[:10]", rows[:, :10]), ("z", rows[:, 4:])):
        total = float(features.var(0, correction=0).sum())
        assert sum(everything.spectrum[place].singular_values) == pytest.approx(total)


def test_another_label_is_probed_when_it_is_named(transparent_run):
    found = probe(transparent_run, ["h"], label="shade")
    assert found.probes["h"].linear == found.probes["h"].nearest == 1.0
    assert {score.label for score in found.scores} == {"shade"}


def test_a_shift_is_scored_by_the_probes_of_the_training_images(everything):
    expected = {"z": 1.0, "h": 1.0, "quiet": 1.0, "h[:10]": 1.0}
    for name in ("linear", "nearest"):
        assert values(everything, probe=name, statistic="accuracy", split="transparent:Clear") == expected
    assert Clear.splits == ("test",)


def test_accuracy_by_class_and_by_group_is_that_of_the_test_images(everything):
    for name in "abcd":
        by_class = values(everything, probe="linear", statistic="class accuracy", subject=name)
        assert by_class["h"] == LOUD and by_class["z"] == QUIET
    (mean,) = (name for name in LINEAR if name.startswith("mean over g"))
    assert values(everything, probe="linear", statistic=mean)["h"] == LOUD


def test_few_shots_are_drawn_from_the_training_images(everything):
    for shots in (2, 5):
        found = values(everything, probe="linear", statistic="accuracy", shots=shots)
        assert found["h"] == pytest.approx(LOUD, abs=0.05) and found["z"] == pytest.approx(QUIET, abs=0.15)


def test_retrieval_is_among_the_test_images(everything):
    labels = torch.from_numpy(coded_images("test").labels["label"])
    for place, rows in (("h", pixel_rows("test")), ("z", pixel_rows("test")[:, 4:])):
        expected = retrieval(rows, labels, ks=(1,)).recall[1]
        assert values(everything, probe="retrieval", statistic="recall@1")[place] == pytest.approx(expected)


def test_factors_are_weighed_in_the_features_of_the_test_images(everything):
    images = coded_images("test")
    factors = {name: torch.from_numpy(labels) for name, labels in images.labels.items() if name != "group"}
    weights = factor_weights(pixel_rows("test"), factors)
    for name in ("label", "shade"):
        found = values(everything, probe="factors", statistic="weight", label=name)
        assert found["h"] == pytest.approx(weights[name], rel=1e-5)


@pytest.mark.parametrize("treatment", ["l2", "standardised"])
def test_the_treatment_of_features_reaches_the_linear_probe(transparent_run, treatment):
    plain, treated = probe(transparent_run, ["h"]), probe(transparent_run, ["h"], features=treatment)
    (linear,) = (score for score in treated.scores if score.probe == "linear")
    assert linear.features == treatment
    # Standardised channels make the quiet code as loud as the other, so what is predicted changes.
    assert (treated.probes["h"].linear == plain.probes["h"].linear) == (treatment == "l2")
    assert treated.probes["h"].nearest == plain.probes["h"].nearest


def test_the_command_probes_what_it_is_told(transparent_run, monkeypatch):
    options = ["--place", "z", "--place", "h", "--label", "shade", "--json"]
    result = CliRunner().invoke(app, ["probe", str(transparent_run.path), *options])
    assert result.exit_code == 0, result.output
    probes = json.loads(result.stdout)["probes"]
    assert list(probes) == ["z", "h"] and all(set(scores.values()) == {1.0} for scores in probes.values())


@pytest.mark.parametrize(("split", "count"), [("train", TRAIN), ("test", TEST)])
def test_embedded_rows_are_those_of_the_split_in_order_with_their_labels(
    transparent_run, tmp_path, split, count
):
    rows = embed(transparent_run, split=split, place="z", out=tmp_path / "z.npy")
    assert torch.equal(torch.from_numpy(rows), pixel_rows(split)[:, 4:]) and len(rows) == count
    np.testing.assert_array_equal(np.load(tmp_path / "z.npy"), rows)
    np.testing.assert_array_equal(np.load(tmp_path / "z.labels.npy"), coded_images(split).labels["label"])


def test_embedding_other_images_reads_those(transparent_run):
    rows = embed(transparent_run, "transparent:Clear")
    assert torch.equal(torch.from_numpy(rows), pixel_rows("train")[:TEST])
    assert F.one_hot(torch.arange(CLASSES)).shape == (CLASSES, CLASSES) and SHADES == 2


def test_what_is_recorded_is_what_was_measured(transparent_run):
    record = json.loads((transparent_run.path / "record.json").read_text())
    (run,) = record["runs"]
    accuracies = {place: scores["linear"] for place, scores in run["probes"].items()}
    assert accuracies == {"h": LOUD, "z": QUIET} and run["head"] == "transparent:WithoutLoud"
