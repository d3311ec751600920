"""Groups, shifts and treatments of features, scored on images whose pixels are the features."""

import numpy as np
import pytest
import torch
from pixels import Pixels, evaluated, flat
from refusals import assert_names, refuses

from fullrank.data import ImageSet, source
from fullrank.errors import DataError, UsageError
from fullrank.evaluation.evaluate import evaluate, scaled_alike
from fullrank.evaluation.groups import check_balance, grouping
from fullrank.evaluation.scores import Request
from fullrank.evaluation.shifts import load_shift, matched
from fullrank.heads import head
from fullrank.probes import LinearProbe, NearestProbe, few_shot, retrieval
from fullrank.record.scores import AMONG_CLASSES

BOTH = "background and object"
MEAN, DEVIATION = "mean over groups", "standard deviation over classes"


def score(evaluation, probe, statistic="accuracy", subject="", place="h", split="test"):
    (found,) = [
        one
        for one in evaluation.scores
        if (one.probe, one.statistic, one.subject) == (probe, statistic, subject)
        and (one.place, one.split, one.shots) == (place, split, None)
    ]
    return found.value


@pytest.fixture(scope="module")
def two_cues():
    images = source("composite:two-cues,n=600,correlation=0.9")
    return images.load("train"), images.load("test")


@pytest.fixture(scope="module")
def digits():
    images = source("digits")
    return images.load("train").limited(150, seed=0), images.load("test").limited(300, seed=0)


@pytest.fixture(scope="module")
def few():
    """Three digits that are hard to tell apart."""
    images = source("digits")
    train, test = (images.load(split).of_classes(["3", "5", "8"]) for split in ("train", "test"))
    return train.limited(60, seed=0), test


# Groups and cues


@pytest.mark.parametrize(
    ("label", "cues"),
    [
        ("label", {"background", "object"}),
        ("digit", {"background", "object"}),  # the label is part of the group, but the digit decides it
        ("background", {"label", "object"}),
        ("group", set()),
    ],
)
def test_cues_are_the_labels_that_the_group_is_made_of(two_cues, label, cues):
    assert set(grouping(*two_cues, label).cues) == cues


def test_a_drawn_position_is_no_cue():
    images = source("composite:two-cues,place=drawn,n=600")
    found = grouping(images.load("train"), images.load("test"), "label")
    assert set(found.cues) == {"background", "object"} and len(found.names) == 8


def labelled(**labels):
    """Images of one pixel, whose labels are given by name."""
    names = {key: tuple(dict.fromkeys(values)) for key, values in labels.items()}
    numbers = {key: np.array([names[key].index(v) for v in values]) for key, values in labels.items()}
    return ImageSet(np.zeros((len(labels["label"]), 1, 1, 1), np.uint8), numbers, names)


def test_names_with_a_slash_are_parts_of_a_group_too():
    label, scene = ["cat", "cat", "a/b", "a/b"], ["in/out", "sea", "in/out", "sea"]
    groups = [f"{one}/{other}" for one, other in zip(label, scene, strict=True)]
    images = labelled(label=label, scene=scene, group=groups, shot=["p", "q", "q", "p"])
    assert set(grouping(images, images, "label").cues) == {"scene"}


def test_images_without_groups_are_refused_with_a_remedy(digits):
    with refuses(UsageError, "'group'", "digits (train)", "composite", "waterbirds"):
        evaluated(*digits, measures=("groups",))


def test_groups_that_are_empty_in_training_or_alone():
    images = source("composite:two-cues,n=200,correlation=1")
    found = grouping(images.load("train"), images.load("test"), "label")
    with refuses(DataError, "6 of 8", "'low/lines/cross'", "limit", "group-balanced"):
        check_balance(found)
    alone = labelled(label=["a", "b"], group=["all", "all"])
    with refuses(DataError, "2 groups", "got 1", "group-balanced"):
        check_balance(grouping(alone, alone, "label"))


