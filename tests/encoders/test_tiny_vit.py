"""The tiny vision transformer: its places, its patches, and its invariances."""

import pytest
import torch
from refusals import refuses

from fullrank import encoder
from fullrank.errors import UsageError

IMAGES = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def small(**options):
    torch.manual_seed(0)
    spec = ",".join(["tiny-vit", "width=12", *(f"{name}={value}" for name, value in options.items())])
    return encoder(spec, image_size=8, in_chans=1).eval()


def test_places_are_pooled_tokens_and_h_is_the_normalised_class_token():
    net = small(depth=2)
    assert net.places == ("stem.mean", "block1.cls", "block1.mean", "block2.cls", "block2.mean")
    outputs = []
    for block in net.blocks:
        block.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    places = ["block1", "block1.max", "block2.mean", "block2.cls", "stem", "h"]
    found = net.features(IMAGES, places)
    assert list(found) == places and net.feature_dim == 12
    assert torch.equal(found["block1"], outputs[0][:, 0])
    assert torch.equal(found["block1.max"], outputs[0][:, 1:].amax(1))
    assert torch.equal(found["block2.mean"], outputs[1][:, 1:].mean(1))
    assert torch.equal(found["h"], net.norm(found["block2.cls"]))
    assert [net.pooling_of(place) for place in places] == ["cls", "max", "mean", "cls", "mean", "cls"]
    patches = net.of_patches(IMAGES, ["h", "block1.cls", "block2.mean"], lambda place, tokens: tokens)
    assert list(patches) == ["block2.mean"] and torch.equal(patches["block2.mean"], outputs[-1][:, 1:])
    assert not any(
        net.has_place(name) for name in ("block3", "block1.all", "stem.cls", "blocks.0", "z", "cls")
    )


def test_without_positions_the_order_of_patches_does_not_matter():
    net = small(patch=2)
    with torch.no_grad():
        net.positions.zero_()
    swapped = torch.cat([IMAGES[..., 4:, :], IMAGES[..., :4, :]], 2)
    torch.testing.assert_close(net(swapped), net(IMAGES))


def test_it_learns_to_tell_two_patterns_apart():
    net = small(depth=1).train()
    labels = torch.arange(64) % 2
    images = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    images[labels == 1, :, 2:4, 4:6] += 2
    layer = torch.nn.Linear(12, 2)
    optimizer = torch.optim.AdamW([*net.parameters(), *layer.parameters()], lr=1e-2)
    for _ in range(25):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(layer(net(images)), labels).backward()
        optimizer.step()
    assert (layer(net(images)).argmax(1) == labels).float().mean() > 0.95


@pytest.mark.parametrize(("size", "patch"), [(8, 2), (9, 3), (14, 2), (16, 4), (18, 3), (28, 4), (32, 4)])
def test_the_usual_patch_follows_the_image(size, patch):
    assert encoder("tiny-vit,width=3", image_size=size).patch == patch


@pytest.mark.parametrize(
    ("spec", "size", "parts"),
    [
        ("tiny-vit,patch=3", 16, [3, 16, "patch=2", "15 or 18"]),
        ("tiny-vit,patch=20", 16, [20, 16, "patch=16"]),
        ("tiny-vit,patch=0", 16, ["patch", 0, 1]),
        ("tiny-vit", 17, [17, 18, "patch"]),
        ("tiny-vit", 4, [4, 6, "patch"]),
        ("tiny-vit,heads=5", 16, ["width=96", "heads=5"]),
        ("tiny-vit,depth=0", 16, ["depth", 0, 1]),
    ],
)
def test_impossible_sizes_are_refused_with_a_remedy(spec, size, parts):
    with refuses(UsageError, *parts):
        encoder(spec, image_size=size)


def test_a_program_of_it_takes_any_number_of_images_and_channels_last_changes_nothing():
    net = small(depth=1)
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(net, (IMAGES,), dynamic_shapes={"x": {0: batch}}).module()
    images = torch.rand(5, 1, 8, 8)
    torch.testing.assert_close(program(images), net(images))
    expected = net(IMAGES)
    net.to(memory_format=torch.channels_last)
    torch.testing.assert_close(net(IMAGES.contiguous(memory_format=torch.channels_last)), expected)


def test_images_of_another_size_are_refused():
    with refuses(UsageError, "8x8", "16x16"):
        small()(torch.rand(1, 1, 16, 16))
