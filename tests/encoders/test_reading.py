"""Finding blocks and formats in models made for the purpose, where the answer is known."""

import pytest
import torch
from torch import nn

from fullrank.encoders.reading import (
    Reading,
    find_blocks,
    find_readings,
    last_convolution,
    read,
    trace,
)


class Last(nn.Module):
    """A block of two layers whose maps have their channels last."""

    def __init__(self, width: int):
        super().__init__()
        self.one, self.two = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x):
        return self.two(self.one(x))


class Mixed(nn.Module):
    """A stage with the channels first, then one with the channels last; in-place layers between them."""

    def __init__(self, width: int, size: int | None = None):
        super().__init__()
        self.size = size
        self.patches = nn.Conv2d(3, width, 2, stride=2)
        self.first = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 1))
                for _ in range(2)
            )
        )
        self.act = nn.ReLU(inplace=True)
        self.last = nn.ModuleList([Last(width), Last(width)])

    def forward(self, x):
        if self.size is not None and x.shape[-1] != self.size:
            raise AssertionError(f"images of {self.size} only")
        x = self.act(self.first(self.patches(x))).permute(0, 2, 3, 1)
        for block in self.last:
            x = block(x)
        return x.mean((1, 2))


def readings_of(model: nn.Module, size: int) -> dict[str, Reading]:
    return find_readings(model, trace(model, torch.zeros(2, 3, size, size)))


@pytest.mark.parametrize("size", [8, 12])
def test_maps_whose_sides_equal_their_channels_are_told_apart(size):
    # At 12 pixels the maps are 6x6 of 6 channels: their shape does not tell where the channels are.
    readings = readings_of(Mixed(6), size)
    assert {place: reading.layout for place, reading in readings.items()} == {
        "stem": "map",
        "first.0": "map",
        "first.1": "map",
        "last.0": "map-last",
        "last.1": "map-last",
        "last-conv-input": "map",
    }


def test_a_model_of_one_size_has_them_as_most_of_its_other_maps():
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 2, 2), nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)))
    )
    assert {r.layout for r in readings_of(model, 8).values()} == {"map"}
    assert {r.layout for r in readings_of(Mixed(6, size=12), 12).values()} == {"map"}


def test_reading_is_what_the_modules_give_before_they_are_overwritten():
    torch.manual_seed(0)
    model, images = Mixed(5), torch.randn(2, 3, 8, 8)
    readings = readings_of(model, 8)
    output, read_out = read(model, images, readings)
    assert torch.equal(output, model(images))
    stem = model.patches(images)
    first = model.first[0](stem)
    second = model.first[1](first)
    tokens = model.last[0](second.relu().permute(0, 2, 3, 1))
    expected = {
        "stem": stem.mean((2, 3)),
        "first.0": first.mean((2, 3)),
        "first.1": second.mean((2, 3)),
        "last.0": tokens.mean((1, 2)),
        "last-conv-input": model.first[1][0](first).mean((2, 3)),
    }
    assert second.min() < 0  # the activation behind it works in place
    for place, features in expected.items():
        torch.testing.assert_close(read_out[place], features)


def test_a_pooled_tensor_is_never_the_models_own():
    for layout, pooling, shape in [
        ("vector", "mean", (2, 3)),
        ("tokens", "cls", (2, 4, 3)),
        ("tokens", "mean", (2, 1, 3)),
        ("map", "mean", (2, 3, 1, 1)),
        ("map-last", "max", (2, 1, 1, 3)),
    ]:
        x = torch.rand(shape)
        before = Reading("", layout, pooling=pooling).pooled(x)
        copy = before.clone()
        x.zero_()
        assert torch.equal(before, copy) and before.shape == (2, 3)


class Twice(nn.Module):
    """One block that runs twice, beside one that gives a row a window rather than a row an image."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 4, 4, stride=4)
        self.blocks = nn.ModuleList([Last(4), Last(4), Last(4)])

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = self.blocks[0](self.blocks[0](x))
        x = self.blocks[1](x.flatten(0, 1)).reshape(x.shape)
        return self.blocks[2](x).mean(1)


def test_blocks_without_one_row_an_image_are_left_out():
    model = Twice()
    traced = trace(model, torch.zeros(2, 3, 8, 8))
    assert find_blocks(model, traced) == ["blocks.2"]
    assert last_convolution(model, traced) is None  # only the image is convolved


def test_tracing_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()).train()
    model[0].eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trace(model, torch.rand(2, 3, 8, 8))
    assert [module.training for module in model.modules()] == [True, False, True, True]
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(RuntimeError):
        trace(model, torch.rand(2, 5, 8, 8))
    assert not any(module._forward_hooks for module in model.modules())
