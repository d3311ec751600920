"""The tiny residual net, and what a sub-vector head can and cannot teach it."""

import pytest
import torch
import torch.nn.functional as F

from fullrank import InfoNCELoss, encoder, head
from fullrank.encoders import TinyResNet
from fullrank.encoders.tiny import SubsampledConv
from fullrank.errors import UsageError


def test_every_block_starts_as_its_shortcut():
    net = TinyResNet(4, in_chans=1).eval()
    images = torch.rand(3, 1, 8, 8)
    features = net.features(images, ["stage3.1", "stage3.2", "h"])
    assert torch.equal(features["stage3.1"], features["stage3.2"])  # identity shortcut, zero branch
    assert torch.equal(features["stage3.2"], features["h"])


def test_the_last_conv_input_is_what_the_last_convolution_gets():
    net = TinyResNet(4, in_chans=1).eval()
    inner = []
    net.blocks["stage3_2"].conv2.register_forward_hook(lambda module, inputs, output: inner.append(inputs[0]))
    features = net.features(torch.rand(3, 1, 8, 8), ["last-conv-input"])["last-conv-input"]
    assert torch.equal(features, inner[0].mean((2, 3)))


def test_a_subvector_gives_no_direct_gradient_beyond_its_channels_yet_the_whole_last_block_learns():
    """P1 Section 6: the rest of h learns through the residual connection of the last block."""
    torch.manual_seed(0)
    net, part, loss = (
        encoder("tiny-resnet,width=6", image_size=8, in_chans=1),
        head("subvector:5", in_dim=24),
        InfoNCELoss(0.2),
    )
    images = torch.rand(32, 1, 8, 8)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    block = net.blocks["stage3_2"]
    for _ in range(3):
        optimizer.zero_grad()
        h = net(torch.cat([images, images + 0.05 * torch.randn_like(images)]))
        h.retain_grad()
        loss(*part(h).chunk(2)).backward()
        assert h.grad[:, 5:].abs().max() == 0 and h.grad[:, :5].abs().max() > 0
        optimizer.step()
    before = {name: p.detach().clone() for name, p in block.named_parameters()}
    optimizer.zero_grad()
    loss(*part(net(torch.cat([images, images + 0.05 * torch.randn_like(images)]))).chunk(2)).backward()
    optimizer.step()
    assert [name for name, p in block.named_parameters() if torch.equal(p, before[name])] == []


def test_a_subsampled_convolution_is_a_strided_one():
    conv, x = SubsampledConv(3, 4, every=2), torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(conv(x), F.conv2d(x, conv.weight, stride=2), rtol=0, atol=1e-6)


def test_spread_of_blank_images_gives_numbers():
    net = TinyResNet(4, in_chans=1, mean=(0.5,), std=(0.0,))
    assert torch.isfinite(net(torch.full((4, 1, 8, 8), 0.5))).all()


@pytest.mark.parametrize(
    "spec", ["tiny-resnet,blocks=1-1-1", "tiny-resnet,blocks=1-2", "tiny-resnet,width=0"]
)
def test_impossible_sizes_raise(spec):
    with pytest.raises(UsageError):
        encoder(spec, image_size=8, in_chans=1)


def test_width_and_depth_follow_the_spec():
    net = encoder("tiny-resnet,width=8,blocks=2-1-3", image_size=8, in_chans=1)
    assert net.feature_dim == 32
    assert net.places == (
        "stem",
        "stage1.1",
        "stage1.2",
        "stage2.1",
        "stage3.1",
        "stage3.2",
        "stage3.3",
        "last-conv-input",
    )
