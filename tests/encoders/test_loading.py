"""Which net of a file is loaded, and what is refused or said because no tensor shows it."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from refusals import assert_names, refuses
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from fullrank import encoder
from fullrank.encoders import Encoder, load_weights, plain_state, read_weights, statistics_in, with_options_of
from fullrank.encoders.architectures import architecture_of
from fullrank.encoders.stems import replace_stem, stem_lines, stem_of
from fullrank.errors import UsageError

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def ours() -> Encoder:
    return encoder("test_vit", image_size=32).eval()


@pytest.fixture(scope="module")
def states(ours) -> tuple[State, State]:
    """The states of two nets of one architecture."""
    generator = torch.Generator().manual_seed(0)
    shapes = {name: tensor.shape for name, tensor in plain_state(ours).items()}
    first, second = ({n: torch.rand(s, generator=generator) for n, s in shapes.items()} for _ in range(2))
    return first, second


def behind(state: State, prefix: str) -> State:
    return {f"{prefix}.{name}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    ("first", "second", "prefix", "chosen"),
    [
        ("texture_encoder", "semantic_encoder", None, 0),
        ("semantic_encoder", "texture_encoder", None, 0),
        ("rgb", "depth", "depth", 1),
        ("backbone_momentum", "backbone", None, 1),
        ("student.backbone", "teacher.backbone", None, 1),
        ("student.backbone", "teacher.backbone", "student", 0),
        ("module.momentum_encoder", "module.base_encoder", None, 1),
        ("module.momentum_encoder", "module.base_encoder", "module.momentum_encoder.", 0),
        ("encoder_k", "encoder_q", None, 1),
        ("encoder_m", "encoder", None, 1),
        # timm's load_checkpoint takes the average beside the weights.
        ("state_dict", "state_dict_ema", None, 1),
        ("model", "model_ema", None, 1),
        ("model", "model_ema", "model", 0),
        # A copy that a method keeps for training.
        ("ema_encoder", "encoder", None, 1),
    ],
)
def test_of_two_nets_the_chosen_one_is_loaded_and_both_are_named(
    first, second, prefix, chosen, states, ours, tmp_path
):
    torch.save(behind(states[0], first) | behind(states[1], second), tmp_path / "two.pth")
    loaded = load_weights(ours, tmp_path / "two.pth", prefix)
    for name, tensor in plain_state(ours).items():
        assert torch.equal(tensor, states[chosen][name])
    names = (first, second) if chosen == 0 else (second, first)
    assert (loaded.prefix, loaded.others) == (names[0], (names[1],))
    assert [len(loaded.ignored)] == [count for _, count in loaded.left_out] == [len(states[0])]
    assert_names(str(loaded), "two.pth", *names, len(states[0]), "--weights-prefix")


def test_an_average_is_the_one_that_timm_loads(states, ours, tmp_path):
    torch.save({"state_dict": states[0], "state_dict_ema": states[1]}, tmp_path / "last.pth.tar")
    net = timm.create_model("test_vit", num_classes=0, img_size=32)
    timm.models.load_checkpoint(net, str(tmp_path / "last.pth.tar"))
    load_weights(ours, tmp_path / "last.pth.tar")
    assert all(torch.equal(tensor, plain_state(ours)[name]) for name, tensor in net.state_dict().items())


def test_a_second_name_of_the_same_net_is_no_other_net(states, ours, tmp_path):
    torch.save(behind(states[0], "net") | behind(states[0], "online_encoder.net"), tmp_path / "byol.pth")
    assert load_weights(ours, tmp_path / "byol.pth").others == ()


def test_a_prefix_without_a_net_names_those_that_fit(states, ours, tmp_path):
    torch.save(behind(states[0], "rgb") | behind(states[1], "depth"), tmp_path / "two.pth")
    with refuses(UsageError, "two.pth", "infrared", "rgb", "depth"):
        load_weights(ours, tmp_path / "two.pth", "infrared")


def test_what_was_not_used_is_counted_by_its_part(states, ours, tmp_path):
    extra = {"model.backbone.head.weight": torch.ones(2, 2), "model.projector.0.weight": torch.ones(2, 2)}
    torch.save(behind(states[0], "model.backbone") | extra, tmp_path / "ssl.pth")
    loaded = load_weights(ours, tmp_path / "ssl.pth")
    assert set(loaded.ignored) == set(extra) and [count for _, count in loaded.left_out] == [2]
    assert_names(loaded.left_out[0][0], "head", "projector")


@pytest.mark.parametrize(
    "facts",
    [
        {"args": {"num_heads": 4}},
        {"args": argparse.Namespace(num_heads=4, lr=0.1)},
        {"hyper_parameters": {"backbone": {"n_heads": 4}}},
    ],
)
def test_another_number_of_heads_in_a_file_is_refused(facts, states, ours, tmp_path):
    torch.save({"model": states[0], **facts}, tmp_path / "vit.pth")
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    with refuses(UsageError, "vit.pth", "num_heads=4", "num_heads=2", "test_vit,num_heads=4"):
        load_weights(ours, tmp_path / "vit.pth")
    assert all(torch.equal(tensor, before[name]) for name, tensor in ours.state_dict().items())


def test_with_the_number_of_heads_of_a_file_the_encoder_computes_its_function(states, tmp_path):
    torch.save({"model": states[0], "args": {"num_heads": 4}}, tmp_path / "vit.pth")
    spec = with_options_of("test_vit", tmp_path / "vit.pth")
    assert spec == "test_vit,num_heads=4"
    right = encoder(spec, image_size=32, mean=(0.0,), std=(1.0,)).eval()
    assert load_weights(right, tmp_path / "vit.pth").tensors == len(states[0])
    theirs = timm.create_model("test_vit", num_classes=0, img_size=32, num_heads=4).eval()
    theirs.load_state_dict(states[0])
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(right(images), theirs(images))


def test_the_transformer_of_moco_v3_needs_its_twelve_heads(tmp_path):
    state = timm.create_model("vit_small_patch16_224", num_classes=0, img_size=32, depth=1).state_dict()
    content = {"arch": "vit_small", "state_dict": behind(state, "module.base_encoder")}
    torch.save(content, tmp_path / "moco.pth.tar")
    spec = "vit_small_patch16_224"
    assert with_options_of(spec, tmp_path / "moco.pth.tar") == f"{spec},num_heads=12"


def test_heads_that_nothing_states_are_named_as_assumed(states, ours, tmp_path):
    torch.save(states[0], tmp_path / "vit.pth")
    loaded = load_weights(ours, tmp_path / "vit.pth")
    assert "num_heads=2" in loaded.assumed
    assert_names(str(loaded), "num_heads=2", "1e-06", "GELU", "pool=token")


def test_a_transformer_that_averages_its_tokens_needs_that_pooling(ours, tmp_path):
    theirs = timm.create_model("test_vit", num_classes=0, img_size=32, global_pool="avg").eval()
    torch.save(theirs.state_dict(), tmp_path / "avg.pth")
    with refuses(UsageError, "avg.pth", "norm.weight", "fc_norm.weight", "test_vit,pool=avg"):
        load_weights(ours, tmp_path / "avg.pth")
    spec = with_options_of("test_vit", tmp_path / "avg.pth")
    right = encoder(spec, image_size=32, mean=(0.0,), std=(1.0,)).eval()
    load_weights(right, tmp_path / "avg.pth")
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(right(images), theirs(images))


def test_an_unknown_model_has_no_options_and_is_refused_when_built(states, tmp_path):
    torch.save(states[0], tmp_path / "vit.pth")
    assert with_options_of("test_vitt", tmp_path / "vit.pth") == "test_vitt"


def test_a_pooling_that_a_model_lacks_is_refused():
    with refuses(UsageError, "resnet18", "pool=token"):
        encoder("resnet18,pool=token", image_size=32)


def test_our_own_file_of_the_same_encoder_assumes_nothing(ours, tmp_path):
    save_file(ours.state_dict(), tmp_path / "encoder.safetensors", {"encoder": "test_vit"})
    loaded = load_weights(ours, tmp_path / "encoder.safetensors")
    assert not loaded.remarkable and loaded.tensors == len(ours.state_dict())


def test_pretrained_weights_keep_their_number_of_heads():
    with refuses(UsageError, "test_vit", "num_heads=4", "pretrained=true"):
        encoder("test_vit,num_heads=4,pretrained=true", image_size=160)


@pytest.mark.parametrize(
    ("spec", "number"), [("test_vit", 5), ("test_vit", 0), ("test_resnet", 2), ("test_vit", -2)]
)
def test_a_number_of_heads_that_a_model_cannot_have_is_refused(spec, number):
    with refuses(UsageError, spec, "num_heads", number):
        encoder(f"{spec},num_heads={number}", image_size=32)


SHALLOW: dict[str, Any] = {"layers": (1, 1, 1, 1), "num_classes": 0}


@pytest.mark.parametrize(
    ("stem", "padding", "pools"), [("small", 1, False), ("small-pool", 1, True), ("small-padded", 2, False)]
)
def test_each_small_stem_computes_what_torchvisions_net_computes_with_it(stem, padding, pools):
    theirs = torchvision.models.ResNet(BasicBlock, [1, 1, 1, 1]).eval()
    theirs.conv1, theirs.fc = nn.Conv2d(3, 64, 3, 1, padding, bias=False), nn.Identity()
    theirs.maxpool = theirs.maxpool if pools else nn.Identity()
    model = timm.create_model("resnet18", **SHALLOW).eval()
    replace_stem(model, "resnet18", 3, stem, required=True)
    model.load_state_dict(theirs.state_dict())
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        h = model(images)
        torch.testing.assert_close(h, theirs(images), rtol=0, atol=1e-5)
        [line] = stem_lines(model).values()
        again = {"torch": torch, "model": timm.create_model("resnet18", **SHALLOW).eval()}
        exec(line, again)
        again["model"].load_state_dict(theirs.state_dict())
        torch.testing.assert_close(again["model"](images), h)
    assert stem_of(model) == stem


def test_a_stem_in_the_metadata_of_our_own_file_is_used(tmp_path):
    first = encoder("resnet18,stem=small-pool", image_size=32)
    save_file(plain_state(first), tmp_path / "net.safetensors", {"encoder": first.spec})
    assert with_options_of("resnet18", tmp_path / "net.safetensors") == "resnet18,stem=small-pool"
    with refuses(UsageError, "net.safetensors", "stem=small-pool", "stem=small", "resnet18,stem=small-pool"):
        load_weights(encoder("resnet18", image_size=32), tmp_path / "net.safetensors")
    save_file(plain_state(first), tmp_path / "theirs.safetensors")
    loaded = load_weights(first, tmp_path / "theirs.safetensors")
    assert_names(str(loaded), "stem=small-pool", "small", "small-padded", "max-pool", "ReLU")


def test_plain_values_beside_tensors_are_facts_and_objects_are_left_out(tmp_path):
    content = {
        "args": argparse.Namespace(arch="x", path=Path("a"), parts=[1]),
        "a": torch.ones(2),
        "epoch": 3,
    }
    torch.save(content, tmp_path / "a.pth")
    weights = read_weights(tmp_path / "a.pth")
    assert list(weights.tensors) == ["a"] and weights.facts == {"args.arch": "x", "epoch": 3}
    assert "argparse.Namespace" in weights.objects


@pytest.mark.parametrize("metadata", [True, False])
def test_the_statistics_of_our_own_files_are_read(metadata, tmp_path):
    net = encoder("test_vit", image_size=32, mean=(0.25,), std=(0.5,))
    if metadata:
        notes = {"mean": "[0.25, 0.25, 0.25]", "std": "[0.5, 0.5, 0.5]", "image_size": "32", "in_chans": "3"}
        save_file(plain_state(net), tmp_path / "a.safetensors", notes)
        weights = read_weights(tmp_path / "a.safetensors")
    else:
        torch.save({"state_dict": behind(net.state_dict(), "encoder")}, tmp_path / "a.ckpt")
        weights = read_weights(tmp_path / "a.ckpt")
    statistics = statistics_in(weights)
    assert (statistics.mean, statistics.std) == ((0.25,) * 3, (0.5,) * 3)
    assert (statistics.image_size, statistics.in_chans) == ((32, 3) if metadata else (None, None))


@pytest.mark.parametrize("text", ["", "NaN of", "[1", '{"a": 1}', '["x"]', "null"])
def test_metadata_that_are_no_numbers_are_no_statistics(text, tmp_path):
    save_file(
        {"a": torch.ones(1)}, tmp_path / "a.safetensors", {"mean": text, "std": text, "image_size": text}
    )
    statistics = statistics_in(read_weights(tmp_path / "a.safetensors"))
    assert (statistics.mean, statistics.std, statistics.image_size) == (None, None, None)


@pytest.mark.parametrize(
    "name",
    ["resnet34", "wide_resnet50_2", "vit_tiny_patch16_384", "vit_small_patch14_dinov2"],
)
def test_the_architecture_of_a_file_is_recognised(name):
    with torch.device("meta"):
        state: dict[str, Any] = timm.create_model(name).state_dict()
    assert architecture_of(behind(state, "module.backbone")) == name


@pytest.mark.parametrize("name", ["resnext50_32x4d", "test_convnext", "resnet26", "vit_tiny_r_s16_p8_224"])
def test_an_unknown_architecture_is_not_guessed(name):
    with torch.device("meta"):
        state: dict[str, Any] = timm.create_model(name).state_dict()
    assert architecture_of(state) is None


def test_a_patch_size_is_not_resampled(ours, tmp_path):
    other = timm.create_model("test_vit", num_classes=0, img_size=32, patch_size=8)
    torch.save(other.state_dict(), tmp_path / "patches.pth")
    with refuses(UsageError, "patches.pth", "patch_embed.proj.weight", "64x3x8x8", "64x3x16x16"):
        load_weights(ours, tmp_path / "patches.pth")


def test_weights_of_a_larger_image_are_resampled_and_say_so(ours, tmp_path):
    other = timm.create_model("test_vit", num_classes=0, img_size=64)
    torch.save(other.state_dict(), tmp_path / "large.pth")
    loaded = load_weights(ours, tmp_path / "large.pth")
    assert loaded.tensors == len(other.state_dict())
    assert_names(str(loaded), "pos_embed", "1x17x64", "1x5x64")
