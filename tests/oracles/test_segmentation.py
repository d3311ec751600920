"""Emergent segmentation against its oracle, which goes through patches, pixels, heads and permutations."""

import numpy as np
import pytest
import torch
from oracles import redundancy as draws_oracle, segmentation as oracle

from fullrank.batch import as_float
from fullrank.data import ImageSet
from fullrank.encoders.attention import cls_attention
from fullrank.encoders.tiny_vit import TinyViT
from fullrank.evaluation.segmentation import segmentation
from fullrank.record.scores import ABOVE, ALL_HEADS, AREA_SHARE, GRADIENT_SHARE, JACCARD, PERMUTED
from fullrank.segmentation import (
    attention_mask,
    foreground_area,
    foreground_share,
    gradient_draws,
    jaccard,
    overlap,
    permuted_jaccard,
)


def attention_of(seed: int, *shape: int) -> np.ndarray:
    """Weights of 0 or more that do not sum to 1; every other case has many equal ones."""
    random = np.random.default_rng(seed)
    return random.integers(1, 4, shape) / 8 if seed % 2 else random.exponential(size=shape) ** 3


def masks_of(seed: int, count: int, height: int, width: int) -> np.ndarray:
    """Masks of up to three objects and pixels that are left out; the first has no object."""
    masks = np.random.default_rng(seed).choice([0, 0, 0, 1, 7, 254, 255], (count, height, width))
    masks[0] = np.where(masks[0] == 255, 255, 0)
    return masks


@pytest.mark.parametrize("mass", [0.01, 0.5, 0.6, 0.9, 1.0])
def test_attention_mask_equals_the_oracle(mass):
    for seed in range(12):
        attention = attention_of(seed, 3, 10)
        found = attention_mask(torch.from_numpy(attention), mass).numpy()
        np.testing.assert_array_equal(found, [oracle.attention_mask(row, mass) for row in attention])


@pytest.mark.parametrize(
    ("patches", "mass", "size"), [(10, 0.6, 6), (10, 0.9, 9), (20, 0.6, 12), (49, 1.0, 49)]
)
def test_attention_mask_of_even_attention_has_the_least_number_of_patches(patches, mass, size):
    even = np.full(patches, 1 / patches)
    for scale in (1.0, 0.7, 1e-6):
        found = attention_mask(torch.from_numpy(scale * even), mass)
        assert found.tolist() == oracle.attention_mask(scale * even, mass).tolist()
        assert found.tolist() == [True] * size + [False] * (patches - size)


def test_overlap_equals_the_oracle():
    masks = np.random.default_rng(0).random((2, 30, 9)) < 0.4
    masks[0, 0], masks[1, 0, 0] = False, True
    found = overlap(*(torch.from_numpy(mask) for mask in masks)).numpy()
    np.testing.assert_allclose(
        found, [oracle.overlap(*pair) for pair in zip(*masks, strict=True)], rtol=1e-12
    )


SIZES = {
    "whole multiples": (4, 6),
    "other sizes": (5, 7),
    "one pixel a patch": (2, 3),
    "fewer pixels": (3, 2),
}


@pytest.mark.parametrize("mass", [0.6, 0.9])
@pytest.mark.parametrize("size", SIZES)
def test_jaccard_equals_the_oracle_for_any_number_of_heads(size, mass):
    for seed, heads in enumerate((None, 1, 2, 3)):
        attention, masks = attention_of(seed, 4, 3, 2, 3), masks_of(seed, 4, *SIZES[size])
        found = jaccard(torch.from_numpy(attention), torch.from_numpy(masks), mass, heads).numpy()
        np.testing.assert_allclose(found, oracle.jaccard(attention, masks, mass, heads), rtol=1e-9)
        assert np.isnan(found[0])


def test_jaccard_of_one_head_equals_the_oracle():
    attention, masks = attention_of(0, 3, 1, 3, 3), masks_of(1, 3, 6, 6)
    found = jaccard(torch.from_numpy(attention), torch.from_numpy(masks), 0.6, 1).numpy()
    np.testing.assert_allclose(found, oracle.jaccard(attention, masks), rtol=1e-9)


