"""Exported programs as encoders, against the modules that they were exported from."""

import io
import zipfile

import pytest
import torch
from refusals import assert_names, refuses
from torch import nn

from fullrank.encoders.programs import program_encoder
from fullrank.errors import DataError, UsageError


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)

    def forward(self, x):
        return self.norm(self.layer(x)).relu()


NET = Net().eval()
IMAGES = torch.rand(5, 3, 8, 8)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Programs with any number of images, and with two."""
    folder = tmp_path_factory.mktemp("programs")
    dynamic = ({0: torch.export.Dim("batch")},)
    free = torch.export.export(NET, (IMAGES,), dynamic_shapes=dynamic)
    torch.export.save(free, folder / "free.pt2", extra_files={"mean": "[0.5]", "std": "[2.0]"})
    torch.export.save(torch.export.export(NET, (IMAGES[:2],)), folder / "fixed.pt2")
    return folder


@pytest.mark.parametrize("name", ["free.pt2", "fixed.pt2"])
def test_a_program_gives_the_features_of_its_module(exported, name):
    net = program_encoder(exported / name).eval()
    assert (net.feature_dim, net.in_chans, net.image_size, net.size, net.places) == (5, 3, 8, 8, ())
    expected = NET((IMAGES - 0.5) / 2 if name == "free.pt2" else IMAGES).mean((2, 3))
    for count in (1, 2, 5):
        torch.testing.assert_close(net(IMAGES[:count]), expected[:count], rtol=1e-5, atol=1e-5)
    assert_names(net.output_note, "mean", "positions")
    assert net.preprocessing is None and net.notes.get("mean") == ("[0.5]" if name == "free.pt2" else None)
    with refuses(UsageError, name, "8x8", "9x9"):
        net(torch.rand(2, 3, 9, 9))


@pytest.mark.parametrize("free", [True, False])
def test_an_onnx_file_gives_the_features_of_its_module(tmp_path, free):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    file = tmp_path / "net.onnx"
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Conv", ["x", "weight", "bias"], ["maps"]),
        helper.make_node("GlobalAveragePool", ["maps"], ["small"]),
        helper.make_node("Flatten", ["small"], ["pooled"]),
    ]
    weights = [onnx.numpy_helper.from_array(p.detach().numpy(), n) for n, p in NET.layer.named_parameters()]
    batch = "batch" if free else 2
    shapes = {"x": [batch, 3, 8, 8], "maps": [batch, 5, 6, 6], "pooled": [batch, 5]}
    info = {name: helper.make_tensor_value_info(name, kind, shape) for name, shape in shapes.items()}
    graph = helper.make_graph(nodes, "net", [info["x"]], [info["maps"], info["pooled"]], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, file)
    net = program_encoder(file).eval()
    torch.testing.assert_close(net(IMAGES), NET.layer(IMAGES).mean((2, 3)), rtol=1e-5, atol=1e-5)
    assert_names(net.output_note, "entry pooled")


def changed(source, target, change):
    """A copy of an archive, each file of which `change` may replace."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return target


RAN = []


class Harm:
    def __reduce__(self):
        return RAN.append, ("harm",)


def test_a_program_that_could_run_code_is_not_loaded(exported, tmp_path):
    def pickled(name, content):
        buffer = io.BytesIO()
        torch.save((Harm(),), buffer)
        return buffer.getvalue() if "sample_inputs" in name else content

    def with_pickled_weight(name, content):
        return content.replace(b'"use_pickle": false', b'"use_pickle": true') if ".json" in name else content

    def with_call(name, content):
        return content.replace(b"torch.ops.aten.relu.default", b"os.system") if "models/" in name else content

    def with_code(name, content):
        if "models/" not in name:
            return content
        return content.replace(b'"Symbol(', b'"__import__(')

    source = exported / "free.pt2"
    assert (
        program_encoder(changed(source, tmp_path / "same.pt2", lambda name, content: content)).feature_dim
        == 5
    )
    for change, word in (
        (pickled, "sample_inputs"),
        (with_pickled_weight, "pickled"),
        (with_call, "os.system"),
        (with_code, "__import__"),
    ):
        with refuses(DataError, "net.pt2") as error:
            program_encoder(changed(source, tmp_path / "net.pt2", change))
        assert word in str(error.value)
    assert RAN == []


def test_what_is_no_program_of_images_is_refused(tmp_path):
    for name in ("net.onnx", "net.pt2"):
        with refuses(DataError, name):
            program_encoder(tmp_path / name)
        (tmp_path / name).write_bytes(b"words")
        with refuses(DataError, name):
            program_encoder(tmp_path / name)
    with refuses(UsageError, "net.pt", ".pt2", ".onnx"):
        program_encoder(tmp_path / "net.pt")
    torch.export.save(torch.export.export(nn.Linear(3, 4), (torch.rand(2, 3),)), tmp_path / "rows.pt2")
    with refuses(UsageError, "rows.pt2", "(2, 3)", "(N, C, H, W)"):
        program_encoder(tmp_path / "rows.pt2")