def test_scores_by_group_are_those_of_the_predictions(two_cues):
    train, test = two_cues
    found = evaluated(train, test, measures=("groups", "group-balanced"), seed=4)
    probe = LinearProbe(seed=4).fit(flat(train), train.labels["label"])
    hits = (probe.predict(flat(test)).numpy() == test.labels["label"]).astype(float)
    group = test.labels["group"]
    by_group = np.array([hits[group == g].mean() for g in range(8)])
    assert score(found, "linear", "worst group") == pytest.approx(by_group.min())
    assert score(found, "linear", MEAN) == pytest.approx(by_group.mean())
    shares = np.bincount(train.labels["group"], minlength=8) / len(train)
    inside = score(found, "linear", "weighted by training groups")
    assert inside == pytest.approx(shares @ by_group)
    # In two-cues "low" goes with lines and disc, "high" with clouds and cross: common is "the same number".
    same = {cue: test.labels["label"] == test.labels[cue] for cue in ("background", "object")}
    label_share = np.bincount(train.labels["label"]) / len(train)
    for name, background, thing in (
        ("background", False, True),
        ("object", True, False),
        (BOTH, False, False),
    ):
        cell = (same["background"] == background) & (same["object"] == thing)
        outside = sum(label_share[y] * hits[cell & (test.labels["label"] == y)].mean() for y in (0, 1))
        assert score(found, "linear", "gap", name) == pytest.approx(outside - inside)
    assert score(found, "linear", "gap", BOTH) < score(found, "linear", "gap", "object") < 0
    assert score(found, "group-balanced", "worst group") > score(found, "linear", "worst group")
    assert {one.label for one in found.scores} == {"label"} and {one.split for one in found.scores} == {
        "test"
    }
    worst = test.class_names["group"][int(by_group.argmin())]
    count = (group == by_group.argmin()).sum()
    subsets, of_linear, of_balanced = found.notes
    assert_names(subsets, "Group-balanced", np.bincount(train.labels["group"]).min(), "8 groups")
    assert_names(of_linear, "linear", "h", worst, f"{count} test")
    assert_names(of_balanced, "group-balanced", "h")


def test_an_empty_group_and_a_balanced_cue_are_named_and_count_nowhere(two_cues):
    train, test = two_cues
    kept = test.subset(np.flatnonzero(test.labels["group"] != 3))
    found = evaluated(train, kept, measures=("groups",))
    assert_names(found.notes[0], "1 of 8", test.class_names["group"][3])
    assert score(found, "linear", "worst group") > 0
    even = source("composite:two-cues,n=400,correlation=0.5").load("train")
    found = evaluated(even, test, measures=("groups",))
    assert_names(found.notes[0], "gap", "background", "object")
    assert not [one for one in found.scores if one.statistic == "gap"]


def test_no_test_image_with_a_group_is_an_error(two_cues):
    train, test = two_cues
    lost = ImageSet(
        test.images, {**test.labels, "group": np.full(len(test), -1)}, test.class_names, "lost", "test"
    )
    with refuses(DataError, "label", "group", 1):
        evaluated(train, lost, measures=("groups",))


def test_prediction_bias_is_among_the_scores(digits):
    train, test = digits
    found = evaluated(train, test, measures=("per-class",))
    guess = LinearProbe().fit(flat(train), train.labels["label"]).predict(flat(test)).numpy()
    truth = test.labels["label"]
    accuracies = [(guess[truth == c] == c).mean() for c in range(10)]
    for c in (0, 8):
        assert score(found, "linear", "prediction bias", str(c)) == pytest.approx(
            (guess == c).sum() / (truth == c).sum()
        )
    assert score(found, "linear", "worst class") == pytest.approx(min(accuracies))
    assert score(found, "linear", "best class") == pytest.approx(max(accuracies))
    assert score(found, "linear", DEVIATION) == pytest.approx(np.std(accuracies))


# Shifts


def test_a_shift_that_is_the_test_set_scores_as_the_test_set(digits):
    found = evaluated(*digits, shifts={"same": digits[1]})
    for probe in ("linear", "nearest"):
        assert score(found, probe, split="same") == score(found, probe)
    assert not [one for one in found.scores if one.statistic == AMONG_CLASSES]


