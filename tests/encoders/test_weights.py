"""Weights of others: their own modules write the files, and h must be what they compute."""

import argparse
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from refusals import refuses
from safetensors.torch import save_file
from torch import Tensor, nn

from fullrank import encoder
from fullrank.encoders import Encoder, load_weights, plain_state, read_weights, with_options_of
from fullrank.errors import DataError, UsageError

STANDARD = {"image_size": 64, "mean": (0.0,), "std": (1.0,)}


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    torch.manual_seed(3)
    net = torchvision.models.resnet18()
    with torch.no_grad():
        for buffer in net.buffers():
            if buffer.is_floating_point():
                buffer.add_(0.1 * torch.rand_like(buffer))
    return net.eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def h(theirs, images) -> Tensor:
    """torchvision's own pooled features."""
    return nn.Sequential(*list(theirs.children())[:-1])(images).flatten(1).detach()


@pytest.fixture(scope="module")
def shared() -> Encoder:
    return encoder("resnet18,stem=standard", **STANDARD).eval()


@pytest.fixture
def ours(shared) -> Encoder:
    """An encoder that nothing was loaded into: no tensor of the test before is left."""
    for tensor in plain_state(shared).values():
        tensor.zero_()
    return shared


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def noise(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: torch.randn_like(tensor.float()) for name, tensor in state.items()}


@pytest.mark.parametrize(
    "layout",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"state": {0: {"exp": torch.ones(2)}}}},
        lambda state: {"model": state},
        lambda state: {"model_state_dict": prefixed(state, "module.")},
        lambda state: {"state_dict_ema": state},
        lambda state: prefixed(state, "encoder."),
        lambda state: {"model": prefixed(state, "module.backbone.")},
        # MoCo: the slow encoder and the queue come first, so order alone must not decide.
        lambda state: {
            "state_dict": noise(state, "module.encoder_k.")
            | prefixed(state, "module.encoder_q.")
            | {"module.queue": torch.randn(128, 16)}
        },
        # BYOL, DINO.
        lambda state: noise(state, "target_encoder.") | prefixed(state, "online_encoder."),
        lambda state: {"student": noise(state, "backbone."), "teacher": prefixed(state, "backbone.")},
        # solo-learn.
        lambda state: {
            "state_dict": noise(state, "momentum_backbone.")
            | prefixed({n: t for n, t in state.items() if not n.startswith("fc.")}, "backbone.")
            | {"projector.0.weight": torch.randn(8, 512), "classifier.weight": torch.randn(10, 512)}
        },
    ],
)
def test_state_dicts_of_torchvision_give_its_own_features_behind_any_prefix(
    layout, theirs, images, h, ours, tmp_path
):
    torch.save(layout(dict(theirs.state_dict())), tmp_path / "net.pth")
    loaded = load_weights(ours, tmp_path / "net.pth")
    assert loaded.tensors == 120
    torch.testing.assert_close(ours(images), h, rtol=0, atol=1e-5)
    assert ours.mean.eq(0).all() and ours.std.eq(1).all()


