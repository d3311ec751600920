"""`fullrank probe` by group, under shifts, with other features, and from coarse to fine labels."""

import numpy as np
import pytest
from refusals import assert_names, refuses
from typer.testing import CliRunner

from fullrank import diagnose, train
from fullrank.cli import commands
from fullrank.cli.tables import print_evaluation, print_record
from fullrank.data import write_miniature
from fullrank.errors import DataError, UsageError
from fullrank.evaluation.probe import probe
from fullrank.record.scores import AMONG_CLASSES, LABELS_SCORED, MEAN_AUROC, MEAN_PRECISION

QUICK = {"encoder": "tiny-resnet,width=4", "batch_size": 40, "epochs": 1, "monitor_every": 1}
RETRIEVAL = {"recall@1", "mean average precision"}
CUES = "composite:two-cues,n=200,correlation=0.8"


@pytest.fixture(scope="module")
def cued(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cued") / "run"
    return train("digits", out=folder, data=CUES, head="reweight:1.5", **QUICK)


def printed(*arguments):
    result = CliRunner().invoke(commands.app, ["probe", *map(str, arguments)], env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.exception
    assert max(map(len, result.stdout.splitlines())) <= 80
    return " ".join(result.stdout.split())


def test_groups_and_shifts_are_printed(cued):
    shift = "composite:two-cues,strength=0.5,n=90,seed=0"
    text = printed(cued.path, "--measure", "groups", "--measure", "group-balanced", "--shift", shift)
    for measure in ("worst group", "gap background", "group-balanced,"):
        assert text.count(measure) >= 2  # at h and z
    assert text.count("nearest") == 3 and "difference" in text  # a column, and the shift at h and z
    assert "Worst group" in text


def test_scores_under_a_shift_have_its_canonical_spec_as_split(cued):
    evaluation = probe(cued, ["h"], shifts=["composite:two-cues,strength=0.5,n=90,seed=0"])
    shifted = [score for score in evaluation.scores if score.split != "test"]
    assert {score.split for score in shifted} == {"composite:two-cues,n=90,strength=0.5"}
    assert {(score.probe, score.statistic, score.features) for score in shifted} == {
        ("linear", "accuracy", "raw"),
        ("nearest", "accuracy", "l2"),
    }
    assert evaluation.probes["h"] == cued.record.runs[0].probes["h"]


def test_standardised_features_are_the_same_before_and_after_a_reweighting_and_it_says_so(cued):
    text = printed(cued.path, "--features", "standardised")
    assert_names(text, "standardising", "diagonal")
    for features, equal in (("standardised", True), ("raw", False)):
        probes = probe(cued, ["h", "z"], label="digit", features=features).probes
        assert (probes["h"].linear == probes["z"].linear) is equal


def test_a_shift_of_fewer_classes_is_marked(quick_run, tmp_path):
    names = ["3", "5"]
    spec = write_miniature(
        "folder", tmp_path / "images", images=16, classes=2, size=8, class_names=names, channels=1
    )
    text = printed(quick_run.path, "--place", "h", "--shift", spec)
    assert "* of" in text and "*" not in printed(quick_run.path, "--place", "h")
    scores = probe(quick_run, ["h"], shifts=[spec]).scores
    assert {("linear", spec), ("nearest", spec)} == {
        (score.probe, score.subject) for score in scores if score.statistic == AMONG_CLASSES
    }


@pytest.mark.parametrize(
    ("keys", "error", "names"),
    [
        ({"measures": ["groups"]}, UsageError, ["group"]),
        ({"measures": ["group"]}, UsageError, ["group", "groups"]),
        ({"measures": ["retreival"]}, UsageError, ["retreival", "retrieval"]),
        ({"shots": [0]}, UsageError, [0, 1]),
        ({"shots": [200]}, DataError, [200]),
        ({"label": "cors"}, UsageError, ["cors", "label"]),
        ({"shifts": [CUES]}, DataError, [1, 3]),
        ({"shifts": ["digist"]}, UsageError, ["digist", "digits"]),
        ({"features": "whitened"}, UsageError, ["whitened", "raw", "l2", "standardised"]),
    ],
)
def test_what_cannot_be_probed_is_one_sentence(quick_run, keys, error, names):
    with refuses(error, *names) as caught:
        probe(quick_run, **keys)
    assert "\n" not in str(caught.value)


def test_few_shot_accuracy_is_printed_with_its_interval(quick_run, capsys):
    evaluation = probe(quick_run, ["h[:4]"], shots=[2], episodes=3)
    (few,) = (score for score in evaluation.scores if score.shots == 2)
    print_evaluation(evaluation)
    printed_one = f"{100 * few.value:.1f} [{100 * few.low:.1f}, {100 * few.high:.1f}]"
    assert few.episodes == 3
    assert_names(capsys.readouterr().out, printed_one, "3 draws")


def test_images_with_several_labels_from_training_to_diagnosis(tmp_path, capsys):
    random = np.random.default_rng(0)
    table = (random.random((90, 3)) < (0.5, 0.3, 0.0)).astype(int)
    images = random.integers(0, 120, (90, 8, 8), np.uint8)
    images[:, :4] += 100 * table[:, :1, None].astype(np.uint8)
    arrays = {"train_images": images[:60], "train_labels": table[:60]}
    np.savez(tmp_path / "x.npz", **arrays, test_images=images[60:], test_labels=table[60:])
    settings = QUICK | {"data": f"npz:{tmp_path / 'x.npz'}", "batch_size": 20, "head": "linear:4"}
    run = train("digits", out=tmp_path / "run", **settings)
    scores = {(one.place, one.statistic): one.value for one in run.record.runs[0].scores}
    assert scores["h", LABELS_SCORED] == 2 and 0 < scores["z", MEAN_AUROC] <= 1
    assert run.record.runs[0].probes == {} and run.record.runs[0].baselines == []
    shown = [f"{100 * scores['h', name]:.1f}" for name in (MEAN_AUROC, MEAN_PRECISION)]
    assert_names(printed(run.path), *shown, "2 of 3", "label:2")
    print_record(run.record)
    assert_names(capsys.readouterr().out, *shown, "AUROC")
    one = probe(run, ["h"], label="label:0", shots=[2])
    assert one.images.classes == 2 and one.probes["h"].linear > 0.5
    found = diagnose(run.path, out=tmp_path / "diagnosis").record.diagnosis
    assert_names(" ".join(found.not_seen), 3, "label:0")
    with refuses(UsageError, "supcon:0.1", "label", "label:0"):
        train("digits", out=tmp_path / "other", objective="supcon:0.1", **settings)


def test_a_run_that_learnt_coarse_labels_is_probed_on_both(tmp_path):
    data = write_miniature("cifar100", tmp_path / "images", images=60, classes=8, size=32)
    settings = QUICK | {"data": data, "batch_size": 20, "label": "coarse", "head": "none"}
    run = train("small-images", out=tmp_path / "run", objective="cross-entropy", **settings)
    names = {}
    for label in ("label", "coarse"):
        scores = probe(run, ["h"], label=label, measures=["retrieval", "per-class"], shots=[1]).scores
        assert {score.label for score in scores} == {label}
        kinds = {(score.probe, score.statistic, score.shots) for score in scores}
        assert {("linear", "accuracy", None), ("nearest", "accuracy", None)} <= kinds
        assert {statistic for kind, statistic, _ in kinds if kind == "retrieval"} >= RETRIEVAL
        assert ("linear", "accuracy", 1) in kinds
        names[label] = {s.subject for s in scores if s.statistic == "prediction bias"}
    assert len(names["label"]) == 8 and len(names["coarse"]) == 2
    assert_names(printed(run.path, "--label", "coarse", "--place", "h"), "place", "linear", "nearest")
