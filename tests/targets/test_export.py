"""Models carried away: each format ends at the place and gives the features that PyTorch gives there."""

import json
import shutil
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
import torchvision
from PIL import Image
from refusals import refuses
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import fullrank
from fullrank import Recipe, Run, encoder, head, target
from fullrank.encoders import module_encoder
from fullrank.errors import DataError, UsageError
from fullrank.heads import Head
from fullrank.runs.run import ENCODER_FILE
from fullrank.targets.export import export, export_onnx, export_program, export_weights
from fullrank.targets.exported import load_exported

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
def test_a_small_stem_and_another_width_come_with_the_lines_that_change_timms_net(quick_run, tmp_path):
    (tmp_path / "run").mkdir()
    small = run_of(quick_run, tmp_path / "run", "resnet18,channels=3,last=24", "none", 16, 1)
    (path,) = export_weights(small, tmp_path / "small.safetensors")
    notes = metadata(path)
    model = timm.create_model("resnet18", num_classes=0, in_chans=int(notes["in_chans"]))
    with pytest.raises(RuntimeError, match="conv1"):
        loaded(model, path)
    names = {"timm": timm, "torch": torch}
    exec(f"{notes['create']}\n{notes['stem']}\n{notes['last']}", names)
    model = names["model"]
    images = torch.rand(3, 1, 16, 16)
    h = loaded(model, path)(normalised(images, notes))
    torch.testing.assert_close(h, small.encoder(images), rtol=1e-5, atol=1e-5)
    assert notes["in_chans"] == "3" and notes["image_channels"] == "1"
    torch.testing.assert_close(load_exported(path)(images), h, rtol=1e-5, atol=1e-5)
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
    assert capfd.readouterr().out == ""
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
    assert notes["place"] == "head.1[:7]" and notes["head"] == "mlp:16" and notes["feature_dim"] == "7"
    assert float(notes["max_relative_difference"]) == pytest.approx(difference, rel=1e-2)


