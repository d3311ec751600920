"""Attention maps against objects: properties of the Jaccard index, and subsets of heads one by one."""

from itertools import combinations

import pytest
import torch
from refusals import refuses

from fullrank.errors import UsageError
from fullrank.segmentation import attention_mask, jaccard, overlap, permuted_jaccard

GENERATOR = torch.Generator().manual_seed(0)
ATTENTION = torch.rand(6, 4, 3, 3, generator=GENERATOR)
MASKS = torch.randint(0, 3, (6, 9, 12), generator=GENERATOR)
MASKS[1] = 0
MASKS[2, :4], MASKS[2, 4:] = 255, 0
MASKS[3, :, :5] = 255


def nearest(chosen, height, width):
    """Which pixels belong to the chosen patches (..., h, w), by indices."""
    rows = torch.arange(height) * chosen.shape[-2] // height
    columns = torch.arange(width) * chosen.shape[-1] // width
    return chosen[..., rows, :][..., columns]


def by_pixels(attention, mask, mass):
    """The overlap of each object and each head, from pixels instead of counts: (objects, heads)."""
    chosen = attention_mask(attention.flatten(1), mass).reshape(attention.shape)
    counted = mask != 255
    pixels = nearest(chosen, *mask.shape)[:, counted]
    objects = [value for value in mask.unique().tolist() if value not in (0, 255)]
    return torch.stack([overlap(pixels, (mask == value)[counted]) for value in objects])


def test_the_mask_is_the_least_set_that_holds_the_mass():
    rows = torch.rand(50, 9, generator=GENERATOR).double()
    mask, shares = attention_mask(rows, 0.7), rows / rows.sum(1, keepdim=True)
    held = (shares * mask).sum(1)
    least = shares.where(mask, torch.inf).amin(1)
    assert (held >= 0.7 - 1e-12).all() and (held - least < 0.7).all()
    assert (least >= shares.where(~mask, 0).amax(1)).all()
    assert torch.equal(attention_mask(rows * 1e-20, 0.7), mask)


@pytest.mark.parametrize(("mass", "count"), [(0.6, 3), (0.61, 4), (1.0, 5), (1e-9, 1)])
def test_of_equal_weights_the_first_are_taken_and_rounding_takes_no_further_one(mass, count):
    expected = [[True] * count + [False] * (5 - count)] * 2
    assert attention_mask(torch.full((2, 5), 0.1), mass).tolist() == expected


def test_weights_of_zero_are_in_no_mask():
    assert attention_mask(torch.tensor([0.0, 0.3, 0.0, 0.7]), 1.0).tolist() == [False, True, False, True]


@pytest.mark.parametrize("mass", [0.6, 0.9])
def test_jaccard_counts_what_pixels_say(mass):
    found = jaccard(ATTENTION, MASKS, mass)
    assert found[1:3].isnan().all()  # without an object
    for image in (0, 3, 4, 5):
        assert found[image] == by_pixels(ATTENTION[image], MASKS[image], mass).amax(1).mean()


@pytest.mark.parametrize("heads", [1, 2, 3, 4])
def test_the_expected_best_of_some_heads_is_the_mean_over_their_subsets(heads):
    found = jaccard(ATTENTION, MASKS, 0.6, heads)
    for image in (0, 3, 4, 5):
        overlaps = by_pixels(ATTENTION[image], MASKS[image], 0.6)
        best = [overlaps[:, list(some)].amax(1) for some in combinations(range(4), heads)]
        assert found[image].item() == pytest.approx(torch.stack(best).mean().item(), abs=1e-12)


def test_attention_on_the_object_alone_has_an_index_of_one():
    truth = torch.zeros(1, 4, 4, dtype=torch.uint8)
    truth[0, 1:3, 2:] = 7
    attention = truth.float()[:, None]
    assert jaccard(attention, truth, 1.0).item() == 1
    # At a lower mass, equal weights leave the last patches of the object out.
    assert jaccard(attention, truth, 0.6).item() == 0.75


