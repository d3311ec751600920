"""What every registered encoder promises; an encoder joins by being registered."""

import pytest
import torch

from fullrank import encoder
from fullrank.encoders import ENCODERS, Encoder
from fullrank.errors import UsageError


@pytest.fixture(
    params=[(entry.name, chans, size) for entry in ENCODERS for chans in (1, 3) for size in (8, 9, 32)]
)
def case(request) -> tuple[Encoder, torch.Tensor]:
    name, chans, size = request.param
    torch.manual_seed(0)
    return encoder(name, image_size=size, in_chans=chans), torch.rand(4, chans, size, size)


def test_forward_gives_h_of_the_stated_width(case):
    net, images = case
    assert net(images).shape == (4, net.feature_dim)


def test_places_agree_with_the_plain_forward(case):
    net, images = case
    net.eval()
    found = net.features(images, ["h", *net.places])
    assert torch.equal(found["h"], net(images))
    assert set(found) == {"h", *net.places}
    assert all(f.ndim == 2 and len(f) == 4 for f in found.values())


def test_eval_is_a_pure_function_of_each_image(case):
    net, images = case
    net.eval()
    torch.testing.assert_close(net(images)[1:3], net(images[1:3]))


def test_every_parameter_gets_a_gradient(case):
    net, images = case
    for module in net.modules():  # zero-initialised branches block the gradient at the start
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)
    weights = torch.randn(4, net.feature_dim)
    (net(images) * weights).sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_mean_and_spread_of_the_images_are_part_of_the_weights(case):
    net, images = case
    other = type(net)(in_chans=net.in_chans, mean=(0.1,), std=(0.9,))
    assert not torch.equal(other.mean, net.mean)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other.eval()(images), net.eval()(images))


def test_images_of_another_depth_raise(case):
    net, images = case
    with pytest.raises(UsageError, match="takes images"):
        net(images[:, :1].expand(-1, 2, -1, -1))
