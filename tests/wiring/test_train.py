"""Which images, labels, settings and numbers meet in a training, seen through pixels that are features."""

import csv
import math
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transparent import LOUD, QUIET, SETTINGS, TEST, Coded, Pixels, WithoutLoud, coded_images, pixel_rows

from fullrank import load, register_objective, train


@pytest.fixture(scope="module")
def entry(transparent_run):
    return transparent_run.record.runs[0]


@pytest.fixture(scope="module")
def curves(transparent_run):
    with (transparent_run.path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def test_probes_learn_from_the_training_images_and_are_scored_on_the_test_images(entry):
    for probe in ("linear", "nearest"):
        assert {place: getattr(scores, probe) for place, scores in entry.probes.items()} == {
            "h": LOUD,
            "z": QUIET,
        }


def test_the_spectrum_is_that_of_the_test_images_at_each_place(entry):
    for place, rows in (("h", pixel_rows("test")), ("z", pixel_rows("test")[:, 4:])):
        values = np.linalg.svd((rows - rows.mean(0)).double().numpy(), compute_uv=False) ** 2 / TEST
        np.testing.assert_allclose(entry.spectrum[place].singular_values, values, atol=1e-7)


def test_the_loss_is_the_objective_of_the_embeddings_at_the_recipes_temperature(entry, curves):
    z = F.normalize(pixel_rows("train")[:, 4:].double(), dim=1)
    expected = F.cross_entropy(z @ z.T / 0.5, torch.arange(len(z)))
    assert curves["loss"] == pytest.approx([float(expected)] * 3, rel=1e-5)
    assert entry.loss == curves["loss"][-1]
    assert entry.chance == pytest.approx(math.log(96))


def test_curves_hold_similarities_rank_and_rate_of_their_step(curves):
    h, z = pixel_rows("train").double(), F.normalize(pixel_rows("train")[:, 4:].double(), dim=1)
    cosines = z @ z.T
    others = float((cosines.sum() - cosines.trace()) / (96 * 95))
    roots = np.linalg.svd((h - h.mean(0)).numpy(), compute_uv=False)
    p = roots[roots > 1e-9] / roots.sum()
    assert curves["step"] == [1, 2, 3] and curves["epoch"] == [1, 2, 3]
    assert curves["positive_similarity"] == pytest.approx([1.0] * 3)
    assert curves["negative_similarity"] == pytest.approx([others] * 3, rel=1e-5)
    assert curves["effective_rank"] == pytest.approx([math.exp(-(p * np.log(p)).sum())] * 3, rel=1e-5)


def test_the_rate_warms_up_and_falls_to_the_floor_of_the_recipe(curves):
    # Warm-up is 0.4 of 3 steps, so 1; then half a cosine over the other 2, from 1 down to the floor of 1/4.
    cosine = [0.5 * (1 + math.cos(math.pi * step / 2)) for step in (0, 1)]
    expected = [0.01, *(0.01 * (0.25 + 0.75 * share) for share in cosine)]
    assert curves["learning_rate"] == pytest.approx(expected)


def test_counts_of_a_run_are_those_of_its_recipe(entry):
    assert (entry.head, entry.seed, entry.epochs, entry.steps) == ("transparent:WithoutLoud", 3, 3, 3)
    assert entry.views_per_second * entry.seconds == pytest.approx(2 * 3 * 96)
    assert entry.parameters == {"encoder": 1, "head": 0}


def test_online_probes_see_the_training_images_alone(transparent_run):
    arrays = np.load(transparent_run.path / "arrays.npz")
    assert arrays["online_epoch"].tolist() == [1, 2, 3]
    # Every code is right in training, and every row of the queue is another image.
    assert arrays["online_linear"].tolist() == arrays["online_nearest"].tolist() == [1.0] * 3


def test_examples_are_training_images_beside_their_own_two_views(transparent_run):
    examples = np.load(transparent_run.path / "arrays.npz")["examples"]
    images = coded_images("train").images
    rows = np.linspace(0, len(images) - 1, 8).astype(int)
    for column in range(3):
        np.testing.assert_array_equal(examples[:, column], images[rows])


class Listening(nn.Module):
    """A loss of zero that keeps what it is given."""

    needs = ("labels",)
    heard: ClassVar[list[tuple[Tensor, Tensor, Tensor]]] = []

    def forward(self, z_a, z_b, labels):
        self.heard.append((z_a.detach(), z_b.detach(), labels))
        return z_a.sum() * 0


@pytest.mark.parametrize(("label", "first", "count"), [("label", 4, 4), ("shade", 8, 2)])
def test_an_objective_gets_both_views_of_the_same_images_and_the_labels_that_were_named(
    tmp_path, label, first, count
):
    Listening.heard.clear()
    register_objective("listening")(Listening)
    options = SETTINGS | {"objective": "listening", "batch_size": 32, "epochs": 2, "label": label}
    train("digits", data=Coded, out=tmp_path / "run", head="none", **options)
    steps = Listening.heard[-6:]
    assert [len(labels) for *_, labels in steps] == [32] * 6
    for z_a, z_b, labels in steps:
        assert torch.equal(z_a, z_b)
        assert torch.equal(z_a[:, first : first + count].argmax(1), labels)
    for epoch in (steps[:3], steps[3:]):  # every image once an epoch, in another order
        rows = torch.cat([z_a for z_a, *_ in epoch])
        assert len(torch.unique(rows, dim=0)) == len(torch.unique(pixel_rows("train"), dim=0))
    assert not torch.equal(steps[0][0], steps[3][0])


def test_a_share_held_out_takes_the_place_of_the_test_images(tmp_path):
    run = train(
        "digits",
        data=Coded,
        out=tmp_path / "run",
        head=WithoutLoud,
        held_out=0.25,
        **SETTINGS | {"batch_size": 72},
    )
    # Both codes are right in what is held out of the training images.
    assert {place: scores.linear for place, scores in run.record.runs[0].probes.items()} == {
        "h": 1.0,
        "z": 1.0,
    }
    assert run.record.runs[0].steps == 3  # 72 of 96 images are left to learn from


def test_a_limit_shortens_the_training_images_alone(tmp_path):
    run = train(
        "digits",
        data=Coded,
        out=tmp_path / "run",
        head=WithoutLoud,
        limit=48,
        **SETTINGS | {"batch_size": 48},
    )
    entry = run.record.runs[0]
    assert entry.steps == 3 and entry.probes["h"].linear == LOUD
    rows = pixel_rows("test")
    assert sum(entry.spectrum["h"].singular_values) == pytest.approx(float(rows.var(0, correction=0).sum()))


def test_a_run_that_is_read_back_is_the_run_that_was_trained(transparent_run):
    again = load(transparent_run.path)
    assert again.recipe == transparent_run.recipe and again.record == transparent_run.record
    images = torch.rand(5, 1, 4, 4)
    assert torch.equal(again.encoder(images), images.flatten(1))
    assert torch.equal(again.head(images.flatten(1)), images.flatten(1)[:, 4:])
    assert isinstance(again.fresh_head(), WithoutLoud) and again.encoder.feature_dim == 16
    assert Pixels.places == ("quiet",)