def test_a_lightly_model_gives_its_own_features(theirs, images, h, ours, tmp_path):
    heads = pytest.importorskip("lightly.models.modules.heads")

    class SimCLR(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Sequential(*list(theirs.children())[:-1])
            self.projection_head = heads.SimCLRProjectionHead(512, 64, 32)

    checkpoint = {"state_dict": SimCLR().state_dict(), "pytorch-lightning_version": "2.6.6", "epoch": 1}
    torch.save(checkpoint, tmp_path / "last.ckpt")
    loaded = load_weights(ours, tmp_path / "last.ckpt")
    torch.testing.assert_close(ours(images), h, rtol=0, atol=1e-5)
    assert loaded.tensors == 120
    assert loaded.ignored and all("projection_head" in name for name in loaded.ignored)


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_efficientnet"])
def test_a_classifier_of_timm_gives_its_own_features(name, tmp_path):
    torch.manual_seed(1)
    options = {"img_size": 64} if timm.get_pretrained_cfg(name).fixed_input_size else {}
    classifier = timm.create_model(name, num_classes=7, **options).eval()
    save_file(classifier.state_dict(), tmp_path / "net.safetensors")
    ours = encoder(name, **STANDARD).eval()
    loaded = load_weights(ours, tmp_path / "net.safetensors")
    images = torch.rand(2, 3, 64, 64)
    expected = classifier.forward_head(classifier.forward_features(images), pre_logits=True)
    torch.testing.assert_close(ours(images), expected)
    assert all(tensor.shape[0] == 7 for n, tensor in classifier.state_dict().items() if n in loaded.ignored)


@pytest.mark.parametrize("spec", ["tiny-resnet,width=4", "test_resnet"])
@pytest.mark.parametrize("within", ["encoder.safetensors", "last.ckpt"])
def test_our_own_files_come_with_the_mean_and_spread_of_their_images(spec, within, tmp_path):
    torch.manual_seed(1)
    first = encoder(spec, image_size=32, mean=(0.1, 0.2, 0.3), std=(0.7, 0.8, 0.9))
    if within == "last.ckpt":
        torch.save({"state_dict": prefixed(first.state_dict(), "encoder.")}, tmp_path / within)
    else:
        save_file(
            {n: t.contiguous() for n, t in first.state_dict().items()}, tmp_path / within, {"encoder": spec}
        )
    again = encoder(spec, image_size=32)
    loaded = load_weights(again, tmp_path / within)
    assert loaded.tensors == len(first.state_dict()) and loaded.ignored == ()
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(again.eval()(images), first.eval()(images))


def test_metadata_is_read_along(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors", {"encoder": "resnet18"})
    assert read_weights(tmp_path / "a.safetensors").metadata == {"encoder": "resnet18"}


def test_half_precision_is_widened(theirs, ours, tmp_path):
    torch.save(
        {n: t.half() if t.is_floating_point() else t for n, t in theirs.state_dict().items()},
        tmp_path / "a.pt",
    )
    load_weights(ours, tmp_path / "a.pt")
    assert ours.model.conv1.weight.dtype == torch.float32
    torch.testing.assert_close(ours.model.conv1.weight, theirs.conv1.weight, rtol=1e-3, atol=1e-3)


def test_counts_of_batches_may_be_missing(theirs, ours, tmp_path):
    without_counts = {n: t for n, t in theirs.state_dict().items() if not n.endswith("num_batches_tracked")}
    torch.save(without_counts, tmp_path / "a.pth")
    assert load_weights(ours, tmp_path / "a.pth").tensors == 100


def test_plain_state_is_what_timm_and_torchvision_load(ours, images, tmp_path):
    for net in (timm.create_model("resnet18", num_classes=0), torchvision.models.resnet18()):
        net.fc = nn.Identity()
        net.load_state_dict(plain_state(ours))
        torch.testing.assert_close(net.eval()(images), ours(images), rtol=0, atol=1e-5)
    assert set(plain_state(encoder("tiny-resnet", image_size=8))) >= {"stem.0.weight", "mean", "std"}


@pytest.fixture(scope="module")
def resnets(tmp_path_factory) -> Path:
    """A folder with torchvision's residual nets of three depths."""
    folder = tmp_path_factory.mktemp("resnets")
    for name in ("resnet18", "resnet34", "resnet50"):
        torch.save(getattr(torchvision.models, name)().state_dict(), folder / f"{name}.pth")
    return folder


@pytest.mark.parametrize(
    ("spec", "in_chans", "file", "names"),
    [
        ("resnet18", 3, "resnet50", ["resnet50.pth", "conv1.weight", "64x3x7x7", "64x3x3x3"]),
        ("resnet34", 3, "resnet18", ["missing", "layer1.2.conv1.weight", "layer1.2.bn1.weight", "..."]),
        ("resnet18,stem=standard", 3, "resnet34", [80, "larger", "layer1.2.conv1.weight", "resnet34"]),
        ("resnet18", 3, "resnet18", [1, "resnet18,stem=standard", "7x7"]),
        ("resnet18,stem=standard", 1, "resnet18", ["resnet18,stem=standard,channels=3", "grey"]),
        ("resnet18", 1, "resnet18", ["resnet18,channels=3,stem=standard", "grey", "7x7"]),
        ("test_vit", 3, "resnet18", ["missing"]),
        ("tiny-resnet", 3, "resnet18", ["missing"]),
    ],
)
def test_weights_of_another_net_are_refused_with_the_remedy_and_change_nothing(
    spec, in_chans, file, names, resnets
):
    net = encoder(spec, image_size=32, in_chans=in_chans)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with refuses(UsageError, f"{file}.pth", spec.partition(",")[0], *names) as error:
        load_weights(net, resnets / f"{file}.pth")
    assert "\n" not in str(error.value) and str(error.value).endswith(".")
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_weights_for_a_small_stem_say_so(ours, tmp_path):
    torch.save(plain_state(encoder("resnet18", image_size=32)), tmp_path / "cifar.pth")
    with refuses(UsageError, "cifar.pth", "resnet18,stem=small", "3x3"):
        load_weights(ours, tmp_path / "cifar.pth")


def test_our_own_weights_of_colour_images_do_not_fit_grey_ones(tmp_path):
    save_file(encoder("test_resnet", image_size=32).state_dict(), tmp_path / "encoder.safetensors")
    with refuses(UsageError, "test_resnet,channels=3"):
        load_weights(encoder("test_resnet", image_size=32, in_chans=1), tmp_path / "encoder.safetensors")


def cut(path: Path, keep: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


def _write(path: Path, kind: str) -> None:
    tensors = {"a.weight": torch.ones(20000)}
    match kind:
        case "text":
            path.write_text("<!DOCTYPE html><html>not found</html>")
        case "empty":
            path.write_bytes(b"")
        case "cut" if path.suffix == ".safetensors":
            save_file(tensors, path)
            cut(path, 0.5)
        case "cut":
            torch.save(tensors, path)
            cut(path, 0.5)
        case "old and cut":
            torch.save(tensors, path, _use_new_zipfile_serialization=False)
            cut(path, 0.9)
        case "objects":
            torch.save({"net": argparse.Namespace(**{"a": torch.ones(2)})}, path)
        case "module":
            torch.save(nn.Linear(2, 2), path)
        case "list":
            torch.save([torch.ones(2)], path)
        case "tensors":
            torch.save(tensors, path)


@pytest.mark.parametrize(
    ("name", "kind", "names"),
    [
        ("a.pth", "text", ["torch.save", "safetensors"]),
        ("a.pth", "empty", ["damaged", "safetensors"]),
        ("a.pth", "cut", ["damaged", "safetensors"]),
        ("a.pth.tar", "old and cut", ["damaged", "safetensors"]),
        ("a.ckpt", "objects", ["argparse.Namespace", "unpickled", "safetensors"]),
        ("a.pt", "module", ["torch.nn.modules.linear.Linear", "unpickled", "safetensors"]),
        ("a.bin", "list", ["safetensors"]),
        ("a.safetensors", "text", ["weights", "convert"]),
        ("a.safetensors", "cut", ["weights", "copy"]),
        ("a.safetensors", "tensors", ["weights", "convert"]),
        ("a.npz", "tensors", [".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar"]),
        ("a.pth", "nothing", [".safetensors", ".pth"]),
    ],
)
def test_a_file_that_cannot_be_read_is_one_sentence_with_the_remedy(name, kind, names, tmp_path):
    _write(tmp_path / name, kind)
    with refuses(DataError, tmp_path / name, *names) as error:
        read_weights(tmp_path / name)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_nothing_in_a_file_is_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"a": torch.ones(2), "b": Trap()}, tmp_path / "a.pth")
    with refuses(DataError, "a.pth", "unpickled"):
        read_weights(tmp_path / "a.pth")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("spec", "file", "expected"),
    [
        ("resnet18", "resnet18", "resnet18,stem=standard"),
        ("resnet18,stem=small", "resnet18", "resnet18,stem=small"),
        ("resnet18", "cifar", "resnet18,stem=small"),
        ("vit_tiny_patch16_224", "resnet18", "vit_tiny_patch16_224"),
        ("tiny-resnet", "resnet18", "tiny-resnet"),
    ],
)
def test_with_options_of_names_the_stem_of_the_file(spec, file, expected, resnets):
    torch.save(plain_state(encoder("resnet18", image_size=32)), resnets / "cifar.pth")
    assert str(with_options_of(spec, resnets / f"{file}.pth")) == expected
