"""Encoders carried away: timm and torchvision load them strictly, and ONNX computes what PyTorch does."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
import torchvision
from refusals import refuses
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import fullrank
from fullrank import Recipe, Run, encoder, head
from fullrank.encoders import module_encoder
from fullrank.errors import DataError, UsageError
from fullrank.heads import Head
from fullrank.runs.run import ENCODER_FILE
from fullrank.targets.export import export, export_onnx, export_weights

MEAN, STD = (0.3, 0.4, 0.5), (0.2, 0.25, 0.3)


def run_of(quick_run: Run, folder: Path, spec: str, head_spec: str, size: int, channels: int) -> Run:
    """A run with a net of timm's whose batch statistics have left their start."""
    statistics = {"mean": MEAN[:channels], "std": STD[:channels]}
    net = encoder(spec, image_size=size, in_chans=channels, **statistics)
    with torch.no_grad():
        net(torch.rand(8, channels, size, size))
    save_file({}, folder / ENCODER_FILE, {"image_size": str(size), "in_chans": str(channels)})
    recipe = Recipe.resolve("digits", {"encoder": spec, "head": head_spec})
    part = head(head_spec, in_dim=net.feature_dim).eval()
    return replace(quick_run, path=folder, recipe=recipe, encoder=net.eval(), head=part)


@pytest.fixture(scope="module")
def standard(quick_run, tmp_path_factory):
    """resnet18 with its own stem, at more than 64 pixels, and the file it leaves."""
    folder = tmp_path_factory.mktemp("standard")
    run = run_of(quick_run, folder, "resnet18", "mlp:8", 66, 3)
    return run, export_weights(run, folder / "resnet18.safetensors")


def metadata(path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def loaded(model: nn.Module, path) -> nn.Module:
    model.load_state_dict(load_file(path), strict=True)
    return model.eval()


def normalised(images: torch.Tensor, notes: dict[str, str]) -> torch.Tensor:
    mean, std = (torch.tensor(json.loads(notes[key])).reshape(1, -1, 1, 1) for key in ("mean", "std"))
    return (images - mean) / std


def torchvision_resnet18() -> nn.Module:
    model = torchvision.models.resnet18(weights=None)
    model.fc = nn.Identity()
    return model


@pytest.mark.parametrize(
    "build",
    [lambda: timm.create_model("resnet18", num_classes=0), torchvision_resnet18],
    ids=["timm", "torchvision"],
)
@torch.no_grad()
def test_the_libraries_load_the_file_strictly_and_give_the_same_h(standard, build):
    run, (path, _) = standard
    images = torch.rand(3, 3, 66, 66)
    h = loaded(build(), path)(normalised(images, metadata(path)))
    torch.testing.assert_close(h, run.encoder(images), rtol=1e-5, atol=1e-5)


def test_the_file_says_how_to_use_it(standard):
    path, beside = standard[1]
    notes = metadata(path)
    assert notes["format"] == "pt" and notes["encoder"] == "resnet18" and notes["head"] == "mlp:8"
    assert notes["image_size"] == "66" and notes["in_chans"] == "3" and notes["place"] == "h"
    assert "stem" not in notes
    np.testing.assert_allclose(json.loads(notes["mean"]), MEAN, rtol=1e-6)
    np.testing.assert_allclose(json.loads(notes["std"]), STD, rtol=1e-6)
    assert beside.name == "resnet18.head.safetensors"
    assert not any(name.startswith("head") for name in load_file(path))


@torch.no_grad()
def test_the_head_is_beside_it_and_loads(standard):
    run, (_, path) = standard
    notes = metadata(path)
    h = torch.randn(4, 512)
    rebuilt = loaded(head(notes["head"], in_dim=int(notes["feature_dim"])), path)
    assert torch.equal(rebuilt(h), run.head(h))


@torch.no_grad()
def test_a_small_stem_comes_with_the_lines_that_change_timms_net(quick_run, tmp_path):
    (tmp_path / "run").mkdir()
    small = run_of(quick_run, tmp_path / "run", "resnet18,channels=3", "none", 16, 1)
    (path,) = export_weights(small, tmp_path / "small.safetensors", place="layer3.1")
    notes = metadata(path)
    model = timm.create_model("resnet18", num_classes=0, in_chans=int(notes["in_chans"]))
    with pytest.raises(RuntimeError, match="conv1"):
        loaded(model, path)
    exec(notes["stem"], {"torch": torch, "model": model})
    images = torch.rand(3, 1, 16, 16)
    h = loaded(model, path)(normalised(images, notes))
    torch.testing.assert_close(h, small.encoder(images), rtol=1e-5, atol=1e-5)
    assert notes["place"] == "layer3.1" and notes["in_chans"] == "3"
    assert [p.name for p in tmp_path.glob("*.*")] == ["small.safetensors"]  # this head has no weights


@torch.no_grad()
def test_our_own_encoder_comes_back_from_its_file(quick_run, tmp_path):
    path, beside = export(quick_run.path, str(tmp_path / "tiny.safetensors"))
    notes = metadata(path)
    size, channels = int(notes["image_size"]), int(notes["in_chans"])
    images = torch.rand(3, channels, size, size)
    rebuilt = loaded(encoder(notes["encoder"], image_size=size, in_chans=channels), path)
    assert torch.equal(rebuilt(images), quick_run.encoder(images))
    assert [beside.name, path.name] == sorted(p.name for p in tmp_path.iterdir())


def test_onnx_computes_the_features_for_any_number_of_images(quick_run, tmp_path, capfd):
    path = tmp_path / "tiny.onnx"
    difference = export_onnx(quick_run, path, place="head.1[:7]")
    assert capfd.readouterr() == ("", "")
    assert 0 <= difference < 1e-4
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (1, 2, 7):
        images = torch.rand(count, 1, 8, 8)
        with torch.no_grad():
            expected = quick_run.head.layers[0](quick_run.encoder(images))[:, :7]
        (features,) = session.run(["features"], {"images": images.numpy()})
        np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    assert str(Path(fullrank.__file__).parent).encode() not in path.read_bytes()
    model = onnx.load(path)
    onnx.checker.check_model(model)
    notes = {entry.key: entry.value for entry in model.metadata_props}
    assert notes["place"] == "head.1[:7]" and notes["head"] == "mlp:16" and notes["image_size"] == "8"
    assert float(notes["max_relative_difference"]) == pytest.approx(difference, rel=1e-2)


def test_onnx_reads_a_place_inside_a_net_of_timms(quick_run, tmp_path):
    run = run_of(quick_run, tmp_path, "test_resnet", "none", 32, 1)
    place = run.encoder.places[2]
    assert export(run, tmp_path / "small.onnx", place=place) == [tmp_path / "small.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx", providers=["CPUExecutionProvider"])
    images = torch.rand(3, 1, 32, 32)
    with torch.no_grad():
        expected = run.encoder.features(images, [place])[place]
    (features,) = session.run(None, {"images": images.numpy()})
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def pixels(quick_run):
    """A run whose h are the 64 pixels: a graph of one step."""
    return replace(quick_run, encoder=module_encoder(nn.Flatten(), image_size=8, in_chans=1))


class NoisyHead(Head):
    """Never the same twice, in ONNX neither."""

    def project(self, h):
        return h + torch.rand_like(h)


class BranchingHead(Head):
    """One thing or another, as its input says: no fixed graph does that."""

    def project(self, h):
        return h if h.sum() > 0 else -h


class CountedHead(Head):
    """It takes the number of images for a constant, so its graph holds for that number alone."""

    def project(self, h):
        return h / len(h)


def test_a_file_that_differs_from_pytorch_is_not_written(pixels, tmp_path):
    with refuses(DataError, "1e-04", "z", ".safetensors"):
        export_onnx(replace(pixels, head=NoisyHead(64, 64)), tmp_path / "noisy.onnx", place="z")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [BranchingHead, CountedHead])
