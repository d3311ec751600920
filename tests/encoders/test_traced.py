"""Any module as an encoder: what becomes of its output, which places it has, and what is refused."""

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from refusals import assert_names, refuses
from torch import nn

from fullrank.encoders import encoder, module_encoder
from fullrank.encoders.foreign import checked_encoder
from fullrank.errors import UsageError
from fullrank.places import read_places

Named = namedtuple("Named", "map pooled")


@dataclass
class Output:
    scores: torch.Tensor
    embedding: torch.Tensor


class Net(nn.Module):
    """Two convolutions, of which the second runs twice, and an output made of its map by `form`."""

    def __init__(self, form):
        super().__init__()
        self.first, self.twice, self.unused = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 1), nn.ReLU()
        self.form, self.mapping = form, Mapping()

    def forward(self, x):
        x = self.twice(self.twice(self.first(x)))
        return self.form(self.mapping(x)["other"])


class Mapping(nn.Module):
    def forward(self, x):
        return {"other": x}


def wrapped(module: nn.Module, size: int = 8, chans: int = 3, **more):
    return module_encoder(module, image_size=size, in_chans=chans, **more)


@pytest.mark.parametrize(
    ("form", "expected", "words"),
    [
        (lambda m: m.mean((2, 3)), lambda m: m.mean((2, 3)), ()),
        (lambda m: m, lambda m: m.mean((2, 3)), ("mean", "positions")),
        (lambda m: m.flatten(2).mT, lambda m: m.mean((2, 3)), ("mean", 36, "tokens")),
        (lambda m: (m, m.amax((2, 3))), lambda m: m.amax((2, 3)), ("entry 1", "tuple")),
        (lambda m: [m, m + 1], lambda m: m.mean((2, 3)), ("entry 0", "list")),
        (lambda m: {"z": m, "h": m[..., 0, 0]}, lambda m: m[..., 0, 0], ("entry h", "dict")),
        (lambda m: {"last_hidden_state": m.flatten(2).mT}, lambda m: m.mean((2, 3)), ("last_hidden_state",)),
        (lambda m: Named(m, m[..., 1, 1]), lambda m: m[..., 1, 1], ("entry pooled", "Named")),
        (lambda m: Output(m[:, :2, 0, 0], m[..., 2, 2]), lambda m: m[..., 2, 2], ("entry embedding",)),
        (lambda m: {"other": m[..., 3, 3]}, lambda m: m[..., 3, 3], ("entry other",)),
    ],
)
def test_h_is_pooled_from_any_output_and_the_note_says_how(form, expected, words):
    module, images = Net(form), torch.rand(5, 3, 8, 8)
    net = wrapped(module)
    torch.testing.assert_close(net(images), expected(Net.forward.__get__(Like(module))(images)))
    assert net.feature_dim == 6
    assert_names(net.output_note, *words)
    assert bool(words) == bool(net.output_note)


class Like:
    """A net whose output is its map."""

    def __init__(self, net: Net):
        self.first, self.twice, self.mapping, self.form = net.first, net.twice, net.mapping, lambda x: x


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (nn.Linear(4, 5), ("Linear", "3 channels and 8 x 8 pixels", "(N, C, H, W)")),
        (nn.Embedding(4, 5), ("Embedding", "(N, C, H, W)")),
        (nn.Conv2d(1, 5, 3), ("Conv2d", "1 channels")),
        (Net(lambda m: m.mean((1, 2, 3))), ("Net", "(2,)", "(N, D)")),
        (Net(lambda m: "words"), ("Net", "str", "(N, D)")),
        (Net(lambda m: m[:1]), ("Net", "(1, 6, 6, 6)")),
    ],
)
def test_a_module_without_features_of_images_is_refused(module, names):
    with refuses(UsageError, *names):
        wrapped(module)
    with refuses(UsageError, "str", "nn.Module"):
        wrapped("words")