def test_images_heads_and_the_names_of_objects_may_be_in_any_order():
    found = jaccard(ATTENTION, MASKS, heads=2).nan_to_num()
    named = MASKS.where(MASKS == 255, torch.tensor([0, 90, 7, *[0] * 253])[MASKS])
    assert torch.equal(jaccard(ATTENTION.flip(1), named, heads=2).nan_to_num(), found)
    assert torch.equal(jaccard(ATTENTION.flip(0), MASKS.flip(0), heads=2).nan_to_num().flip(0), found)
    assert torch.equal(jaccard(ATTENTION.flip(3), MASKS.flip(2), heads=2).nan_to_num(), found)


def test_masks_of_more_pixels_change_nothing_and_many_images_are_worked_on_in_parts(monkeypatch):
    found = jaccard(ATTENTION, MASKS).nan_to_num()
    assert torch.equal(jaccard(ATTENTION, MASKS.repeat_interleave(2, 1)).nan_to_num(), found)
    monkeypatch.setattr("fullrank.segmentation.overlaps._TOGETHER", 250)
    assert torch.equal(jaccard(ATTENTION, MASKS).nan_to_num(), found)


def test_a_uniform_map_equals_its_permutations_and_a_map_on_the_object_exceeds_them():
    uniform = torch.full_like(ATTENTION, 0.25)
    gap = jaccard(uniform, MASKS) - permuted_jaccard(uniform, MASKS)
    assert gap.nan_to_num().abs().max() < 1e-12
    truth = torch.zeros(40, 4, 4, dtype=torch.long)
    truth[:, 1:3, 1:3] = 1
    attention = truth.float()[:, None]
    # Four of 16 patches at random: the mean over the hypergeometric number that they share with the object.
    ways = [495, 880, 396, 48, 1]  # C(4, i) C(12, 4 - i); of C(16, 4) = 1820
    expected = sum(each * i / (8 - i) for i, each in enumerate(ways)) / 1820
    control = permuted_jaccard(attention, truth, 1.0)
    assert control.mean().item() == pytest.approx(expected, abs=4 * 0.13 / 800**0.5)
    assert jaccard(attention, truth, 1.0).eq(1).all() and control.max() < 0.5


def test_the_control_permutes_each_head_by_itself():
    """Two heads that share a map have two permutations, so the better of them beats one of them."""
    one = torch.rand(200, 1, 3, 3, generator=GENERATOR)
    masks = torch.randint(0, 2, (200, 3, 3), generator=GENERATOR)
    masks[:, 0, 0] = 1
    control, better = (permuted_jaccard(each, masks, draws=2) for each in (one, one.repeat(1, 2, 1, 1)))
    assert better.mean() > control.mean() + 0.03
    assert torch.equal(permuted_jaccard(one, masks, draws=2), control)


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        (lambda: attention_mask(ATTENTION, 0), ["mass", 0, 1]),
        (lambda: attention_mask(ATTENTION, 1.5), ["mass", 1.5]),
        (lambda: attention_mask(torch.zeros(2, 3), 0.6), ["0", "softmax"]),
        (lambda: attention_mask(torch.tensor([0.5, -0.1]), 0.6), ["0"]),
        (lambda: attention_mask(torch.tensor([0.5, torch.nan]), 0.6), ["finite"]),
        (lambda: jaccard(ATTENTION, MASKS, heads=5), ["heads", 5, 4]),
        (lambda: jaccard(ATTENTION, MASKS, heads=0), ["heads", 0, 1]),
        (lambda: jaccard(ATTENTION, MASKS[:5]), ["(6, 4, 3, 3)", "(5, 9, 12)"]),
        (lambda: jaccard(ATTENTION[0], MASKS), ["(4, 3, 3)"]),
        (lambda: jaccard(ATTENTION, MASKS.float()), ["float32", "integers"]),
        (lambda: permuted_jaccard(ATTENTION, MASKS, draws=0), ["draws", 0, 1]),
    ],
)
def test_what_cannot_be_measured_is_refused(call, parts):
    with refuses(UsageError, *parts):
        call()


def test_no_image_has_no_index():
    assert jaccard(ATTENTION[:0], MASKS[:0]).shape == (0,)