def by_hand(run: Run, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """The features of a tiny residual net and its head, from hooks on its modules."""
    kept = {}
    hooks = [
        run.encoder.blocks["stage2_1"].register_forward_hook(lambda *call: kept.update(stage2=call[2][0])),
        run.encoder.blocks["stage3_2"].register_forward_hook(lambda *call: kept.update(last=call[2][0])),
    ]
    with torch.no_grad():
        run.encoder(images)
        h = kept["last"].mean((2, 3))
        places = {"stage2.1": kept["stage2"].mean((2, 3)), "h": h, "h[:5]": h[:, :5]}
        places |= {"head.1": run.head.layers[0](h), "z": run.head(h)}
    for hook in hooks:
        hook.remove()
    return places


@pytest.mark.parametrize("place", ["h", "h[:5]", "stage2.1", "head.1", "z"])
@torch.no_grad()
def test_weights_of_a_place_come_back_as_its_features(quick_run, tmp_path, place):
    path, *beside = export(quick_run, tmp_path / "x.safetensors", place=place)
    images = torch.rand(3, 1, 8, 8)
    expected = by_hand(quick_run, images)[place]
    torch.testing.assert_close(load_exported(path)(images), expected, rtol=1e-5, atol=1e-6)
    notes = metadata(path)
    assert notes["place"] == place and notes["feature_dim"] == str(expected.shape[1])
    assert [p.name for p in beside] == (
        ["x.head.safetensors"] if place.startswith("h[") or place == "h" else []
    )


def test_weights_of_a_place_hold_no_later_tensor(quick_run, tmp_path):
    (path,) = export(quick_run, tmp_path / "x.safetensors", place="stage2.1")
    names = set(load_file(path))
    own = {name for name in quick_run.encoder.state_dict() if not name.endswith("num_batches_tracked")}
    assert names == {name for name in own if "stage3" not in name}
    (path,) = export(quick_run, tmp_path / "z.safetensors", place="head.1")
    inside = {name.removeprefix("fullrank_head.") for name in load_file(path) if name not in own}
    first = {name for name in quick_run.head.state_dict() if name.startswith("layers.0.")}
    assert inside == first - {"layers.0.1.num_batches_tracked"}


@pytest.fixture(scope="module")
def timm_run(quick_run, tmp_path_factory):
    return run_of(quick_run, tmp_path_factory.mktemp("timm"), "test_resnet", "none", 32, 1)


@torch.no_grad()
def timm_features(run: Run, images: torch.Tensor, layer: str) -> torch.Tensor:
    """What timm itself gives after a layer, averaged over positions."""
    kept = {}
    hook = run.encoder.model.get_submodule(layer).register_forward_hook(
        lambda *call: kept.update(map=call[2])
    )
    run.encoder.model((images - MEAN[0]) / STD[0])
    hook.remove()
    return kept["map"].mean((2, 3))


@torch.no_grad()
def test_weights_of_a_block_of_timm_have_its_names(timm_run, tmp_path):
    (path,) = export(timm_run, tmp_path / "x.safetensors", place="layer2.0")
    images = torch.rand(3, 1, 32, 32)
    features = load_exported(path)(images)
    torch.testing.assert_close(features, timm_features(timm_run, images, "layer2.0"), rtol=1e-5, atol=1e-5)
    left_out = set(timm_run.encoder.model.state_dict()) - set(load_file(path))
    later = ("layer3", "layer4", "fc")
    assert {name for name in left_out if not name.endswith("num_batches_tracked")} == {
        name
        for name in timm_run.encoder.model.state_dict()
        if name.startswith(later) and not name.endswith("num_batches_tracked")
    }


def test_a_program_computes_the_features_for_any_number_of_images(timm_run, tmp_path, capfd):
    path = tmp_path / "x.pt2"
    assert export_program(timm_run, path, place="layer2.0") < 1e-5
    assert capfd.readouterr().out == ""
    notes = {"place": "", "feature_dim": "", "preprocessing": ""}
    program = torch.export.load(path, extra_files=notes)
    with refuses(UsageError, "x.pt2"):
        export(path, tmp_path / "again.safetensors")
    images = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(load_exported(path)(images), program.module()(images))
    for count in (1, 2, 7):
        images = torch.rand(count, 1, 32, 32)
        expected = timm_features(timm_run, images, "layer2.0")
        torch.testing.assert_close(program.module()(images), expected, rtol=1e-5, atol=1e-5)
    assert notes["feature_dim"] == str(expected.shape[1]) and notes["place"] == "layer2.0"
    assert json.loads(notes["preprocessing"])["image_size"] == 32
    assert not any("layer3" in name or "num_batches" in name for name in program.state_dict)
    with zipfile.ZipFile(path) as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
    assert str(Path(fullrank.__file__).parent).encode() not in content


def test_onnx_reads_a_place_inside_a_net_of_timms(timm_run, tmp_path):
    assert export(timm_run, tmp_path / "x.onnx", place="layer2.0") == [tmp_path / "x.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx", providers=["CPUExecutionProvider"])
    images = torch.rand(3, 1, 32, 32)
    expected = timm_features(timm_run, images, "layer2.0")
    (features,) = session.run(None, {"images": images.numpy()})
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    model = onnx.load(tmp_path / "x.onnx")
    notes = {entry.key: entry.value for entry in model.metadata_props}
    assert notes["feature_dim"] == str(expected.shape[1])
    assert model.graph.output[0].type.tensor_type.shape.dim[1].dim_value == expected.shape[1]


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


@pytest.mark.parametrize(
    ("kind", "library", "ending"),
    [(BranchingHead, "ONNX", "onnx"), (CountedHead, "ONNX", "onnx"), (BranchingHead, "torch.export", "pt2")],
)
def test_a_model_that_cannot_be_translated_is_one_sentence(pixels, tmp_path, capfd, kind, library, ending):
    with refuses(DataError, library, ".safetensors") as error:
        export(replace(pixels, head=kind(64, 64)), tmp_path / f"x.{ending}", place="z")
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())
    assert capfd.readouterr().out == ""


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
        (export, "x.pth", [".pth", ".safetensors", ".pt2", ".onnx"]),
        (export_program, "taken.pt2", ["taken.pt2"]),
        (export_weights, "x.onnx", ["x.onnx", ".safetensors"]),
        (export_onnx, "x.safetensors", ["x.safetensors", ".onnx"]),
        (export_onnx, "nowhere/x.onnx", ["nowhere", "x.onnx"]),
        (export_weights, "taken.safetensors", ["taken.safetensors"]),
        (export_weights, "other.safetensors", ["other.head.safetensors"]),
        (export_onnx, "taken.onnx", ["taken.onnx"]),
    ],
)
def test_a_file_that_cannot_be_made_is_said_and_nothing_changes(quick_run, tmp_path, write, name, names):
    files = ["other.head.safetensors", "taken.onnx", "taken.pt2", "taken.safetensors"]
    for file in files:
        (tmp_path / file).write_text("precious")
    with refuses(UsageError, *names) as error:
        write(quick_run, tmp_path / name)
    assert "\n" not in str(error.value)
    assert [(tmp_path / file).read_text() for file in files] == ["precious"] * 4
    assert sorted(p.name for p in tmp_path.iterdir()) == files