# Of the second map, equal values are permuted too, and then the lower index is still the first.
@pytest.mark.parametrize("maps", [[[8, 3, 2, 1], [1, 4, 1, 9]], [[2, 2, 2, 1], [3, 1, 1, 1]]])
@pytest.mark.parametrize("heads", [1, 2])
def test_permuted_control_has_the_expectation_over_all_permutations(heads, maps):
    attention = np.array(maps, dtype=float).reshape(2, 2, 2)
    mask = np.array([[1, 1, 0, 2], [1, 0, 0, 255], [0, 0, 3, 0], [2, 2, 0, 0]])
    expected = oracle.permuted_by_enumeration(attention, mask, 0.6, heads)
    images = 500
    many = torch.from_numpy(attention).expand(images, 2, 2, 2)
    found = permuted_jaccard(many, torch.from_numpy(mask).expand(images, 4, 4), 0.6, heads, draws=4).numpy()
    error = found.std() / np.sqrt(images)
    assert error < 0.01
    assert abs(found.mean() - expected) < 4 * error


def test_permuted_control_permutes_heads_and_images_independently():
    # One patch of four each: two heads cover the object with 1 - (3/4)^2 where they are independent.
    maps = torch.tensor([1.0, 0, 0, 0]).reshape(1, 1, 2, 2).expand(400, 2, 2, 2)
    masks = torch.tensor([[9, 0], [0, 0]]).expand(400, 2, 2)
    expected = oracle.permuted_by_enumeration(maps[0].numpy(), masks[0].numpy(), 0.6, 2)
    assert expected == pytest.approx(7 / 16, rel=1e-12)
    found = permuted_jaccard(maps, masks, draws=1)
    assert set(found.tolist()) == {0.0, 1.0}
    assert abs(found.mean().item() - expected) < 4 * np.sqrt(7 / 16 * 9 / 16 / 400)


@pytest.mark.parametrize("several", [False, True])
def test_foreground_share_equals_the_oracle(several):
    random = np.random.default_rng(several)
    gradients, masks = random.normal(size=(3, 4, 2, 5, 6)), masks_of(3, 4, 5, 6)
    gradients = gradients if several else gradients[0]
    found = foreground_share(torch.from_numpy(gradients), torch.from_numpy(masks)).numpy()
    np.testing.assert_allclose(found, oracle.foreground_share(gradients, masks), rtol=1e-9)
    found = foreground_area(torch.from_numpy(masks)).numpy()
    np.testing.assert_allclose(found, oracle.area_share(masks), rtol=1e-9)


def test_gradient_draws_of_a_linear_net_are_signed_sums_of_its_rows():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3)).double()
    found = gradient_draws(net, torch.rand(2, 3, 2, 2, dtype=torch.float64), draws=8).numpy()
    weight = net[1].weight.detach().numpy()
    signs = np.array([[a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)])
    sums = (signs @ weight).reshape(8, 3, 2, 2)
    for draw in found:
        np.testing.assert_allclose(draw[0], draw[1], rtol=1e-12)
        assert min(np.abs(draw[0] - each).max() for each in sums) < 1e-12


def test_scores_of_a_net_with_five_heads_are_means_of_the_oracle_over_images_with_an_object():
    masks, random = masks_of(5, 6, 12, 12).astype(np.uint8), np.random.default_rng(0)
    pixels = random.integers(0, 256, (6, 12, 12, 3), dtype=np.uint8)
    images = ImageSet(pixels, {"label": np.arange(6) % 2}, {"label": ("a", "b")}, split="test", masks=masks)
    net = TinyViT(4, depth=2, width=10, heads=5, image_size=12).eval()
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    found = {(one.statistic, one.subject): one for one in segmentation(net, images).scores}
    shown = as_float(images.tensor())
    attention, gradients = cls_attention(net, shown).numpy(), gradient_draws(net, shown).numpy()
    expected = {
        (JACCARD, "0.6"): oracle.jaccard(attention, masks, 0.6, 3),
        (JACCARD, "0.9"): oracle.jaccard(attention, masks, 0.9, 3),
        (ALL_HEADS, "0.6"): oracle.jaccard(attention, masks),
        (GRADIENT_SHARE, ""): oracle.foreground_share(gradients, masks),
        (AREA_SHARE, ""): oracle.area_share(masks),
    }
    for key, values in expected.items():
        with_object = values[1:].tolist()
        assert found[key].value == pytest.approx(sum(with_object) / 5, rel=1e-5)
        ends = found[key].low, found[key].high
        assert ends == pytest.approx(draws_oracle.interval(with_object), rel=1e-4)
    for mass in ("0.6", "0.9"):
        above = found[JACCARD, mass].value - found[PERMUTED, mass].value
        assert found[ABOVE, mass].value == pytest.approx(above, rel=1e-9)
