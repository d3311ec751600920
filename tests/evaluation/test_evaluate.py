"""Groups, shifts and treatments of features, scored on images whose pixels are the features."""

import numpy as np
import pytest
import torch
from torch import nn

from fullrank.data import ImageSet, source
from fullrank.errors import DataError, UsageError
from fullrank.evaluation.evaluate import evaluate, scaled_alike
from fullrank.evaluation.groups import check_balance, grouping
from fullrank.evaluation.shifts import load_shift, matched
from fullrank.heads import head
from fullrank.probes import LinearProbe, NearestProbe


class Pixels(nn.Module):
    """An encoder whose h is the image's pixels."""

    places = ()

    def features(self, x, places):
        return {"h": x.flatten(1)}


def flat(images):
    return images.tensor().flatten(1).float() / 255


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
    return images.load("train").limited(300, seed=0), images.load("test")


@pytest.fixture(scope="module")
def few(digits):
    """Three digits that are hard to tell apart."""
    train, test = (images.of_classes(["3", "5", "8"]) for images in digits)
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
    with pytest.raises(UsageError) as error:
        evaluate(Pixels(), head("none", in_dim=64), *digits, ["h"], measures=("groups",))
    assert "needs the label 'group', but digits (train) has label; take images with groups" in str(
        error.value
    )


def test_groups_that_are_empty_in_training_or_alone():
    images = source("composite:two-cues,n=200,correlation=1")
    found = grouping(images.load("train"), images.load("test"), "label")
    with pytest.raises(
        DataError, match=r"but 6 of 8 groups have none, the first is 'low/lines/cross'; raise the limit"
    ):
        check_balance(found)
    alone = labelled(label=["a", "b"], group=["all", "all"])
    with pytest.raises(DataError, match="2 groups or more among the training images, but got 1"):
        check_balance(grouping(alone, alone, "label"))


def test_scores_by_group_are_those_of_the_predictions(two_cues):
    train, test = two_cues
    found = evaluate(
        Pixels(), head("none", in_dim=432), train, test, ["h"], measures=("groups", "group-balanced"), seed=4
    )
    probe = LinearProbe(seed=4).fit(flat(train), train.labels["label"])
    hits = (probe.predict(flat(test)).numpy() == test.labels["label"]).astype(float)
    group = test.labels["group"]
    by_group = np.array([hits[group == g].mean() for g in range(8)])
    assert score(found, "linear", "worst group") == pytest.approx(by_group.min())
    assert score(found, "linear", "mean over groups") == pytest.approx(by_group.mean())
    shares = np.bincount(train.labels["group"], minlength=8) / len(train)
    inside = score(found, "linear", "weighted by training groups")
    assert inside == pytest.approx(shares @ by_group)
    # In two-cues "low" goes with lines and disc, "high" with clouds and cross: common is "the same number".
    same = {cue: test.labels["label"] == test.labels[cue] for cue in ("background", "object")}
    label_share = np.bincount(train.labels["label"]) / len(train)
    for name, background, thing in (
        ("background", False, True),
        ("object", True, False),
        ("background and object", False, False),
    ):
        cell = (same["background"] == background) & (same["object"] == thing)
        outside = sum(label_share[y] * hits[cell & (test.labels["label"] == y)].mean() for y in (0, 1))
        assert score(found, "linear", "gap", name) == pytest.approx(outside - inside)
    assert (
        score(found, "linear", "gap", "background and object") < score(found, "linear", "gap", "object") < 0
    )
    assert score(found, "group-balanced", "worst group") > score(found, "linear", "worst group")
    assert {one.label for one in found.scores} == {"label"} and {one.split for one in found.scores} == {
        "test"
    }
    worst = test.class_names["group"][int(by_group.argmin())]
    count = (group == by_group.argmin()).sum()
    assert f"Worst group of the linear probe at h: {worst}, {count} test images." in found.notes
    smallest = np.bincount(train.labels["group"]).min()
    assert f"Group-balanced subsets hold {smallest} training images of each of 8 groups." in found.notes


