import importlib.util
from dataclasses import astuple
from pathlib import Path

import pytest
import torch

from fullrank.data import BatchLoader, source
from fullrank.runs.build import build
from fullrank.runs.recipe import Recipe
from fullrank.training.module import JointEmbedding

FILE = Path(__file__).parents[2] / "benchmarks" / "head_signals.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("head_signals", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def images():
    return source("digits").load("train")


def signals(script, images, head):
    recipe = Recipe.resolve("digits", {"head": head, "encoder": "tiny-resnet,width=8", "batch_size": 64})
    torch.manual_seed(0)
    return script.Signals.of(
        JointEmbedding.of(recipe, build(recipe, images)), next(iter(BatchLoader(images, 64, 0)))
    )


def test_without_a_head_cosines_are_those_of_features_that_a_relu_left_above_zero(script, images):
    found = signals(script, images, "none")
    # For vectors of one length the mean cosine would be the mean's share of energy itself.
    assert found.negative == pytest.approx(found.mean, abs=0.1) and found.mean > 0.3


def test_centring_takes_the_mean_out_of_what_the_loss_sees_and_leaves_it_in_h(script, images):
    plain, centred = (signals(script, images, head) for head in ("none", "none,norm=centre"))
    assert abs(centred.negative) < 0.03 < plain.negative
    assert centred.mean == pytest.approx(plain.mean)  # the same encoder, the same images
    assert centred.spread > 2 * plain.spread


@pytest.mark.parametrize("width", [2, 5])
def test_a_subvector_pushes_h_in_no_more_directions_than_it_has_channels(script, images, width):
    assert signals(script, images, f"subvector:{width}").directions <= width + 1e-4
    assert signals(script, images, "none").directions > width


def test_shares_are_shares(script, images):
    for head in ("none", "mlp:8", "reweight:1.2,norm=batch"):
        found = signals(script, images, head)
        assert all(0 <= share <= 1 for share in (found.mean, found.along))
        assert -1 <= found.negative <= found.positive <= 1
        assert all(map(torch.isfinite, torch.tensor(astuple(found))))
