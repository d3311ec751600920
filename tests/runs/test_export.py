"""Encoders carried away: timm and torchvision load them strictly, and ONNX computes what PyTorch does."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

import fullrank
from fullrank import Run, encoder, head, source, train
from fullrank.errors import DataError, UsageError
from fullrank.heads import Head
from fullrank.runs.export import export, export_onnx, export_weights


def library_run(folder, size: int, channels: int, **options: object) -> Run:
    """One epoch of a net of timm's on random images of some size."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, size, size, channels)[: 3 if channels == 1 else 4], dtype=np.uint8)
    np.savez(folder / "images.npz", images=images)
    settings = {"data": f"npz:{folder}/images.npz", "epochs": 1, "batch_size": 20, "image_size": size}
    return train("digits", out=folder / "run", **settings, **options)


@pytest.fixture(scope="module")
def standard(tmp_path_factory):
    """resnet18 with its own stem, at more than 64 pixels, and the file it leaves."""
    folder = tmp_path_factory.mktemp("standard")
    run = library_run(folder, 66, 3, encoder="resnet18", head="mlp:8")
    return run, export_weights(run, folder / "resnet18.safetensors")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """resnet18 with the small stem, on grey images of 16 pixels that it repeats to 3 channels."""
    folder = tmp_path_factory.mktemp("small")
    return library_run(folder, 16, 1, encoder="resnet18,channels=3", head="none")


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
    run, (path, beside) = standard
    notes = metadata(path)
    assert notes["format"] == "pt" and notes["encoder"] == "resnet18" and notes["head"] == "mlp:8"
    assert notes["image_size"] == "66" and notes["in_chans"] == "3" and notes["place"] == "h"
    assert "stem" not in notes
    mean, std = (json.loads(notes[key]) for key in ("mean", "std"))
    pixels = source(run.recipe.data).load("train").images / 255
    np.testing.assert_allclose(mean, pixels.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(std, pixels.std((0, 1, 2)), rtol=1e-6)
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
def test_a_small_stem_comes_with_the_lines_that_change_timms_net(small, tmp_path):
    (path,) = export_weights(small, tmp_path / "small.safetensors", place="layer3.1")
    notes = metadata(path)
    model = timm.create_model("resnet18", num_classes=0, in_chans=int(notes["in_chans"]))
    with pytest.raises(RuntimeError, match="size mismatch for conv1"):
        loaded(model, path)
    exec(notes["stem"], {"torch": torch, "model": model})
    images = torch.rand(3, 1, 16, 16)
    h = loaded(model, path)(normalised(images, notes))
    torch.testing.assert_close(h, small.encoder(images), rtol=1e-5, atol=1e-5)
    assert notes["place"] == "layer3.1" and notes["in_chans"] == "3"
    assert [p.name for p in tmp_path.iterdir()] == ["small.safetensors"]  # this head has no weights


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
        (found,) = session.run(["features"], {"images": images.numpy()})
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert str(Path(fullrank.__file__).parent).encode() not in path.read_bytes()
    model = onnx.load(path)
    onnx.checker.check_model(model)
    notes = {entry.key: entry.value for entry in model.metadata_props}
    assert notes["place"] == "head.1[:7]" and notes["head"] == "mlp:16" and notes["image_size"] == "8"
    assert float(notes["max_relative_difference"]) == pytest.approx(difference, rel=1e-2)


def test_onnx_reads_a_place_inside_a_net_of_timms(small, tmp_path):
    assert export(small, tmp_path / "small.onnx", place="layer2.0") == [tmp_path / "small.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx", providers=["CPUExecutionProvider"])
    images = torch.rand(3, 1, 16, 16)
    with torch.no_grad():
        expected = small.encoder.features(images, ["layer2.0"])["layer2.0"]
    (found,) = session.run(None, {"images": images.numpy()})
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


class NoisyHead(Head):
    """Never the same twice, in ONNX neither."""

    def project(self, h):
        return h + torch.rand_like(h)


class BranchingHead(Head):
    """One thing or another, as its input says: no fixed graph does that."""

    def project(self, h):
        return h if h.sum() > 0 else -h


def test_a_file_that_differs_from_pytorch_is_not_written(quick_run, tmp_path):
    run = dataclasses.replace(quick_run, head=NoisyHead(32, 32))
    with pytest.raises(DataError, match=r"differs from PyTorch by \d.* at 'z', more than 1e-04,") as error:
        export_onnx(run, tmp_path / "noisy.onnx", place="z")
    assert "write .safetensors" in str(error.value) and not list(tmp_path.iterdir())


def test_a_model_that_cannot_be_translated_is_one_sentence(quick_run, tmp_path, capfd):
    run = dataclasses.replace(quick_run, head=BranchingHead(32, 32))
    with pytest.raises(DataError, match=r"cannot be written as ONNX \(.*\); write .safetensors") as error:
        export_onnx(run, tmp_path / "branching.onnx", place="z")
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_a_model_beyond_what_onnx_holds_is_refused(quick_run, tmp_path):
    vast = NoisyHead(32, 32)
    vast.weight = nn.Parameter(torch.zeros(1).expand(2**29))  # 2 GiB to whoever counts, 4 bytes in memory
    with pytest.raises(UsageError, match=r"take 2\.0 GiB, but an ONNX file holds less than 2"):
        export_onnx(dataclasses.replace(quick_run, head=vast), tmp_path / "vast.onnx")


def test_missing_extras_are_said_before_anything_is_computed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    match = r"needs onnxruntime, onnxscript, which .* installed; run `pip install 'fullrank\[onnx\]'`"
    with pytest.raises(UsageError, match=match):
        export_onnx(tmp_path / "no run here", tmp_path / "x.onnx")


class CountedHead(Head):
    """It takes the number of images for a constant, so its graph holds for that number alone."""

    def project(self, h):
        return h / len(h)


def test_a_graph_for_one_number_of_images_is_not_written(quick_run, tmp_path):
    run = dataclasses.replace(quick_run, head=CountedHead(32, 32))
    with pytest.raises(
        DataError, match=r"(onnxruntime cannot run|cannot be written as) .*; write .safetensors"
    ) as error:
        export_onnx(run, tmp_path / "counted.onnx", place="z")
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("write", "name", "part"),
    [
        (export, "x.pth", "but needs .safetensors or .onnx"),
        (export_weights, "x.onnx", "but needs .safetensors;"),
        (export_onnx, "x.safetensors", "but needs .onnx;"),
        (export_onnx, "nowhere/x.onnx", "There is no folder"),
        (export_weights, "there.safetensors", "there.safetensors exists and is not overwritten"),
        (export_weights, "other.safetensors", "other.head.safetensors exists and is not overwritten"),
        (export_onnx, "there.onnx", "there.onnx exists and is not overwritten"),
    ],
)
def test_a_file_that_cannot_be_made_is_said_and_nothing_changes(quick_run, tmp_path, write, name, part):
    there = ["other.head.safetensors", "there.onnx", "there.safetensors"]
    for file in there:
        (tmp_path / file).write_text("years of work")
    with pytest.raises(UsageError) as error:
        write(quick_run, tmp_path / name)
    assert part in str(error.value) and "\n" not in str(error.value)
    assert [(tmp_path / file).read_text() for file in there] == ["years of work"] * 3
    assert sorted(p.name for p in tmp_path.iterdir()) == there


@pytest.mark.parametrize("ending", ["safetensors", "onnx"])
def test_a_place_that_is_not_there_is_said(quick_run, tmp_path, ending):
    with pytest.raises(UsageError, match=r"Unknown place 'layer9\.0'"):
        export(quick_run, tmp_path / f"x.{ending}", place="layer9.0")
    assert not list(tmp_path.iterdir())
