"""The tiny vision transformer: its places, its patches, and its invariances."""

import pytest
import torch
from refusals import refuses
from timm.layers import resample_abs_pos_embed

from fullrank import encoder
from fullrank.encoders.tiny_vit import resized_positions
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
    with refuses(UsageError, "8x8", "16x16", "any_size=true"):
        small()(torch.rand(1, 1, 16, 16))
    net = small(any_size="true", patch=2)
    for size in ((7, 8), (8, 5), (1, 1)):
        with refuses(UsageError, 2, "x".join(map(str, size))):
            net(torch.rand(1, 1, *size))


def test_any_size_changes_nothing_at_its_own_size_and_has_the_same_places_at_others():
    net, plain = small(any_size="true"), small()
    assert torch.equal(net(IMAGES), plain(IMAGES))
    assert net.state_dict().keys() == plain.state_dict().keys() and net.places == plain.places
    for size in ((4, 4), (16, 16), (12, 4)):
        images = torch.rand(2, 1, *size)
        found = net.features(images, ["h", *net.places])
        assert {rows.shape for rows in found.values()} == {(2, 12)}
        counts = []
        net.of_patches(images, ["block1.mean"], lambda place, tokens, counts=counts: counts.append(tokens))
        assert counts[0].shape == (2, size[0] * size[1] // net.patch**2, 12)


@pytest.mark.parametrize("grid", [(3, 3), (9, 9), (3, 8), (1, 1)])
def test_positions_of_another_grid_are_those_of_timm(grid):
    positions = torch.randn(1, 1 + 6 * 6, 5, generator=torch.Generator().manual_seed(0))
    theirs = resample_abs_pos_embed(positions, grid, num_prefix_tokens=1)
    torch.testing.assert_close(resized_positions(positions, *grid), theirs, rtol=0, atol=1e-6)


def test_the_positions_of_a_crop_are_trained():
    net = small(any_size="true", patch=2)
    net(torch.rand(2, 1, 4, 4)).square().sum().backward()
    assert net.positions.grad.abs().sum(2).gt(0).all()
