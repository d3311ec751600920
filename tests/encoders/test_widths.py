"""Another width of the last block: what is new in a net, what stays, and which nets have none."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from refusals import refuses
from timm.layers import GroupNorm
from timm.models.resnet import BasicBlock, Bottleneck, ResNet

from fullrank import encoder
from fullrank.encoders import TinyResNet, load_weights, plain_state, with_options_of
from fullrank.encoders.widths import last_lines, last_width_in, set_last_width
from fullrank.errors import UsageError

NEW = ("conv2", "norm2", "shortcut")


def size(net):
    return sum(parameter.numel() for parameter in net.parameters())


def shaken(net):
    """The net in eval mode with other weights and statistics, so that no branch is zero."""
    torch.manual_seed(1)
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(0.1 * torch.rand_like(tensor))
    return net.eval()


def normed(x, state, name):
    names = (f"{name}.{part}" for part in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, *(state[each] for each in names))


def residual(model, kind=BasicBlock, blocks=2):
    """A small net of timm's residual kind, with its initial weights."""
    torch.manual_seed(0)
    return model(kind, (1, 1, 1, blocks), num_classes=0, channels=(8, 8, 8, 6), in_chans=1, avg_down=True)


@pytest.mark.parametrize("last", [1, 16, 40])
def test_tiny_resnet_has_the_weights_of_another_last_block_and_no_others(last):
    plain, other = TinyResNet(4, in_chans=1), TinyResNet(4, in_chans=1, last=last)
    inner = 16
    convolutions = 9 * inner * last + inner * last - 9 * inner * inner
    assert size(other) - size(plain) == convolutions + 4 * last - 2 * inner
    assert other.feature_dim == last and plain.feature_dim == inner
    assert other.places == plain.places


def test_all_layers_of_tiny_resnet_before_the_new_ones_start_the_same():
    states = []
    for last in (None, 40):
        torch.manual_seed(3)
        states.append(TinyResNet(4, in_chans=1, last=last).state_dict())
    plain, other = states
    new = {name for name in other if name.startswith(tuple(f"blocks.stage3_2.{part}" for part in NEW))}
    assert all(torch.equal(plain[name], other[name]) for name in set(other) - new)
    assert set(plain) - new == set(other) - new