def test_an_empty_group_and_a_balanced_cue_are_named_and_count_nowhere(two_cues):
    train, test = two_cues
    kept = test.subset(np.flatnonzero(test.labels["group"] != 3))
    found = evaluate(Pixels(), head("none", in_dim=432), train, kept, ["h"], measures=("groups",))
    assert found.notes[0] == (
        f"1 of 8 groups have no test image and count nowhere; the first is {test.class_names['group'][3]}."
    )
    assert score(found, "linear", "worst group") > 0
    even = source("composite:two-cues,n=400,correlation=0.5").load("train")
    found = evaluate(Pixels(), head("none", in_dim=432), even, test, ["h"], measures=("groups",))
    assert found.notes[0] == "No gap of background or object: in training no value goes with a label."
    assert not [one for one in found.scores if one.statistic == "gap"]


def test_no_test_image_with_a_group_is_an_error(two_cues):
    train, test = two_cues
    lost = ImageSet(
        test.images, {**test.labels, "group": np.full(len(test), -1)}, test.class_names, "lost", "test"
    )
    with pytest.raises(DataError, match="every group is empty"):
        evaluate(Pixels(), head("none", in_dim=432), train, lost, ["h"], measures=("groups",))


def test_prediction_bias_is_among_the_scores(digits):
    train, test = digits
    found = evaluate(Pixels(), head("none", in_dim=64), train, test, ["h"], measures=("per-class",))
    guess = LinearProbe().fit(flat(train), train.labels["label"]).predict(flat(test)).numpy()
    truth = test.labels["label"]
    accuracies = [(guess[truth == c] == c).mean() for c in range(10)]
    for c in (0, 8):
        assert score(found, "linear", "prediction bias", str(c)) == pytest.approx(
            (guess == c).sum() / (truth == c).sum()
        )
    assert score(found, "linear", "worst class") == pytest.approx(min(accuracies))
    assert score(found, "linear", "best class") == pytest.approx(max(accuracies))
    assert score(found, "linear", "standard deviation over classes") == pytest.approx(np.std(accuracies))


# Shifts


def test_a_shift_that_is_the_test_set_scores_as_the_test_set(digits):
    found = evaluate(Pixels(), head("none", in_dim=64), *digits, ["h"], shifts={"same": digits[1]})
    for probe in ("linear", "nearest"):
        assert score(found, probe, split="same") == score(found, probe)
    assert not [one for one in found.scores if one.statistic == "accuracy among classes"]


def test_a_shift_of_some_classes_is_matched_by_name_and_predicted_among_them(digits):
    train, test = digits
    some = test.of_classes(["8", "1", "9"])  # numbered anew, in another order
    found = evaluate(Pixels(), head("none", in_dim=64), train, test, ["h"], shifts={"some": some})
    rows = np.isin(test.labels["label"], [8, 1, 9])
    asked, truth = flat(test)[rows], test.labels["label"][rows]
    probe = LinearProbe().fit(flat(train), train.labels["label"])
    logits = (asked.double() @ probe.weight.T + probe.bias).numpy()
    logits[:, [0, 2, 3, 4, 5, 6, 7]] = -np.inf
    known = np.isin(train.labels["label"], [8, 1, 9])
    nearest = NearestProbe().fit(flat(train)[known], train.labels["label"][known])
    expected = {
        "linear": (logits.argmax(1) == truth).mean(),
        "nearest": (nearest.predict(asked).numpy() == truth).mean(),
    }
    for name, accuracy in expected.items():
        assert score(found, name, split="some") == pytest.approx(accuracy)
        # The shift holds the very test images of these classes, so what stands beside it is equal.
        assert score(found, name, "accuracy among classes", "some") == pytest.approx(accuracy)
    assert score(found, "linear") == probe.score(flat(test), test.labels["label"])


