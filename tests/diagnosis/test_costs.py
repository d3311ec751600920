"""What operations cost the labels: colours as labels, an encoder that is blind to them, and equal draws."""

import numpy as np
import pytest
import torch
from torch import nn

from fullrank import diagnose, view_pipeline
from fullrank.data import ImageSet
from fullrank.diagnosis.costs import probe_operations
from fullrank.record.operations import moves_most, operation_costs

# Weak colours on a grey that varies: brightness moves the pixels far more than anything that changes colours.
COLOURS = np.array([[30, -15, -15], [-15, 30, -15], [-15, -15, 30]])


def coloured(count, seed):
    """Images of one colour and a little noise; the label is the colour."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    greys = rng.uniform(40, 120, (count, 1, 1, 1))
    pixels = greys + COLOURS[labels][:, None, None] + rng.normal(0, 4, (count, 8, 8, 3))
    return ImageSet(pixels.clip(0, 255).astype(np.uint8), {"label": labels}, {"label": ["r", "g", "b"]})


@pytest.fixture(scope="module")
def sets():
    return coloured(150, 0), coloured(150, 1)


class Pixels(nn.Module):
    """All pixels, or their mean over channels alone."""

    def __init__(self, blind=False):
        super().__init__()
        self.blind = blind

    def forward(self, x):
        return (x.mean(1) if self.blind else x).flatten(1)


@pytest.mark.parametrize("culprit", ["grey", "hue"])
def test_the_operation_that_takes_the_colour_is_named_and_brightness_is_not(sets, culprit):
    options = {"grey": "hue=0,grey=0.5", "hue": "hue=0.5,grey=0"}[culprit]
    views = view_pipeline(
        f"simclr,scale=1,flip=0,brightness=0.6,contrast=0,saturation=0,blur=0,{options}",
        image_size=8,
        channels=3,
    )
    probed = probe_operations(Pixels(), views, *sets)
    certain = [(cost.operation, cost.place) for cost in operation_costs(probed) if cost.certain]
    assert sorted(certain) == [(culprit, "h"), (culprit, "pixels")]
    for each in probed:
        assert 0 <= each.before <= 1 and each.tested == 150
        if culprit in each.change:
            assert each.linear > 0.95 and each.linear - each.before > 0.2
        # For 0 and 1 the paired error is at most that of two independent sets of images.
        spread = each.linear * (1 - each.linear) + each.before * (1 - each.before)
        assert each.error <= (spread / 149) ** 0.5 + 0.01


def test_an_encoder_that_is_blind_to_colour_shows_the_cost_on_pixels_alone(sets):
    views = view_pipeline("simclr,scale=1,flip=0,jitter=0,grey=0.5,blur=0", image_size=8, channels=3)
    probed = {each.place: each for each in probe_operations(Pixels(blind=True), views, *sets)}
    assert probed["pixels"].linear - probed["pixels"].before > 0.2
    assert abs(probed["h"].linear - probed["h"].before) < 0.15


def test_an_operation_that_changes_nothing_costs_nothing_since_all_others_are_drawn_alike(sets):
    pale = tuple(
        ImageSet(np.repeat(part.images[..., :1], 3, 3), part.labels, part.class_names) for part in sets
    )
    views = view_pipeline("simclr,scale=0.5,jitter=0,grey=0.5,blur=0.5", image_size=8, channels=3)
    probed = probe_operations(Pixels(), views, *pale)
    for each in probed:
        if each.change == "views without grey":  # the images are grey
            assert (each.linear, each.error) == pytest.approx((each.before, 0), abs=0.01)


def test_without_operations_nothing_is_probed(sets):
    assert (
        probe_operations(Pixels(), view_pipeline("weak,scale=1,flip=0", image_size=8, channels=3), *sets)
        == []
    )


def test_unlabelled_images_take_no_part(sets):
    train, test = sets
    labels = test.labels["label"].copy()
    labels[::3] = -1
    part = ImageSet(test.images, {"label": labels}, test.class_names)
    views = view_pipeline("simclr,scale=1,flip=0,jitter=0,grey=0.5,blur=0", image_size=8, channels=3)
    assert {each.tested for each in probe_operations(Pixels(), views, train, part)} == {100}


def test_a_diagnosis_keeps_apart_what_moves_and_what_costs(sets, tmp_path):
    data = tuple(
        [(torch.from_numpy(image).permute(2, 0, 1) / 255, int(label)) for image, label in zip(
            part.images, part.labels["label"], strict=True)]
        for part in sets
    )  # fmt: skip
    views = "simclr,scale=1,flip=0,brightness=0.6,contrast=0,saturation=0,hue=0,blur=0,grey=0.5"
    entry = diagnose(Pixels(), data=data, views=views, out=tmp_path / "d").entry
    assert moves_most(entry.augmentation, "h").operation == "brightness"
    costs = operation_costs(entry.probed_again)
    assert {(cost.operation, cost.place) for cost in costs if cost.certain} == {
        ("grey", "h"),
        ("grey", "pixels"),
    }