@torch.no_grad()
def test_h_of_tiny_resnet_is_computed_by_the_new_convolution_and_shortcut():
    net = shaken(TinyResNet(4, in_chans=1, last=7))
    images, inputs = torch.rand(3, 1, 8, 8), []
    block = net.blocks["stage3_2"]
    block.register_forward_hook(lambda module, args, output: inputs.append(args[0]))
    features = net.features(images, ["h", "stage3.2", "last-conv-input"])
    (x,), state = inputs, block.state_dict()
    inner = normed(F.conv2d(x, state["conv1.weight"], padding=1), state, "norm1").relu()
    branch = normed(F.conv2d(inner, state["conv2.weight"], padding=1), state, "norm2")
    shortcut = normed(F.conv2d(x, state["shortcut.0.weight"]), state, "shortcut.1")
    expected = (branch + shortcut).relu().mean((2, 3))
    assert features["h"].shape == (3, 7) and features["last-conv-input"].shape == (3, 16)
    torch.testing.assert_close(features["h"], expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(features["h"], features["stage3.2"])


@torch.no_grad()
def test_the_last_block_of_tiny_resnet_starts_as_its_new_shortcut():
    net = TinyResNet(4, in_chans=1, last=7).eval()
    images = torch.rand(3, 1, 8, 8)
    expected = net(images)
    net.blocks["stage3_2"].conv2.weight.normal_()
    assert torch.equal(net(images), expected)
    net.blocks["stage3_2"].shortcut[0].weight.mul_(2)
    assert not torch.equal(net(images), expected)


@pytest.mark.parametrize("kind", [BasicBlock, Bottleneck])
def test_a_residual_net_has_the_weights_of_another_last_block_and_no_others(kind):
    before = {name: tensor.clone() for name, tensor in residual(ResNet, kind).state_dict().items()}
    model = residual(ResNet, kind)
    plain, width, inputs = size(model), 5, 6 * kind.expansion
    conv, norm = ("conv2", "bn2") if kind is BasicBlock else ("conv3", "bn3")
    kernel = 9 if kind is BasicBlock else 1
    set_last_width(model, "net", width)
    changed = kernel * 6 * (width - inputs) + 2 * (width - inputs)
    assert size(model) - plain == changed + inputs * width + 2 * width
    after = model.state_dict()
    new = {n for n in after if n.startswith(tuple(f"layer4.1.{part}" for part in (conv, norm, "downsample")))}
    assert set(before) - new == set(after) - new
    assert all(torch.equal(before[name], after[name]) for name in set(after) - new)
    assert model.num_features == width and model.feature_info[-1]["num_chs"] == width


@torch.no_grad()
@pytest.mark.parametrize("kind", [BasicBlock, Bottleneck])
def test_h_of_a_residual_net_is_computed_by_the_new_convolution_and_shortcut(kind):
    model = residual(ResNet, kind)
    set_last_width(model, "net", 5)
    shaken(model)
    inputs = []
    model.layer4[1].register_forward_hook(lambda module, args, output: inputs.append(args[0].clone()))
    model.layer4[1].register_forward_pre_hook(lambda module, args: inputs.append(args[0].clone()))
    h = model(torch.rand(2, 1, 32, 32))
    x, state = inputs[0], model.layer4[1].state_dict()
    y = x
    for number in (1, 2, 3)[: 2 if kind is BasicBlock else 3]:
        weight = state[f"conv{number}.weight"]
        y = normed(F.conv2d(y, weight, padding=weight.shape[-1] // 2), state, f"bn{number}")
        y = y.relu() if f"conv{number + 1}.weight" in state else y
    shortcut = normed(F.conv2d(x, state["downsample.0.weight"]), state, "downsample.1")
    torch.testing.assert_close(h, (y + shortcut).relu().mean((2, 3)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("zeroed", [True, False])
def test_new_norms_start_as_those_of_timm_do(zeroed):
    torch.manual_seed(0)
    model = ResNet(BasicBlock, (1, 1, 1, 2), num_classes=0, channels=(8, 8, 8, 8), zero_init_last=zeroed)
    set_last_width(model, "net", 400)
    block = model.layer4[1]
    assert block.bn2.weight.unique().tolist() == [0.0 if zeroed else 1.0]
    assert block.downsample[1].weight.unique().tolist() == [1.0]
    for norm in (block.bn2, block.downsample[1]):
        assert not norm.running_mean.any() and (norm.running_var == 1).all() and not norm.bias.any()
    # He et al. with fan-out: the variance is 2 / (channels of output * kernel).
    assert block.conv2.weight.var().item() == pytest.approx(2 / (400 * 9), rel=0.1)
    assert block.downsample[0].weight.var().item() == pytest.approx(2 / 400, rel=0.1)


@torch.no_grad()
@pytest.mark.parametrize("blocks", [1, 2])
def test_last_lines_make_the_same_net_of_timms(blocks):
    wide = residual(ResNet, blocks=blocks)
    set_last_width(wide, "net", 5)
    shaken(wide)
    model = residual(ResNet, blocks=blocks)
    exec(last_lines(wide)["last"], {"model": model, "torch": torch})
    model.load_state_dict(wide.state_dict())
    images = torch.rand(2, 1, 32, 32)
    assert torch.equal(model.eval()(images), wide(images))


@pytest.mark.parametrize("spec", ["tiny-resnet,last=0", "tiny-resnet,last=-3", "resnet18,last=0"])
def test_a_width_below_1_is_refused(spec):
    with refuses(UsageError, "last", 1, spec.partition("=")[2]):
        encoder(spec, image_size=8, in_chans=1)


@pytest.mark.parametrize(
    "settings",
    [{"block_args": {"attn_layer": "se"}}, {"norm_layer": partial(GroupNorm, num_groups=2)}],
    ids=["attention", "group norm"],
)
def test_residual_nets_with_attention_or_another_norm_are_refused(settings):
    model = ResNet(BasicBlock, (1, 1, 1, 2), num_classes=0, channels=(8, 8, 8, 8), **settings)
    with refuses(UsageError, "net", "last=9", "norm", "attention"):
        set_last_width(model, "net", 9)


def test_other_nets_are_refused_and_told_which_nets_have_such_a_block():
    with refuses(UsageError, "test_vit", "last=9", "tiny-resnet", "resnet18", "resnet50"):
        encoder("test_vit,last=9", image_size=64)


def test_pretrained_weights_and_another_width_exclude_each_other():
    with refuses(UsageError, "resnet18", "last=9", "pretrained=true"):
        encoder("resnet18,last=9,pretrained=true", image_size=32)


def test_the_last_width_of_a_file_is_found_and_another_refused_with_it(tmp_path):
    file, plain = tmp_path / "wide.pth", tmp_path / "plain.pth"
    wide = encoder("resnet18,last=24", image_size=32)
    torch.save(plain_state(wide), file)
    spec = with_options_of("resnet18", file)
    assert str(spec) == "resnet18,last=24,stem=small"
    loaded = encoder(spec, image_size=32)
    load_weights(loaded, file)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded.eval()(images), wide.eval()(images))
    standard = encoder("resnet18", image_size=32)
    with refuses(UsageError, "wide.pth", "resnet18,last=24"):
        load_weights(standard, file)
    torch.save(plain_state(standard), plain)
    with refuses(UsageError, "plain.pth", "resnet18,last=24", "last"):
        load_weights(wide, plain)
    assert last_width_in(wide.model, torch.load(plain)) is None


def test_weights_of_another_last_width_of_tiny_resnet_are_refused(tmp_path):
    torch.save(TinyResNet(4, in_chans=1).state_dict(), tmp_path / "tiny.pth")
    with refuses(UsageError, "tiny.pth", "tiny-resnet,last=9,width=4"):
        load_weights(encoder("tiny-resnet,width=4,last=9", image_size=8, in_chans=1), tmp_path / "tiny.pth")