def test_a_shift_of_some_classes_is_matched_by_name_and_predicted_among_them(digits):
    train, test = digits
    some = test.of_classes(["8", "1", "9"])  # numbered anew, in another order
    found = evaluated(train, test, shifts={"some": some})
    rows = np.isin(test.labels["label"], [8, 1, 9])
    features, truth = flat(test)[rows], test.labels["label"][rows]
    probe = LinearProbe().fit(flat(train), train.labels["label"])
    logits = (features.double() @ probe.weight.T + probe.bias).numpy()
    logits[:, [0, 2, 3, 4, 5, 6, 7]] = -np.inf
    theirs = np.isin(train.labels["label"], [8, 1, 9])
    nearest = NearestProbe().fit(flat(train)[theirs], train.labels["label"][theirs])
    expected = {
        "linear": (logits.argmax(1) == truth).mean(),
        "nearest": (nearest.predict(features).numpy() == truth).mean(),
    }
    for name, accuracy in expected.items():
        assert score(found, name, split="some") == pytest.approx(accuracy)
        # The shift holds the very test images of these classes, so what stands beside it is equal.
        assert score(found, name, AMONG_CLASSES, "some") == pytest.approx(accuracy)
    assert score(found, "linear") == probe.score(flat(test), test.labels["label"])


def test_unlabelled_images_of_a_shift_are_left_out(digits):
    train, test = digits
    hidden = np.where(np.arange(len(test)) % 3 == 0, -1, test.labels["label"])
    wild = np.where((hidden == -1)[:, None, None, None], 255, test.images).astype(np.uint8)
    partly = ImageSet(wild, {"label": hidden}, test.class_names, "partly", "test")
    found = evaluated(train, test, shifts={"partly": partly})
    rows = hidden != -1
    probe = LinearProbe().fit(flat(train), train.labels["label"])
    assert score(found, "linear", split="partly") == probe.score(flat(test)[rows], hidden[rows])


def test_a_shift_is_loaded_at_the_runs_size_under_its_canonical_name(digits):
    larger = ImageSet(
        *(np.repeat(np.repeat(digits[0].images, 2, 1), 2, 2), digits[0].labels, digits[0].class_names)
    )
    name, images = load_shift("digits", larger)
    assert (name, images.image_shape, images.split) == ("digits", (16, 16, 1), "test")
    assert load_shift("composite:two-cues,seed=0,n=90", colour())[0] == "composite:two-cues,n=90"


def colour():
    return source("composite:two-cues,n=60").load("train")


def test_bad_shifts(digits, tmp_path):
    train, test = digits
    with refuses(DataError, "digits (test)", "1 channels", "of 3", "colour"):
        load_shift("digits", colour())
    with refuses(DataError, "3 channels", "of 1", "grey"):
        load_shift("composite:two-cues,n=60", train)
    with refuses(UsageError, "'digist'", "'digits'"):
        load_shift("digist", train)
    lacking = train.of_classes(["0", "1", "2"])
    with refuses(DataError, "7 of the 10", "digits (test)", "'3'", "classes="):
        matched(test, lacking, "label")
    never = ImageSet(train.images[:60], {"label": train.labels["label"][:60] % 5}, train.class_names)
    with refuses(DataError, "5 of the 10", "'5'"):
        matched(test, never, "label")  # names that training knows, but has no image of
    with refuses(DataError, "2 classes", "digits", "has 1"):
        matched(test.of_classes(["4"]), train, "label")
    with refuses(UsageError, "label", "'coarse'"):
        matched(test, train, "coarse")
    blank = ImageSet(test.images, {"label": np.full(len(test), -1)}, test.class_names, "blank")
    with refuses(DataError, "2 classes", "blank (train)", "has 0"):
        matched(blank, train, "label")


# The trap of standardised features


