"""What every encoder promises: the registered ones at several sizes, and a model of each kind from timm."""

import copy

import pytest
import torch
from refusals import refuses

from fullrank import encoder
from fullrank.encoders import ENCODERS, Encoder
from fullrank.errors import UsageError

NAMES = [e.name for e in ENCODERS if e is not ENCODERS.other and not (e.value and e.value.required)]
REGISTERED = [(name, size) for name in NAMES for size in (8, 9, 32)]
REGISTERED += [("tiny-resnet,last=7", 9)]
# Plain and deep stems, gates, depthwise and dense convolutions, tokens with and without
# class tokens, windows, maps with the channels last, mixtures of convolutions and attention.
FOREIGN = [
    ("resnet18", 16),
    ("resnet10t,drop_path=0.1,last=24", 72),
    ("test_resnet", 64),
    ("test_byobnet", 64),
    ("test_efficientnet", 64),
    ("mobilenetv3_small_050", 64),
    ("densenet121", 32),
    ("test_convnext", 64),
    ("test_mambaout", 64),
    ("gmixer_12_224", 64),
    ("test_vit", 64),
    ("test_vit2", 64),
    ("deit_tiny_distilled_patch16_224", 64),
    ("levit_128s", 128),
    ("edgenext_xx_small", 64),
    ("test_coatnet", 64),
    ("swin_tiny_patch4_window7_224", 64),
]


@pytest.fixture(
    scope="module",
    params=[(*case, chans) for case in REGISTERED for chans in (1, 3)]
    + [(*case, 1 if i % 2 else 3) for i, case in enumerate(FOREIGN)],
    ids=lambda case: "-".join(map(str, case)),
)
def case(request) -> tuple[Encoder, torch.Tensor]:
    """An encoder in eval mode, which tests leave as it is, and images for it."""
    spec, size, chans = request.param
    torch.manual_seed(0)
    net = encoder(spec, image_size=size, in_chans=chans, mean=(0.4,), std=(0.2,))
    return net.eval(), torch.rand(4, chans, size, size)


def copied(net: Encoder) -> Encoder:
    # In eval mode some models keep what they computed, with its graph, which cannot be copied.
    other = copy.deepcopy(net.train())
    net.eval()
    return other.eval()


def test_forward_gives_h_of_the_stated_width(case):
    net, images = case
    assert net(images).shape == (4, net.feature_dim)
    assert net.training is False


def test_places_agree_with_the_plain_forward(case):
    net, images = case
    found = net.features(images, ["h", *net.places])
    assert torch.equal(found["h"], net(images))
    assert list(found) == ["h", *net.places]
    assert all(f.ndim == 2 and len(f) == 4 and f.isfinite().all() for f in found.values())


def test_a_place_does_not_depend_on_the_others(case):
    net, images = case
    together = net.features(images, net.places)
    for place in (net.places[0], net.places[len(net.places) // 2], net.places[-1]):
        alone = net.features(images, [place])
        assert list(alone) == [place]
        assert torch.equal(alone[place], together[place])


def test_eval_is_a_pure_function_of_each_image(case):
    net, images = case
    places = ["h", *net.places]
    whole, part = net.features(images, places), net.features(images[1:3], places)
    for place in places:
        torch.testing.assert_close(whole[place][1:3], part[place], rtol=1e-4, atol=1e-4)


def test_every_parameter_gets_a_gradient(case):
    net, images = copied(case[0]), case[1]
    torch.manual_seed(1)
    with torch.no_grad():  # zero-initialised branches block the gradient at the start
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    (net(images) * torch.randn(4, net.feature_dim)).sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_training_gives_h_too_and_reading_places_then_lets_gradients_through(case):
    net, images = copied(case[0]).train(), case[1]
    assert net(images).shape == (4, net.feature_dim)
    sum(f.square().sum() for f in net.features(images, net.places).values()).backward()
    assert any(p.grad is not None and p.grad.any() for p in net.parameters())


def test_all_that_it_learns_and_the_mean_and_spread_of_the_images_are_in_the_weights(case):
    net, images = case
    other = copied(net)
    with torch.no_grad():
        for tensor in other.state_dict().values():
            if tensor.is_floating_point():
                tensor.mul_(0.5).add_(0.1)
    assert not torch.equal(other.mean, net.mean)
    assert not torch.equal(other(images), net(images))
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(images), net(images))


def test_images_of_another_depth_raise(case):
    net, images = case
    with refuses(UsageError, "(4, 2", net.in_chans if hasattr(net, "in_chans") else "images"):
        net(images[:, :1].expand(-1, 2, -1, -1))
