"""Baselines: the encoder that a run starts from, pixels, and what is shared, left out and left alone."""

import numpy as np
import pytest
import torch

from fullrank.data import ImageSet, source
from fullrank.errors import DataError
from fullrank.probes import LinearProbe, NearestProbe
from fullrank.runs import baselines as module
from fullrank.runs.baselines import baselines, initial_encoder, kind_of, pixels_of, run_baselines
from fullrank.runs.build import check_plan, load_data
from fullrank.runs.recipe import Recipe

KEYS = {"encoder": "tiny-resnet,width=4", "head": "none", "limit": 120, "batch_size": 60, "seed": 3}


@pytest.fixture(scope="module")
def digits() -> tuple[Recipe, ImageSet, ImageSet]:
    recipe = Recipe.resolve("digits", KEYS)
    return recipe, *load_data(recipe)


def test_initial_encoder_is_the_one_that_a_run_starts_from_and_draws_nothing(digits):
    recipe, train, _ = digits
    torch.manual_seed(recipe.seed)
    expected = check_plan(recipe, train).encoder.state_dict()
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    weights = initial_encoder(recipe, train).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)


def test_run_baselines_are_the_default_probes_on_pixels_and_on_h_before_training(digits):
    recipe, train, test = digits
    pixels, untrained = run_baselines(recipe, train, test)
    assert (pixels.features, untrained.features) == ("pixels", "untrained")
    assert pixels.note == untrained.note == ""
    labels, truth = train.labels["label"], test.labels["label"]
    x, y = (np.float32(images.images.reshape(len(images), -1) / 255) for images in (train, test))
    assert pixels.linear == LinearProbe(seed=0).fit(x, labels).score(y, truth)
    assert pixels.nearest == NearestProbe().fit(x, labels).score(y, truth)
    torch.manual_seed(recipe.seed)
    encoder = check_plan(recipe, train).encoder.eval()
    with torch.no_grad():
        h, tested = (encoder(images.tensor() / 255) for images in (train, test))
    assert untrained.nearest == NearestProbe().fit(h, labels).score(tested, truth)
    assert 0.102 < untrained.linear < pixels.linear


def test_the_heads_of_a_study_share_their_baselines(digits):
    _, train, test = digits
    run_baselines(Recipe.resolve("digits", KEYS), train, test)
    known = set(module._measured)
    run_baselines(Recipe.resolve("digits", {**KEYS, "head": "mlp:8"}), train, test)
    assert set(module._measured) == known


def test_larger_images_are_averaged_down_and_it_is_said():
    values = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    labels = {"label": np.array([0, 1, 0])}
    images = ImageSet(values, labels, {"label": ("a", "b")})
    averaged = values.reshape(3, 32, 2, 32, 2, 3).mean((2, 4)).transpose(0, 3, 1, 2).reshape(3, -1) / 255
    assert pixels_of(images).numpy() == pytest.approx(averaged, abs=1e-6)
    pixels, nothing = baselines(images, images, "label", None)
    assert "32 x 32" in pixels.note and pixels.nearest == 1.0
    assert nothing.linear is None and "not measured" in nothing.note


def test_what_cannot_be_measured_says_why(digits, monkeypatch, tmp_path):
    recipe, train, test = digits

    def refuse():
        raise DataError("There is no file w.pth.")

    monkeypatch.setattr(module, "MOST_NUMBERS", 120 * 64 - 1)
    pixels, before = baselines(train, test, "label", refuse, "pretrained")
    assert (pixels.linear, before.linear, before.features) == (None, None, "pretrained")
    assert "7,680" in pixels.note and "w.pth" in before.note
    unlabelled = source("digits").load("test").of_classes(["3"])
    assert baselines(unlabelled, test, "label", None) == []
    assert kind_of(Recipe.resolve(recipe, {"init": "w.pth"})) == "pretrained"
