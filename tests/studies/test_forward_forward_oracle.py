"""Forward-Forward against an oracle that never saw the code: goodness, losses, slopes, labels, pretexts."""

import math
from collections import Counter

import forward_forward_oracle as oracle
import numpy as np
import pytest
import torch

from fullrank.studies.forward_forward import layers
from fullrank.studies.forward_forward.layers import LayerNet, goodness, layer_loss, threshold
from fullrank.studies.forward_forward.pretexts import (
    neutral_label,
    pretext_named,
    right_labels,
    write_label,
    wrong_labels,
)
from fullrank.studies.forward_forward.training import (
    METHODS,
    PretextBatch,
    PretextImages,
    loss_of,
    predicted,
)

ROWS, INPUTS, WIDTH, DEPTH, CLASSES, LEVEL = 5, 12, 6, 4, 3, 0.5
GUARD = layers._EPSILON


def random_rows(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def net_of(seed: int = 0) -> LayerNet:
    return LayerNet(INPUTS, WIDTH, DEPTH, CLASSES, seed).double()


def weights_of(net: LayerNet) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(each.weight.detach().numpy(), each.bias.detach().numpy()) for each in net.hidden]


def batch_of(seed: int = 1) -> PretextBatch:
    rows = [torch.from_numpy(random_rows(ROWS, INPUTS, seed=seed + each)) for each in range(3)]
    return PretextBatch(*rows, torch.arange(ROWS) % CLASSES)


@pytest.mark.parametrize("kind", ["norm", "squares"])
def test_goodness_and_layer_loss_equal_the_oracle(kind):
    right, wrong = random_rows(ROWS, WIDTH), 40 * random_rows(ROWS, WIDTH, seed=1)
    found = [goodness(torch.from_numpy(rows), kind) for rows in (right, wrong)]
    expected = [oracle.goodness(rows, kind) for rows in (right, wrong)]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.numpy(), other, rtol=1e-12)
    loss = float(layer_loss(*found, theta=1.7))
    assert loss == pytest.approx(oracle.layer_loss(*expected, 1.7), rel=1e-12)


def losses_of(weights: list, batch: PretextBatch, kind: str) -> list[float]:
    """The loss of every layer by the oracle."""
    theta = LEVEL * math.sqrt(WIDTH) if kind == "norm" else LEVEL**2 * WIDTH
    passes = [oracle.hidden_layers(weights, rows.numpy(), GUARD) for rows in (batch.positive, batch.negative)]
    return [
        oracle.layer_loss(oracle.goodness(right, kind), oracle.goodness(wrong, kind), theta)
        for right, wrong in zip(*passes, strict=True)
    ]


@pytest.mark.parametrize("name", ["FF, norm", "FF, squares", "every layer", "last layer"])
def test_the_loss_of_a_method_is_a_sum_of_the_oracles_layer_losses(name):
    method, net, batch = METHODS[name], net_of(), batch_of()
    each = losses_of(weights_of(net), batch, method.goodness)
    expected = each[-1] if name == "last layer" else sum(each)
    assert loss_of(net, method, batch, LEVEL).item() == pytest.approx(expected, rel=1e-10)


def directional(loss, weights: list, layer: int, direction: tuple, step: float = 1e-5) -> float:
    """The slope of `loss(weights)` along a direction of one layer, by a central difference."""
    ends = []
    for sign in (1, -1):
        moved = list(weights)
        moved[layer] = tuple(
            old + sign * step * way for old, way in zip(weights[layer], direction, strict=True)
        )
        ends.append(loss(moved))
    return (ends[0] - ends[1]) / (2 * step)


