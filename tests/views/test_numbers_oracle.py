"""The numbers of views, and what AugSelf predicts of them, against an oracle that never saw the code."""

from dataclasses import replace

import numpy as np
import pytest
import related_oracle as oracle
import torch

from fullrank import view_pipeline
from fullrank.view_numbers import neutral_numbers
from fullrank.views import Jitter, Pipeline, ViewParameters, Views, step_generator
from fullrank.views.operations import Blur, Crop

COUNT = 48
# Operations off, on in one view only, images of one channel, and images that are not square.
CASES = [
    ("simclr", 3, (16, 16)),
    ("simclr,flip=0", 3, (16, 12)),
    ("simclr,scale=1", 3, (16, 16)),
    ("simclr,contrast=0,hue=0", 3, (16, 16)),
    ("simclr,brightness=2,jitter=0.5", 3, (16, 16)),
    ("simclr,jitter=0,blur=1", 3, (9, 16)),
    ("simclr,drop=0.5", 1, (16, 16)),
    ("directclr", 3, (16, 20)),
    ("weak,scale=1,flip=0.5", 1, (16, 16)),
]


def spans_of(spec: str) -> dict[str, float]:
    """The width of the range of each factor, from the strengths of the spec."""
    strengths = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2 if "directclr" in spec else 0.4}
    strengths["hue"] = 0.1
    for part in spec.split(",")[1:]:
        name, value = part.split("=")
        strengths[name] = float(value)
    return {
        name: 2 * strengths[name] if name == "hue" else 1 + strengths[name] - max(0.0, 1 - strengths[name])
        for name in oracle.COLOURS
    }


def arrays(view: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: values.numpy() for name, values in view.items()}


def drawn_from(spec: str, channels: int, source: tuple[int, int], seed: int = 0) -> ViewParameters:
    views = view_pipeline(spec, image_size=16, channels=channels)
    return views.sample(COUNT, step_generator(seed=seed, epoch=0, step=0), source)


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, np.ndarray]) -> None:
    assert sorted(found) == sorted(expected)
    for name, values in found.items():
        assert values.dtype == torch.float32
        np.testing.assert_allclose(values.numpy(), expected[name], rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(("spec", "channels", "source"), CASES)
def test_numbers_and_targets_equal_the_oracle_in_both_orders(spec, channels, source):
    drawn, spans = drawn_from(spec, channels, source), spans_of(spec)
    first, second = arrays(drawn.first), arrays(drawn.second)
    numbers = drawn.numbers()
    assert_same(numbers.first, oracle.view_numbers(first, second, COUNT, source, spans))
    assert_same(numbers.second, oracle.view_numbers(second, first, COUNT, source, spans))
    targets = oracle.augself_targets(first, second, COUNT, source, spans, spans)
    assert_same(numbers.differences(), {name: rows[:COUNT] for name, rows in targets.items()})
    assert_same(numbers.swapped().differences(), {name: rows[COUNT:] for name, rows in targets.items()})


def test_the_order_of_application_does_not_move_a_colour_to_another_column():
    orders = set()
    for seed in range(8):
        drawn = drawn_from("simclr", 3, (16, 16), seed)
        first, second, spans = arrays(drawn.first), arrays(drawn.second), spans_of("simclr")
        orders.add(tuple(name for name in first if name in oracle.COLOURS))
        assert_same(drawn.numbers().first, oracle.view_numbers(first, second, COUNT, (16, 16), spans))
    assert len(orders) > 1


def test_each_view_is_divided_by_the_span_of_its_own_pipeline():
    crop = Crop(16, scale=1.0, flip=0.0)
    strong, weak = Jitter(0.8, 0, 0, 0.4), Jitter(0.2, 0.5, 0, 0.1)
    views = Views(Pipeline(crop, (strong,)), Pipeline(crop, (weak, Blur(0.5))))
    drawn = views.sample(COUNT, step_generator(seed=0, epoch=0, step=0))
    spans = {"brightness": 1.6, "hue": 0.8}, {"brightness": 0.4, "contrast": 1.0, "hue": 0.2}
    targets = oracle.augself_targets(arrays(drawn.first), arrays(drawn.second), COUNT, (16, 16), *spans)
    assert targets["colour"].shape == (2 * COUNT, 3)
    found, swapped = drawn.numbers().differences(), drawn.numbers().swapped().differences()
    assert_same({k: torch.cat([found[k], swapped[k]]) for k in found}, targets)


def test_crop_columns_of_the_two_orders_are_opposite_only_where_the_flips_agree():
    numbers = drawn_from("weak", 1, (16, 16)).numbers()
    forth, back = numbers.differences()["crop"], numbers.swapped().differences()["crop"]
    alike = (numbers.first["flip"] == numbers.second["flip"])[:, 0]
    assert 0 < alike.sum() < COUNT
    torch.testing.assert_close(back[alike], -forth[alike])
    torch.testing.assert_close(back[~alike][:, 1], forth[~alike][:, 1])
    torch.testing.assert_close(back[~alike][:, [0, 2, 3]], -forth[~alike][:, [0, 2, 3]])


def test_one_view_hit_and_the_other_spared():
    on, off = torch.tensor([True, False]), torch.tensor([False, False])
    first = {"solarize": on, "blur": torch.tensor([1.5, 0.0])}
    second = {"solarize": off, "blur": torch.tensor([0.0, 0.0])}
    differences = ViewParameters(first, second, 2, (8, 8)).numbers().differences()
    np.testing.assert_allclose(differences["solarize"].numpy(), [[128 / 255 - 1], [0.0]], atol=1e-7)
    np.testing.assert_allclose(differences["blur"].numpy(), [[1.5], [0.0]])


def test_rows_of_a_share_are_the_rows_of_the_whole():
    drawn = drawn_from("directclr", 3, (16, 16))
    whole = drawn.numbers()
    for rows in (slice(0, 12), slice(12, 48)):
        share = drawn[rows].numbers()
        for name, values in whole.differences().items():
            assert torch.equal(share.differences()[name], values[rows])
        a, b = whole.joined().chunk(2)
        assert torch.equal(share.joined(), torch.cat([a[rows], b[rows]]))


def test_neutral_numbers_are_those_of_a_view_that_nothing_was_applied_to():
    drawn = drawn_from("directclr,drop=0.5", 3, (16, 16))
    whole_image = replace(drawn, first={}, second=drawn.second)
    numbers = whole_image.numbers()
    neutral = neutral_numbers(numbers.dims)
    assert torch.equal(numbers.joined()[:COUNT], neutral.expand(COUNT, -1))
    expected = [oracle.neutral_numbers(name, oracle.COLOURS) for name in numbers.dims]
    np.testing.assert_allclose(neutral.numpy(), [number for each in expected for number in each])
