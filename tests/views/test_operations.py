"""What is drawn: ranges, probabilities, distributions."""

import math

import pytest
import torch
from refusals import refuses
from scipy.stats import ks_2samp
from torchvision.transforms.v2 import RandomResizedCrop

from fullrank.errors import UsageError
from fullrank.views import Blur, Crop, Grey, Jitter, Solarize, step_generator


def drawn(operation, count=4000, source=(32, 32)):
    return operation.sample(count, step_generator(0, 0, 0), source)


@pytest.mark.parametrize("source", [(32, 32), (28, 60), (200, 90), (8, 8)], ids=str)
@pytest.mark.parametrize("scale", [0.08, 0.5])
def test_boxes_are_distributed_as_torchvisions(source, scale):
    boxes = drawn(Crop(16, scale), 3000, source)["crop"]
    torch.manual_seed(0)
    theirs = RandomResizedCrop(16, scale=(scale, 1.0))
    image = [torch.empty(1, *source)]
    keys = ("top", "left", "height", "width")
    draws = [theirs.make_params(image) for _ in range(3000)]
    for column, key in enumerate(keys):
        pvalue = ks_2samp(boxes[:, column].numpy(), [draw[key] for draw in draws]).pvalue
        assert pvalue > 1e-3, f"{key} is drawn differently from torchvision's (p = {pvalue:.1e})"


def test_boxes_lie_inside_and_keep_the_limits_of_area_and_ratio():
    top, left, tall, wide = drawn(Crop(16, 0.3), source=(60, 100))["crop"].unbind(1)
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + tall <= 60).all() and (left + wide <= 100).all()
    area, ratio = tall * wide / 6000, wide / tall
    assert area.min() > 0.3 - 0.02 and area.max() <= 1
    assert ratio.min() > 3 / 4 - 0.03 and ratio.max() < 4 / 3 + 0.03


@pytest.mark.parametrize(("source", "box"), [((6, 12), [0, 2, 6, 8]), ((13, 6), [2, 0, 8, 6])], ids=str)
def test_where_nothing_fits_the_largest_centred_box_is_taken(source, box):
    theirs = RandomResizedCrop(4, scale=(0.9999, 1.0)).make_params([torch.empty(1, *source)])
    assert [theirs[key] for key in ("top", "left", "height", "width")] == box
    assert drawn(Crop(4, 0.9999), 3, source)["crop"].tolist() == [box] * 3


@pytest.mark.parametrize("probability", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("kind", [Grey, Blur, Solarize, lambda p: Crop(8, 0.5, flip=p)])
def test_the_probability_is_kept(kind, probability):
    operation = kind(probability)
    values = drawn(operation)[operation.names[-1]]
    share = (values > 0).double().mean().item()
    assert abs(share - probability) <= 4 * math.sqrt(probability * (1 - probability) / 4000)


def test_blur_is_between_a_tenth_and_two_pixels():
    sigmas = drawn(Blur(0.5))["blur"]
    hit = sigmas[sigmas > 0]
    assert 0.1 <= hit.min() < 0.12 and 1.98 < hit.max() <= 2.0
    assert abs(hit.mean() - 1.05) < 0.05


def test_jitter_hits_with_all_or_none_and_stays_in_its_ranges():
    jitter = Jitter(0.4, 1.5, 0.2, 0.1, probability=0.8)
    values = drawn(jitter)
    limits = {"brightness": (0.6, 1.4), "contrast": (0.0, 2.5), "saturation": (0.8, 1.2), "hue": (-0.1, 0.1)}
    hits = {name: values[name] != (0 if name == "hue" else 1) for name in limits}
    for name, (least, most) in limits.items():
        assert torch.equal(hits[name], hits["brightness"])
        margin = 0.01 * (most - least)
        assert least <= values[name].min() < least + margin
        assert most - margin < values[name].max() <= most + 1e-6
    assert abs(hits["hue"].double().mean() - 0.8) < 0.03
    hit = torch.stack([values[name][hits["hue"]] for name in limits])
    assert (torch.corrcoef(hit) - torch.eye(4)).abs().max() < 0.1


def test_jitter_draws_every_order():
    jitter = Jitter(0.4, 0.4, 0.4, 0.1)
    orders = {tuple(jitter.sample(1, step_generator(0, 0, step), (8, 8))) for step in range(300)}
    assert len(orders) == 24


def test_the_order_drawn_is_the_order_applied():
    images = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    values = {"brightness": torch.tensor([1.4]), "contrast": torch.tensor([0.5])}
    jitter = Jitter(0.5, 0.5, 0, 0)
    one = jitter.apply(images.clone(), values)
    other = jitter.apply(images.clone(), dict(reversed(values.items())))
    assert one.amax() < 1 and other.amax() == 1, "brightness last saturates, contrast last pulls it back"


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda: Crop(8, scale=0.0), ["scale=0.0", 0, 1]),
        (lambda: Crop(8, scale=1.1), ["scale=1.1", 0, 1]),
        (lambda: Crop(8, scale=math.nan), ["scale=nan"]),
        (lambda: Crop(0), ["size", 1, 0]),
        (lambda: Crop(8, flip=-0.5), ["flip=-0.5", 0, 1]),
        (lambda: Grey(2.0), ["grey=2.0", 0, 1]),
        (lambda: Blur(1.5), ["blur=1.5", 0, 1]),
        (lambda: Solarize(-1.0), ["solarize=-1.0", 0, 1]),
        (lambda: Jitter(0, 0, 0, 0, probability=1.2), ["jitter=1.2", 0, 1]),
        (lambda: Jitter(-0.1, 0, 0, 0), ["brightness=-0.1", 0]),
        (lambda: Jitter(0, math.inf, 0, 0), ["contrast=inf", 0]),
        (lambda: Jitter(0, 0, 0, 0.6), ["hue=0.6", "0 to 0.5"]),
    ],
)
def test_what_cannot_be_is_refused(make, parts):
    with refuses(UsageError, *parts):
        make()