@pytest.mark.parametrize("name", ["FF, norm", "FF, squares", "every layer", "last layer"])
@pytest.mark.parametrize("layer", range(DEPTH))
def test_slopes_are_finite_differences_of_a_layers_own_loss_or_of_all(name, layer):
    method, net, batch = METHODS[name], net_of(), batch_of()
    loss_of(net, method, batch, LEVEL).backward()
    weights = weights_of(net)
    direction = tuple(random_rows(*each.shape, seed=7) for each in weights[layer])
    found = sum(
        float((gradient.numpy() * way).sum())
        for gradient, way in zip(
            (net.hidden[layer].weight.grad, net.hidden[layer].bias.grad), direction, strict=True
        )
    )

    def loss(moved: list) -> float:
        each = losses_of(moved, batch, method.goodness)
        if method.separate:
            return each[layer]  # no other layer's loss reaches these weights
        return each[-1] if name == "last layer" else sum(each)

    assert found == pytest.approx(directional(loss, weights, layer, direction), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("name", ["FF, norm", "last layer"])
def test_the_label_is_that_of_the_highest_mean_goodness_of_the_last_layers(name):
    net, method = net_of(3), METHODS[name]
    views = np.abs(random_rows(16, 1, 3, 4, seed=4))

    def goodness_of(label: int) -> list[np.ndarray]:
        rows = oracle.with_label(views, label, CLASSES).reshape(len(views), -1)
        return [oracle.goodness(each, "norm") for each in oracle.hidden_layers(weights_of(net), rows, GUARD)]

    expected = oracle.classify(goodness_of, CLASSES, last=1 if name == "last layer" else 3)
    assert len(set(expected)) > 1
    assert predicted(net, method, torch.from_numpy(views), CLASSES).tolist() == expected.tolist()


def test_the_threshold_is_the_goodness_of_rows_at_the_level():
    rows = torch.full((1, WIDTH), LEVEL, dtype=torch.float64)
    for kind in ("norm", "squares"):
        assert threshold(kind, WIDTH, LEVEL) == pytest.approx(float(goodness(rows, kind)))


def test_label_pixels_equal_the_oracle_on_images_of_three_channels():
    images = np.abs(random_rows(3, 3, 2, 4))
    for label in range(6):
        found = write_label(torch.from_numpy(images), torch.full((3,), label), 6)
        np.testing.assert_array_equal(found.numpy(), oracle.with_label(images, label, 6))
    found = neutral_label(torch.from_numpy(images), 6)
    np.testing.assert_array_equal(found.numpy(), oracle.with_label(images, None, 6, neutral=1 / 6))


VERSIONS = {
    "rotation": oracle.rotations,
    "flip": lambda image: oracle.flips(image, both=False),
    "jigsaw": oracle.jigsaws,
}


def odd_images() -> np.ndarray:
    """Images without a symmetry, blank, of equal quarters, the same after half a turn, a flip; half blank."""
    plain = np.random.default_rng(0).integers(1, 100, (2, 4, 4))
    quarter = np.tile(plain[:, :2, :2], (1, 2, 2))
    turned = plain + np.rot90(plain, 2, axes=(1, 2))
    mirrored = plain + plain[:, :, ::-1]
    two_blank = plain * (np.arange(4) < 2)
    return np.array([plain, 0 * plain, quarter, turned, mirrored, two_blank]).astype(np.uint8)


@pytest.mark.parametrize("name", VERSIONS)
def test_pretexts_and_the_labels_that_are_right_by_accident_equal_the_oracle(name):
    images, pretext = odd_images(), pretext_named(name)
    views = pretext.all_of(torch.from_numpy(images)).numpy()
    right = right_labels(torch.from_numpy(images), pretext).numpy()
    for image, made, rights in zip(images, views, right, strict=True):
        versions = VERSIONS[name](image)
        np.testing.assert_array_equal(made, np.array(versions))
        for label in range(pretext.count):
            assert np.flatnonzero(~rights[label]).tolist() == oracle.wrong_labels(versions, label)


def test_wrong_labels_are_drawn_evenly_and_never_right_by_accident():
    images, pretext = torch.from_numpy(odd_images()), pretext_named("rotation")
    half_turn = right_labels(images, pretext)[3, 1]  # under a quarter turn it looks as under three
    assert half_turn.tolist() == [False, True, False, True]
    drawn = wrong_labels(half_turn.expand(2000, -1), torch.Generator().manual_seed(0))
    counts = Counter(drawn.tolist())
    assert sorted(counts) == [0, 2] and abs(counts[0] - 1000) < 5 * math.sqrt(500)
    blank = right_labels(images, pretext)[1, 0]
    assert wrong_labels(blank[None], torch.Generator()).tolist() == [-1]


@pytest.mark.parametrize("name", ["rotation", "jigsaw"])
def test_a_batch_shows_one_transformed_image_with_a_right_and_a_wrong_label(name):
    images, pretext = torch.from_numpy(odd_images()), pretext_named(name)
    own = PretextImages.of(images, pretext, pad=3)
    rows = torch.tensor([0, 1, 2, 3, 4, 5] * 4)
    batch = PretextBatch.draw(own, rows, torch.Generator().manual_seed(0))
    kept = [row for row in rows.tolist() if row != 1 and not (row == 2 and name == "jigsaw")]
    assert len(batch.labels) == len(kept)  # a label is wrong for all but these
    for number, (row, label) in enumerate(zip(kept, batch.labels.tolist(), strict=True)):
        versions = VERSIONS[name](odd_images()[row])
        view = np.pad(versions[label] / 255, ((0, 0), (3, 3), (3, 3)))[None]
        shown = [oracle.with_label(view, each, pretext.count).ravel() for each in range(pretext.count)]
        np.testing.assert_allclose(batch.positive[number].numpy(), shown[label], atol=1e-7)
        wrong = [
            each
            for each in range(pretext.count)
            if np.allclose(batch.negative[number].numpy(), shown[each], atol=1e-7)
        ]
        assert len(wrong) == 1 and wrong[0] in oracle.wrong_labels(versions, label)


def test_a_row_that_no_unit_answers_to_gives_finite_slopes():
    net = net_of()
    with torch.no_grad():
        net.hidden[0].bias.fill_(-100.0)  # the second layer reads zeros
    batch = batch_of()
    for name in ("FF, norm", "FF, squares", "every layer", "last layer", "softmax"):
        net.zero_grad()
        loss_of(net, METHODS[name], batch, LEVEL).backward()
        slopes = [each.grad for each in net.parameters() if each.grad is not None]
        assert all(bool(slope.isfinite().all()) for slope in slopes), name