@pytest.mark.parametrize("spec", ["diagonal", "reweight:1.2,norm=batch"])
def test_standardising_undoes_a_diagonal_head_and_raw_and_l2_do_not(few, spec):
    module = head(spec, in_dim=64).eval()
    for parameter in module.parameters():  # a diagonal head that has learnt something
        parameter.data = torch.logspace(0, -3, 64)
    accuracy, notes = {}, {}
    for treatment in ("standardised", "raw", "l2"):
        found = evaluate(Pixels(), module, *few, ["h", "z"], Request(features=treatment))
        accuracy[treatment] = [score(found, "linear", place=place) for place in ("h", "z")]
        notes[treatment] = found.notes
        assert {one.features for one in found.scores if one.probe == "linear"} == {treatment}
    assert accuracy["standardised"][0] == accuracy["standardised"][1]
    assert abs(accuracy["raw"][0] - accuracy["raw"][1]) > 0.004
    assert abs(accuracy["l2"][0] - accuracy["l2"][1]) > 0.004
    assert notes["raw"] == notes["l2"] == []
    (note,) = notes["standardised"]
    assert_names(note, "z", "h", "diagonal head", "raw", "l2")


@pytest.mark.parametrize("spec", ["none", "orthogonal", "subvector:20"])
def test_nothing_is_said_of_heads_that_are_not_diagonal(few, spec):
    torch.manual_seed(0)
    request = Request(features="standardised")
    found = evaluate(Pixels(), head(spec, in_dim=64).eval(), *few, ["h", "z"], request)
    assert found.notes == []


def test_channels_that_do_not_move_say_nothing_of_the_scale():
    x = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    still = torch.cat([x, torch.zeros(30, 1)], 1)
    assert scaled_alike(still, still * torch.tensor([2.0, 0.0, -1.0, 5.0]))  # one has underflowed
    assert not scaled_alike(x, x[:, [1, 0, 2]]) and not scaled_alike(x, x[:, :2])
    assert not scaled_alike(torch.zeros(5, 2), torch.zeros(5, 2))


def test_few_shot_probes_treat_features_alike(digits):
    found = evaluated(*digits, shots=(5,), features="l2")
    (few,) = [one for one in found.scores if one.shots is not None]
    assert (few.probe, few.statistic, few.features, few.shots) == ("linear", "accuracy", "l2", 5)


def test_few_shot_scores_have_the_interval_over_their_draws(few):
    train, test = few
    for episodes in (3, 1):
        found = evaluated(train, test, shots=(4,), episodes=episodes, seed=2)
        (score,) = [one for one in found.scores if one.shots is not None]
        labels = train.labels["label"], test.labels["label"]
        (expected,) = few_shot(
            flat(train), labels[0], flat(test), labels[1], shots=(4,), episodes=episodes, seed=2
        )
        assert (score.value, score.low, score.high) == (expected.mean, expected.low, expected.high)
        assert score.episodes == episodes and (score.low is None) == (episodes == 1)
    assert {one.episodes for one in found.scores if one.shots is None} == {None}
    with refuses(UsageError, "episodes", 0, 1):
        Request(episodes=0)


def test_an_unknown_treatment_is_refused():
    with refuses(UsageError, "features", "'standardized'", "'standardised'"):
        Request(features="standardized")


def test_what_is_learnt_from_is_train_and_what_is_scored_is_test(few):
    train, test = few
    found = evaluated(train, test, places=["h[:20]", "h"], measures=("retrieval",))
    for place, width in (("h[:20]", 20), ("h", 64)):
        fitted = NearestProbe().fit(flat(train)[:, :width], train.labels["label"])
        accuracy = fitted.score(flat(test)[:, :width], test.labels["label"])
        assert found.probes[place].nearest == score(found, "nearest", place=place) == accuracy
        recall = retrieval(flat(test)[:, :width], test.labels["label"]).recall[1]
        assert score(found, "retrieval", "recall@1", place=place) == recall
        assert len(found.spectrum[place].singular_values) == width
    other = evaluated(test, train, places=["h"])
    assert other.probes["h"] != found.probes["h"]