def test_any_module_that_runs_once_is_a_place_and_others_are_refused_with_the_reason():
    net, images = wrapped(Net(lambda m: m)), torch.rand(2, 3, 8, 8)
    first = net.model.first(images)
    features = read_places(net, nn.Identity(), images, ["first", "first.max", "first.mean[:2]"])
    torch.testing.assert_close(features["first"], first.mean((2, 3)))
    torch.testing.assert_close(features["first.max"], first.amax((2, 3)))
    torch.testing.assert_close(features["first.mean[:2]"], first.mean((2, 3))[:, :2])
    for place, names in {
        "twice": ("twice", "2 times"),
        "unused": ("unused", "run"),
        "mapping": ("mapping", "dict", "pooler_output"),
        "first.cls": ("first", "class token", "first.mean"),
        "fist": ("fist", "first"),
    }.items():
        assert not net.has_place(place)
        with refuses(UsageError, *names):
            read_places(net, nn.Identity(), images, [place])
    assert net.has_place("first.max") and net.has_place("h")
    flat = wrapped(nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten(), nn.Linear(4, 4)))
    with refuses(UsageError, "'2'", "pooling"):
        flat.features(images, ["2.max"])


def test_blocks_are_found_in_a_net_that_another_module_wraps():
    inner = encoder("test_vit", image_size=16).model
    net = wrapped(nn.Sequential(inner, nn.Linear(64, 4)), 16)
    assert net.places[:3] == ("stem.mean", "0.blocks.0.cls", "0.blocks.0.mean")
    images = torch.rand(2, 3, 16, 16)
    features, own = net.features(images, ["0.blocks.1.cls"]), {}
    inner.blocks[1].register_forward_hook(lambda module, inputs, output: own.update(tokens=output))
    net(images)
    assert torch.equal(features["0.blocks.1.cls"], own["tokens"][:, 0])


def test_the_module_keeps_its_mode_its_weights_and_its_gradients():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()).train()
    module[1].eval()
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    wrapped(module).eval().train(False)
    net = wrapped(module.train())
    net.features(torch.rand(2, 3, 8, 8), ["1"])
    assert net.training and module.training
    fresh = wrapped(nn.BatchNorm2d(3).train())
    assert fresh.model.num_batches_tracked == 0 and fresh.model.training
    assert all(p.grad is None for p in module.parameters())
    assert all(torch.equal(state[name], tensor) for name, tensor in module.named_parameters())


def test_images_follow_the_dtype_and_the_device_of_the_module():
    module, images = nn.Conv2d(3, 4, 3), torch.rand(2, 3, 8, 8)
    expected = module(images).mean((2, 3))
    half = wrapped(module.to(torch.bfloat16))
    assert half(images).dtype == torch.float32
    torch.testing.assert_close(half(images), expected, rtol=0.05, atol=0.02)
    assert wrapped(nn.Conv2d(3, 4, 3).double())(images).dtype == torch.float64
    assert wrapped(nn.Conv2d(3, 4, 3, device="meta"))(images).device.type == "meta"


def test_grey_images_are_repeated_if_asked_and_otherwise_refused():
    module, grey = nn.Conv2d(3, 4, 3), torch.rand(2, 1, 8, 8)
    with refuses(UsageError, "3 channels", "channels=3", 1):
        wrapped(module, chans=1)
    repeated = wrapped(module, chans=1, channels=3)(grey)
    torch.testing.assert_close(repeated, wrapped(module)(grey.expand(-1, 3, -1, -1)))


def test_an_error_of_the_module_at_another_size_is_a_sentence():
    net = wrapped(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 4)))
    assert net(torch.rand(5, 3, 8, 8)).shape == (5, 4)
    with refuses(UsageError, "Sequential", "9 x 9 pixels"):
        net(torch.rand(5, 3, 9, 9))
    with refuses(UsageError, "(5, 1, 8, 8)", 3):
        net(torch.rand(5, 1, 8, 8))


def test_mean_and_std_are_applied_before_the_module():
    images = torch.rand(2, 3, 8, 8)
    net = wrapped(nn.Flatten(), mean=(0.1, 0.2, 0.3), std=(2.0,))
    mean = torch.tensor([0.1, 0.2, 0.3]).reshape(1, 3, 1, 1)
    torch.testing.assert_close(net(images), ((images - mean) / 2).flatten(1))


def test_weights_of_older_runs_are_read():
    part = checked_encoder(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), "mine", 8, 1)
    old = {f"encoder.{name}": tensor + 1 for name, tensor in part.model.state_dict().items()}
    part.load_state_dict(old)
    assert torch.equal(part.model[1].weight, old["encoder.1.weight"]) and part.mean.item() == 0


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_scripted_and_compiled_modules_are_encoders():
    module, images = (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5)),
        torch.rand(2, 3, 8, 8),
    )
    for other in (torch.jit.trace(module, images), torch.compile(module)):
        torch.testing.assert_close(wrapped(other)(images), module(images))
