"""Anybody's model: the input that its weights need, what is said of it, and what cannot be opened."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from refusals import assert_names, refuses
from timm.data import create_transform, resolve_data_config
from torch import nn
from torch.utils.data import Dataset
from transparent import LOUD, Clear, Coded, Pixels, coded_images
from typer.testing import CliRunner

from fullrank import diagnose, embed, probe, target
from fullrank.cli.commands import app
from fullrank.errors import UsageError
from fullrank.targets.images import images_in

NET = "test_resnet"  # timm's own tiny net, for images of 160 pixels
SIZES = ((180, 200), (260, 190), (170, 170), (300, 161))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A folder of colour images of unlike sizes, in two classes, without splits."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for row in range(8):
        width, height = SIZES[row % len(SIZES)]
        pixels = rng.integers(0, 256, (height // 10, width // 10, 3), dtype=np.uint8)
        path = folder / "ab"[row % 2] / f"{row}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).resize((width, height)).save(path)
    return folder


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    """A tiny net of timm's and a file of its weights."""
    torch.manual_seed(0)
    model = timm.create_model(NET, num_classes=0).eval()
    file = tmp_path_factory.mktemp("weights") / "net.pth"
    torch.save(model.state_dict(), file)
    return model, file


def of_timm(model: nn.Module, folder, **changed) -> np.ndarray:
    """What timm's own transform and forward give for the images of a folder, in the order of their paths."""
    transform = create_transform(**(resolve_data_config({}, model=model) | changed))
    paths = sorted(folder.rglob("*.png"), key=lambda path: path.relative_to(folder).parts)
    with torch.no_grad():
        return model(torch.stack([transform(Image.open(path)) for path in paths])).numpy()


def test_a_file_of_weights_brings_the_preprocessing_of_its_architecture(net, photographs):
    model, file = net
    opened = target(NET, weights=file)
    assert opened.trained and opened.preprocessing.size == 160
    features = embed(opened, f"folder:{photographs}")
    np.testing.assert_allclose(features, of_timm(model, photographs), rtol=1e-5, atol=1e-5)


def test_size_mean_and_spread_of_the_user_replace_those_of_the_weights(net, photographs):
    model, file = net
    given = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    expected = of_timm(model, photographs, input_size=(3, 96, 96), **given)
    features = embed(target(NET, weights=file, image_size=96, **given), f"folder:{photographs}")
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-5)


def test_a_module_of_timms_brings_its_own_configuration(net, photographs):
    model, _ = net
    features = embed(model, f"folder:{photographs}")
    np.testing.assert_allclose(features, of_timm(model, photographs), rtol=1e-5, atol=1e-5)


def test_a_transform_of_the_users_is_the_whole_preprocessing(net, photographs):
    model, _ = net
    transform = create_transform(input_size=(3, 64, 64), mean=(0.2,) * 3, std=(0.7,) * 3)
    expected = of_timm(
        model,
        photographs,
        input_size=(3, 64, 64),
        mean=(0.2,) * 3,
        std=(0.7,) * 3,
        crop_pct=None,
        interpolation="bilinear",
    )
    features = embed(target(model, transform=transform), f"folder:{photographs}")
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-5)


def test_the_user_replaces_what_a_library_gives_its_own_weights(photographs, monkeypatch):
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **more: create(name, **more))
    images = images_in(
        opened := target(f"{NET},pretrained=true", mean=(0.1,) * 3, std=(0.7,) * 3),
        f"folder:{photographs}",
        "all",
    )
    encoder = opened.opened(images)
    assert encoder.mean.flatten().tolist() == pytest.approx([0.1] * 3) and not encoder.training
    as_given = target(f"{NET},pretrained=true", transform=create_transform(input_size=(3, 64, 64)))
    encoder = as_given.opened(images_in(as_given, f"folder:{photographs}", "all"))
    assert encoder.mean.flatten().tolist() == [0.0] * 3 and encoder.std.flatten().tolist() == [1.0] * 3


def test_a_module_of_the_users_keeps_its_mode(photographs):
    model = timm.create_model(NET, num_classes=0).train()
    embed(model, f"folder:{photographs}")
    assert all(module.training for module in model.modules())


def test_a_net_without_weights_is_called_untrained_and_no_place_is_to_be_kept(photographs, tmp_path, capsys):
    found = diagnose(
        "resnet10t", data=f"folder:{photographs}", image_size=32, places=["layer4.0", "h"], out=tmp_path
    )
    assert_names(capsys.readouterr().err, "untrained")
    assert found.verdict.lower().startswith("untrained") and found.entry.cut is None
    assert not target("resnet10t").trained and target("resnet10t,pretrained=true").trained


def test_a_folder_without_splits_is_looked_at_whole(net, photographs, tmp_path):
    _, file = net
    found = diagnose(target(NET, weights=file), data=f"folder:{photographs}", places=["h"], out=tmp_path)
    assert found.entry.rows == 8
    assert found.entry.images.train + found.entry.images.test == 8
    assert_names(" ".join(found.entry.about), "160", "0.5")


def test_transfer_is_fitted_on_the_training_images_and_scored_on_the_test_images():
    net = Pixels(in_chans=1, image_size=4)
    found = probe(net, ["h", "quiet"], data=Coded)
    assert found.probes["h"].linear == found.probes["h"].nearest == LOUD
    shifted = probe(net, data=Coded, shifts=["transparent:Clear"])
    assert {score.value for score in shifted.scores if score.split == "transparent:Clear"} == {1.0}
    assert Clear.splits == ("test",)


def test_a_run_is_probed_on_other_images_too(transparent_probe_run):
    run = transparent_probe_run
    images = coded_images("train").images
    own = probe(run, ["stem"], data="digits").probes["stem"]
    assert own.linear > 0.5 and images.shape[1:] != (8, 8, 1)


@pytest.fixture
def transparent_probe_run(quick_run):
    return quick_run


class Pairs(Dataset):
    """Two images that are read by number."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, row: int):
        return np.full((8, 8), row, np.uint8), row


@pytest.mark.parametrize(
    ("model", "options", "names"),
    [
        ("nowhere/at-all", {}, ("nowhere/at-all",)),
        ("features.npy", {}, ("features.npy",)),
        ("weights.pth", {}, ("weights.pth", "resnet18")),
        ("resnet18", {"mean": (0.5,)}, ("mean", "std")),
        ("resnet18", {"prefix": "teacher"}, ("teacher", "weights")),
        (nn.Flatten(), {"weights": "w.pth"}, ("weights",)),
        ("resnet18", {"transform": np.asarray, "image_size": 3}, ("transform", "size")),
    ],
)
def test_what_is_no_model_or_does_not_apply_to_one_is_refused(model, options, names):
    with refuses(UsageError, *names):
        target(model, **options)


def test_a_model_has_no_images_and_one_set_cannot_be_probed():
    with refuses(UsageError, "resnet10t", "--data"):
        probe("resnet10t")
    with refuses(UsageError, "train", "test"):
        probe(nn.Flatten(), data=Pairs())


def test_options_of_a_model_are_refused_for_a_file_of_embeddings(tmp_path):
    np.save(tmp_path / "x.npy", np.eye(4, dtype=np.float32))
    for command in ("diagnose", "probe"):
        result = CliRunner().invoke(app, [command, str(tmp_path / "x.npy"), "--mean", "0.5"])
        assert isinstance(result.exception, UsageError) or result.exit_code == 2