@pytest.mark.parametrize("ending", ["safetensors", "pt2", "onnx"])
def test_a_place_that_is_not_there_is_said(quick_run, tmp_path, ending):
    with refuses(UsageError, "layer9.0"):
        export(quick_run, tmp_path / f"x.{ending}", place="layer9.0")
    assert not list(tmp_path.iterdir())


class Net(nn.Module):
    """Somebody's module: it names nothing as we do, and a layer comes after its features."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3))
        self.top = nn.Linear(6, 2)

    def forward(self, x):
        return self.top(self.body(x).mean((2, 3)))


@torch.no_grad()
def test_a_module_is_exported_and_comes_back_into_another_of_its_kind(tmp_path):
    net = Net().eval()
    opened = target(net, image_size=8, mean=MEAN, std=STD)
    (path,) = export(opened, tmp_path / "net.safetensors", place="body.3")
    notes = metadata(path)
    assert notes["target"] == "Net" and notes["encoder"] == "" and notes["image_channels"] == "3"
    images, other = torch.rand(2, 3, 8, 8), Net()
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (MEAN, STD))
    expected = net.body((images - mean) / std).mean((2, 3))
    torch.testing.assert_close(load_exported(path, module=other)(images), expected, rtol=1e-5, atol=1e-6)
    assert set(load_file(path)) == {
        name for name in net.state_dict() if "body" in name and "batches" not in name
    }
    with refuses(UsageError, "net.safetensors", "Net"):
        load_exported(path)


@torch.no_grad()
def test_others_prepare_images_by_the_metadata_as_timm_does(tmp_path):
    net = timm.create_model("test_resnet", num_classes=0).eval()
    (path,) = export(target(net, image_size=48), tmp_path / "net.safetensors", place="layer2.0")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 131, 3), np.uint8))
    settings = json.loads(metadata(path)["preprocessing"])
    transform = timm.data.create_transform(**settings["timm"], mean=(0, 0, 0), std=(1, 1, 1))
    other = timm.create_model("test_resnet", num_classes=0)
    features = load_exported(path, module=other)(transform(image)[None])
    own = timm.data.create_transform(**timm.data.resolve_data_config({"input_size": (3, 48, 48)}, model=net))
    kept = {}
    net.layer2[0].register_forward_hook(lambda *call: kept.update(map=call[2]))
    net(own(image)[None])
    torch.testing.assert_close(features, kept["map"].mean((2, 3)), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_model_of_hugging_face_comes_back_without_its_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "image_size": 16, "patch_size": 8}
    config = transformers.ViTConfig(num_hidden_layers=2, num_attention_heads=2, **sizes)
    net = transformers.ViTModel(config, add_pooling_layer=False).eval()
    net.save_pretrained(tmp_path / "vit")
    opened = target(tmp_path / "vit", image_size=16, mean=MEAN, std=STD)
    (whole,) = export(opened, tmp_path / "h.safetensors")
    (block,) = export(opened, tmp_path / "block.safetensors", place="layers.0.cls")
    shutil.rmtree(tmp_path / "vit")
    images = torch.rand(2, 3, 16, 16)
    states = net(normalised(images, metadata(block)), output_hidden_states=True)
    h = states.last_hidden_state[:, 1:].mean(1)
    torch.testing.assert_close(load_exported(whole)(images), h, rtol=1e-5, atol=1e-6)
    token = states.hidden_states[1][:, 0]
    torch.testing.assert_close(load_exported(block)(images), token, rtol=1e-5, atol=1e-6)
    assert metadata(block)["pooling"] == "cls" and not any("layers.1" in name for name in load_file(block))


def test_a_target_of_unknown_size_or_statistics_is_refused(tmp_path):
    with refuses(UsageError, "Net", "--image-size"):
        export(Net(), tmp_path / "x.safetensors")
    with refuses(UsageError, "test_resnet", "--mean", "--std"):
        export(target("test_resnet", image_size=32), tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


@torch.no_grad()
def test_weights_of_no_run_need_the_statistics_that_the_user_gives(tmp_path):
    opened = target("test_resnet", image_size=32, mean=MEAN, std=STD)
    (path,) = export(opened, tmp_path / "x.safetensors")
    model = loaded(timm.create_model("test_resnet", num_classes=0), path)
    images = torch.rand(2, 3, 32, 32)
    h = model(normalised(images, metadata(path)))
    torch.testing.assert_close(load_exported(path)(images), h, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda tensors, notes: notes.pop("place"), ["x.safetensors", "place"]),
        (lambda tensors, notes: notes.update(image_size="wide"), ["x.safetensors", "wide"]),
        (lambda tensors, notes: tensors.pop("stem.0.weight"), ["stem.0.weight", 1]),
        (lambda tensors, notes: tensors.update(alien=torch.zeros(2)), ["alien", 1]),
        (lambda tensors, notes: tensors.update({"stem.0.weight": torch.zeros(2)}), ["stem.0.weight", "(2,)"]),
    ],
)
def test_load_exported_refuses_a_damaged_file(quick_run, tmp_path, change, names):
    (path,) = export(quick_run, tmp_path / "whole.safetensors", place="stem")
    tensors, notes = load_file(path), metadata(path)
    change(tensors, notes)
    save_file(tensors, tmp_path / "x.safetensors", notes)
    with refuses(DataError, *names):
        load_exported(tmp_path / "x.safetensors")


def test_load_exported_imports_nothing_that_the_file_names(quick_run, tmp_path):
    (path,) = export(quick_run, tmp_path / "whole.safetensors", place="stem")
    (tmp_path / "evil.py").write_text("raise SystemExit")
    notes = metadata(path) | {"encoder": f"{tmp_path}/evil.py:Net"}
    save_file(load_file(path), tmp_path / "x.safetensors", notes)
    with refuses(UsageError, "--import"):
        load_exported(tmp_path / "x.safetensors")


class Wandering(nn.Module):
    """Its features pass through NumPy, where no operation of torch is seen."""

    def __init__(self):
        super().__init__()
        self.hidden, self.top = nn.Linear(64, 3), nn.Linear(3, 3)

    def forward(self, x):
        return self.top(torch.from_numpy(self.hidden(x.flatten(1)).detach().numpy().copy()))


def test_weights_that_give_other_features_are_not_written(tmp_path):
    opened = target(nn.Sequential(Wandering(), nn.Linear(3, 2)), image_size=8, mean=(0.5,), std=(0.5,))
    opened = replace(opened, channels=1)
    with refuses(DataError, "1e-06", "0.top"):
        export(opened, tmp_path / "x.safetensors", place="0.top")
    assert not list(tmp_path.iterdir())