def test_a_model_that_cannot_be_translated_is_one_sentence(pixels, tmp_path, capfd, kind):
    with refuses(DataError, "ONNX", ".safetensors") as error:
        export_onnx(replace(pixels, head=kind(64, 64)), tmp_path / "x.onnx", place="z")
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_a_model_beyond_what_onnx_holds_is_refused(quick_run, tmp_path):
    vast = NoisyHead(32, 32)
    vast.weight = nn.Parameter(torch.zeros(1).expand(2**29))  # 2 GiB to whoever counts, 4 bytes in memory
    with refuses(UsageError, "2.0 GiB", 2, ".safetensors"):
        export_onnx(replace(quick_run, head=vast), tmp_path / "vast.onnx")


def test_missing_extras_are_said_before_anything_is_computed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with refuses(UsageError, "onnxruntime", "onnxscript", "fullrank[onnx]"):
        export_onnx(tmp_path / "no run here", tmp_path / "x.onnx")


@pytest.mark.parametrize(
    ("write", "name", "names"),
    [
        (export, "x.pth", [".pth", ".safetensors", ".onnx"]),
        (export_weights, "x.onnx", ["x.onnx", ".safetensors"]),
        (export_onnx, "x.safetensors", ["x.safetensors", ".onnx"]),
        (export_onnx, "nowhere/x.onnx", ["nowhere", "x.onnx"]),
        (export_weights, "taken.safetensors", ["taken.safetensors"]),
        (export_weights, "other.safetensors", ["other.head.safetensors"]),
        (export_onnx, "taken.onnx", ["taken.onnx"]),
    ],
)
def test_a_file_that_cannot_be_made_is_said_and_nothing_changes(quick_run, tmp_path, write, name, names):
    files = ["other.head.safetensors", "taken.onnx", "taken.safetensors"]
    for file in files:
        (tmp_path / file).write_text("precious")
    with refuses(UsageError, *names) as error:
        write(quick_run, tmp_path / name)
    assert "\n" not in str(error.value)
    assert [(tmp_path / file).read_text() for file in files] == ["precious"] * 3
    assert sorted(p.name for p in tmp_path.iterdir()) == files


@pytest.mark.parametrize("ending", ["safetensors", "onnx"])
def test_a_place_that_is_not_there_is_said(quick_run, tmp_path, ending):
    with refuses(UsageError, "layer9.0"):
        export(quick_run, tmp_path / f"x.{ending}", place="layer9.0")
    assert not list(tmp_path.iterdir())
