"""The measure corrections: scores by group and of each cue, on images whose pixels are the features."""

import json

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from refusals import assert_names, refuses
from torch import nn

from fullrank.cli.corrections import print_corrections
from fullrank.data import ImageSet
from fullrank.errors import DataError, UsageError
from fullrank.evaluation.evaluate import Evaluation, evaluate
from fullrank.evaluation.scores import Request
from fullrank.probes import LinearProbe, correct, cue_accuracy, group_accuracy, leace, mean_difference
from fullrank.record.scores import CORRECTED, CUE_READ, GROUP_STATISTICS


class Pixels(nn.Module):
    """An encoder whose h is the image's pixels."""

    places = ()

    def features(self, x, places):
        return {"h": x.flatten(1)}


def cued(agree, seed, rows=160, unknown=0):
    """Images of four pixels that show a class weakly and a cue strongly; of the last ones it is unknown."""
    random = np.random.default_rng(seed)
    label = np.arange(rows) % 2
    scene = np.where(np.arange(rows) // 2 % round(1 / (1 - agree)) == 0, 1 - label, label)
    shown = np.stack([120 + 20 * label, 120 + 60 * scene, 100 + 20 * label + 20 * scene], 1)
    pixels = np.concatenate([shown + random.normal(0, 12, shown.shape), np.full((rows, 1), 7)], 1)
    labels = {"label": label, "scene": scene, "group": 2 * label + scene}
    for key in ("scene", "group"):
        labels[key][rows - unknown :] = -1
    names = {"label": ("a", "b"), "scene": ("sea", "hill")}
    names["group"] = tuple(f"{one}/{other}" for one in names["label"] for other in names["scene"])
    images = pixels.round().clip(0, 255).astype(np.uint8).reshape(rows, 2, 2, 1)
    return ImageSet(images, labels, names)


def flat(images):
    return torch.from_numpy(images.images).flatten(1).float() / 255


def evaluated(train, test, **request):
    head = nn.Identity()
    return evaluate(Pixels(), head, train, test, ["h"], Request(measures=["corrections"], **request))


@pytest.fixture(scope="module")
def images():
    return cued(0.9, seed=0, unknown=10), cued(0.5, seed=1, rows=200, unknown=20)


@pytest.fixture(scope="module")
def found(images):
    return evaluated(*images, seed=3)


def score(evaluation, probe, statistic, subject=""):
    (value,) = [
        each.value
        for each in evaluation.scores
        if (each.probe, each.statistic, each.subject) == (probe, statistic, subject)
    ]
    return value


def test_scores_are_those_of_features_corrected_by_hand_and_unknown_cues_count_nowhere(images, found):
    train, test = (each.subset(np.flatnonzero(each.labels["group"] >= 0)) for each in images)
    x, xt = map(flat, (train, test))
    labels, scene = (torch.from_numpy(train.labels[key]) for key in ("label", "scene"))
    vectors, erasures = correct(x, labels, {"scene": scene}, seed=3), (None, labels)
    shifts = mean_difference(x, labels, scene)
    corrected = {
        "linear": (x, xt),
        "correction": (vectors.apply(x), vectors.apply(xt)),
        "mean-difference": (shifts.apply(x, scene), shifts.apply(xt, test.labels["scene"])),
    }
    for name, classes in zip(("leace", "leace-within"), erasures, strict=True):
        erasure = leace(x, scene, within=classes)
        corrected[name] = erasure.apply(x), erasure.apply(xt)
    assert set(corrected) == {"linear", *CORRECTED}
    plain = LinearProbe(seed=3).fit(flat(images[0]), images[0].labels["label"])  # of all images
    for name, (learned, tested) in corrected.items():
        probe = plain if name == "linear" else LinearProbe(seed=3).fit(learned, labels)
        predicted = probe.predict(tested)
        groups = group_accuracy(predicted, test.labels["label"], test.labels["group"])
        assert score(found, name, "worst group") == pytest.approx(groups.worst)
        assert score(found, name, GROUP_STATISTICS[1]) == pytest.approx(groups.mean)
    learned, tested = corrected["leace"]
    known = labels, scene, tested, test.labels["label"], test.labels["scene"]
    read = cue_accuracy(learned, *known, seed=3)
    assert score(found, "leace", CUE_READ, "scene") == pytest.approx(read)
    assert score(found, "leace-within", "worst group") > score(found, "linear", "worst group") + 0.1


def test_the_correction_of_each_channel_and_group_is_in_the_result(images, found):
    train, test = images
    vectors = correct(flat(train), train.labels["label"], {"scene": train.labels["scene"]}, seed=3)
    (table,) = json.loads(TypeAdapter(Evaluation).dump_json(found))["corrections"]
    named = [table[key] for key in ("method", "place", "label", "width")]
    assert named == ["correction", "h", "group", 4]
    moved = vectors.vectors(flat(test))
    for group, (mean, size) in enumerate(zip(table["mean"], table["size"], strict=True)):
        rows = moved[test.labels["group"] == group][:, table["channels"]]
        assert mean == pytest.approx(rows.mean(0).tolist(), abs=1e-6)
        assert size == pytest.approx(rows.abs().mean(0).tolist(), abs=1e-6)
    assert table["channels"][-1] == 3 and not np.array(table["size"])[:, -1].any()  # the constant pixel


def test_the_terminal_shows_every_correction_and_the_channels(found, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    print_corrections(found.scores, found.corrections)
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert_names(text, *CORRECTED, "none", "scene", "a/sea", "b/hill", found.corrections[0].channels[0])
    print_corrections([each for each in found.scores if each.statistic != CUE_READ], [])
    assert not capsys.readouterr().out


def test_missing_groups_and_cues_are_refused(images):
    train, test = images
    with refuses(DataError, "corrections", "b/sea", 4):
        evaluated(train.subset(np.flatnonzero(train.labels["group"] != 2)), test)
    alone = ImageSet(
        train.images,
        {"label": train.labels["label"], "group": train.labels["label"]},
        {"label": ("a", "b"), "group": ("a", "b")},
    )
    with refuses(UsageError, "corrections", "cue"):
        evaluated(alone, alone)
    with refuses(UsageError, "'group'"):
        bare = ImageSet(train.images, {"label": train.labels["label"]}, {"label": ("a", "b")})
        evaluated(bare, bare)