def test_unlabelled_images_of_a_shift_are_left_out(digits):
    train, test = digits
    hidden = np.where(np.arange(len(test)) % 3 == 0, -1, test.labels["label"])
    wild = np.where((hidden == -1)[:, None, None, None], 255, test.images).astype(np.uint8)
    partly = ImageSet(wild, {"label": hidden}, test.class_names, "partly", "test")
    found = evaluate(Pixels(), head("none", in_dim=64), train, test, ["h"], shifts={"partly": partly})
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
    with pytest.raises(
        DataError, match=r"digits \(test\) has images of 1 channels, .* on images of 3; give colour"
    ):
        load_shift("digits", colour())
    with pytest.raises(DataError, match="of 1; give grey images"):
        load_shift("composite:two-cues,n=60", train)
    with pytest.raises(UsageError, match="Unknown data 'digist'"):
        load_shift("digist", train)
    lacking = train.of_classes(["0", "1", "2"])
    with pytest.raises(DataError, match=r"7 of the 10 classes of digits \(test\) .* the first is '3'; leave"):
        matched(test, lacking, "label")
    never = ImageSet(train.images[:60], {"label": train.labels["label"][:60] % 5}, train.class_names)
    with pytest.raises(DataError, match=r"5 of the 10 classes .* the first is '5'"):
        matched(test, never, "label")  # names that training knows, but has no image of
    with pytest.raises(DataError, match=r"2 classes or more, but digits .* has 1; give images of more"):
        matched(test.of_classes(["4"]), train, "label")
    with pytest.raises(UsageError, match="Unknown label 'coarse'"):
        matched(test, train, "coarse")
    blank = ImageSet(test.images, {"label": np.full(len(test), -1)}, test.class_names, "blank")
    with pytest.raises(DataError, match=r"but blank \(train\) has 0"):
        matched(blank, train, "label")


# The trap of standardised features (PAPERS P2.3)


@pytest.mark.parametrize("spec", ["reweight:1.2", "diagonal", "reweight:1.2,norm=batch"])
def test_standardising_undoes_a_diagonal_head_and_raw_and_l2_do_not(few, spec):
    module = head(spec, in_dim=64).eval()
    for parameter in module.parameters():  # a diagonal head that has learnt something
        parameter.data = torch.logspace(0, -3, 64)
    accuracy, notes = {}, {}
    for treatment in ("standardised", "raw", "l2"):
        found = evaluate(Pixels(), module, *few, ["h", "z"], features=treatment)
        accuracy[treatment] = [score(found, "linear", place=place) for place in ("h", "z")]
        notes[treatment] = found.notes
        assert {one.features for one in found.scores if one.probe == "linear"} == {treatment}
    assert accuracy["standardised"][0] == accuracy["standardised"][1]
    assert abs(accuracy["raw"][0] - accuracy["raw"][1]) > 0.004
    assert abs(accuracy["l2"][0] - accuracy["l2"][1]) > 0.004
    assert notes["raw"] == notes["l2"] == []
    (note,) = notes["standardised"]
    assert "standardising undoes any diagonal head" in note and "compare raw or l2" in note


@pytest.mark.parametrize("spec", ["none", "linear:64", "orthogonal", "subvector:20"])
def test_nothing_is_said_of_heads_that_are_not_diagonal(few, spec):
    torch.manual_seed(0)
    found = evaluate(Pixels(), head(spec, in_dim=64).eval(), *few, ["h", "z"], features="standardised")
    assert found.notes == []


def test_channels_that_do_not_move_say_nothing_of_the_scale():
    x = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    still = torch.cat([x, torch.zeros(30, 1)], 1)
    assert scaled_alike(still, still * torch.tensor([2.0, 0.0, -1.0, 5.0]))  # one has underflowed
    assert not scaled_alike(x, x[:, [1, 0, 2]]) and not scaled_alike(x, x[:, :2])
    assert not scaled_alike(torch.zeros(5, 2), torch.zeros(5, 2))


def test_few_shot_probes_treat_features_alike(digits):
    found = evaluate(Pixels(), head("none", in_dim=64), *digits, ["h"], shots=(5,), features="l2")
    (few,) = [one for one in found.scores if one.shots is not None]
    assert (few.probe, few.statistic, few.features, few.shots) == ("linear", "accuracy", "l2", 5)


def test_an_unknown_treatment_is_refused(digits):
    with pytest.raises(
        UsageError, match="Unknown treatment of features 'standardized': did you mean 'standard"
    ):
        evaluate(Pixels(), head("none", in_dim=64), *digits, ["h"], features="standardized")
