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
from fullrank.data import ImageSet, Source


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
    """A loss that keeps what it is given; it differs from step to step."""

    needs = ("labels",)
    calls: ClassVar[list[tuple[Tensor, Tensor, Tensor]]] = []

    def forward(self, z_a, z_b, labels):
        self.calls.append((z_a.detach(), z_b.detach(), labels))
        return z_a.sum() * 0 + len(self.calls)


@pytest.fixture
def listening():
    """What a step gives to its objective, in the order of the steps."""
    Listening.calls.clear()
    register_objective("listening")(Listening)
    return Listening.calls


def trained(folder, **options):
    options = SETTINGS | {"objective": "listening", "batch_size": 32, "epochs": 2, "head": "none"} | options
    return train("digits", data=Coded, out=folder, **options)


@pytest.mark.parametrize(("label", "first", "count"), [("label", 4, 4), ("shade", 8, 2)])
def test_an_objective_gets_both_views_of_the_same_images_and_the_labels_that_were_named(
    tmp_path, listening, label, first, count
):
    trained(tmp_path / "run", label=label)
    steps = listening[-6:]
    assert [len(labels) for *_, labels in steps] == [32] * 6
    for z_a, z_b, labels in steps:
        assert torch.equal(z_a, z_b)
        assert torch.equal(z_a[:, first : first + count].argmax(1), labels)
    for epoch in (steps[:3], steps[3:]):  # every image once an epoch
        rows = torch.cat([z_a for z_a, *_ in epoch])
        assert torch.equal(rows.unique(dim=0), pixel_rows("train").unique(dim=0))


def test_the_order_of_images_changes_with_epoch_and_seed_and_with_nothing_else(tmp_path, listening):
    orders = []
    for name, options in (("a", {}), ("b", {}), ("c", {"seed": 4})):
        trained(tmp_path / name, **options)
        orders.append(torch.cat([z_a for z_a, *_ in listening[-6:]]))
    assert torch.equal(orders[0], orders[1]) and not torch.equal(orders[0], orders[2])
    assert not torch.equal(orders[0][:96], orders[0][96:])


def test_each_view_is_drawn_by_itself_and_similarities_are_of_the_two(tmp_path, listening):
    run = trained(tmp_path / "run", views="weak,scale=1,flip=0.5", batch_size=96, epochs=1, head=WithoutLoud)
    z_a, z_b, labels = listening[-1]
    images, views = pixel_rows("train").reshape(-1, 4, 4), (z_a, z_b)
    shown = [[image.flatten()[4:], image.flip(1).flatten()[4:]] for image in images]
    options = torch.stack([torch.stack(pair) for pair in shown])  # (N, 2, 12)
    matches = [(view[:, None, None] - options).abs().amax(3) < 1e-6 for view in views]  # (N, N, 2)
    for match in matches:  # each row is one of the images, as it is or mirrored, and about half are mirrored
        assert match.any(2).any(1).all() and 0.3 < float(match[:, :, 1].any(1).float().mean()) < 0.8
    assert (matches[0].any(2) & matches[1].any(2)).any(1).all()  # both views are of one image
    differing = float((z_a - z_b).abs().amax(1).gt(1e-6).float().mean())
    assert 0.3 < differing < 0.7
    arrays = np.load(run.path / "arrays.npz")
    cosine = F.cosine_similarity(z_a.double(), z_b.double()).mean()
    assert arrays["positive_similarity"].tolist() == pytest.approx([float(cosine)], rel=1e-5)
    assert len(labels) == 96


def test_the_views_of_an_image_change_from_epoch_to_epoch(tmp_path, listening):
    trained(tmp_path / "run", views="weak,scale=1,flip=0.5", batch_size=96)
    # The codes of an image are in its upper half, so the label tells whether column 0 or 3 shows it.
    rows = [torch.stack([z_a[:, :4].argmax(1), labels]) for z_a, _, labels in listening[-2:]]
    mirrored = [(row[0] != row[1]).float() for row in rows]
    assert all(0.3 < float(share.mean()) < 0.7 for share in mirrored)
    # The order of images changes too, so what is compared is the mask by itself, batch row by batch row.
    assert not torch.equal(*mirrored)


def test_the_recorded_loss_is_that_of_the_last_step(tmp_path, listening):
    run = trained(tmp_path / "run")
    assert run.record.runs[0].loss == len(listening)


class Grey(Source):
    """Dark and light images, which crops do not change; three quarters of the test labels are wrong."""

    def read(self, split, image_size):
        number = np.arange(64)
        label = number % 2
        tone = label if split == "train" else np.where(number // 2 % 4 == 0, label, 1 - label)
        images = np.broadcast_to((200 * tone).astype(np.uint8)[:, None, None, None], (64, 4, 4, 1))
        return ImageSet(
            images.copy(), {"label": label.astype(np.int64)}, {"label": ("dark", "light")}, split=split
        )


def test_the_sgd_probe_learns_from_the_training_images_and_is_scored_on_the_test_images(tmp_path):
    options = SETTINGS | {"batch_size": 64, "epochs": 1, "sgd_probe.epochs": 2, "sgd_probe.lr": 10.0}
    run = train("digits", data=Grey, out=tmp_path / "run", head="none", **options)
    scores = [score.value for score in run.record.runs[0].scores if score.probe == "sgd"]
    assert scores == [0.25, 0.25] and run.record.runs[0].probes["h"].linear == 0.25


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
