"""Carrying an encoder away: as plain weights that timm and torchvision load, or as an ONNX file."""

import copy
import io
import json
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

import torch
from safetensors.torch import save
from torch import Tensor, nn

from fullrank.encoders import plain_state
from fullrank.errors import DataError, UsageError
from fullrank.files import write_whole
from fullrank.places import collect_features, read_places
from fullrank.runs.embed import check_extra, check_free, check_out, describe
from fullrank.runs.run import Run, input_shape, opened

if TYPE_CHECKING:
    from onnx import ModelProto

TOLERANCE = 1e-4
CHECKED_BATCHES = (1, 5)
# A protobuf message, and so a model in one ONNX file, cannot be larger.
LARGEST_ONNX = 2**31


def export(
    run: str | Path | Run,
    out: str | Path,
    *,
    place: str = "h",
    imports: Sequence[str | Path | ModuleType] = (),
) -> list[Path]:
    """Write the encoder of a run as plain weights or as an ONNX file.

    See `export_weights` and `export_onnx` for what each file holds.

    Args:
        run: A run, or its folder.
        out: The file to write. `.safetensors` are weights that timm loads; `.onnx` needs the extra `onnx`.
        place: The place to keep; weights only note it, an ONNX file ends there.
        imports: Modules or files that register parts of yours, as `--import` does.

    Returns:
        The files that were written.

    Raises:
        UsageError: The ending or the place is unknown, or a file exists.

    >>> export("runs/digits", "digits.pth")
    Traceback (most recent call last):
    fullrank.errors.UsageError: digits.pth ends in '.pth', but needs .safetensors or .onnx; rename it so.
    """
    target = check_out(out, (".safetensors", ".onnx"))
    run = opened(run, imports)
    if target.suffix == ".safetensors":
        return export_weights(run, target, place=place)
    export_onnx(run, target, place=place)
    return [target]


def export_weights(run: str | Path | Run, path: str | Path, *, place: str = "h") -> list[Path]:
    """Write a run's encoder as plain weights, `NAME.safetensors`; returns the files written.

    The tensors have the names of the encoder's own library, so timm loads them strictly, and torchvision
    where it has the same net. The metadata (all strings) says how to use them: `encoder` and `head` (specs),
    `place` (the place to keep), `mean` and `std` (JSON, of images in 0 to 1; they are not part of the net),
    `image_size`, `in_chans`, `feature_dim`, and `stem`, the lines that change timm's net before loading where
    it has the small stem. A head with weights is put beside it as `NAME.head.safetensors`.

    Raises UsageError for a place the model does not have, another ending, or a file that exists.

    >>> import tempfile, timm, torch
    >>> from safetensors import safe_open
    >>> from safetensors.torch import load_file
    >>> from fullrank import train
    >>> folder = tempfile.mkdtemp()
    >>> run = train("digits", out=folder + "/run", encoder="resnet10t", head="none", epochs=1, classes="3+8")
    >>> [file] = export_weights(run, folder + "/resnet10t.safetensors")
    >>> model = timm.create_model("resnet10t", num_classes=0, in_chans=1).eval()
    >>> model.load_state_dict(load_file(file))
    <All keys matched successfully>
    >>> notes = safe_open(file, framework="pt").metadata()
    >>> mean, std = (torch.tensor(json.loads(notes[key])).reshape(1, -1, 1, 1) for key in ("mean", "std"))
    >>> model((torch.rand(2, 1, 8, 8) - mean) / std).shape
    torch.Size([2, 512])
    """
    target = check_out(path, (".safetensors",))
    head_target = check_free(target.with_suffix(".head.safetensors"))
    run = opened(run)
    check_place(run, place)
    notes = {"format": "pt"} | describe_encoder(run, place)
    if hasattr(run.encoder, "library_lines"):
        notes |= run.encoder.library_lines()
    parts = {target: plain_state(run.encoder), head_target: run.head.state_dict()}
    files = [path for path in parts if path == target or parts[path]]
    for path in reversed(files):
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in parts[path].items()}
        write_whole(path, save(weights, notes))
    return files


def export_onnx(run: str | Path | Run, path: str | Path, *, place: str = "h") -> float:
    r"""Write the way from images to the features at `place` as an ONNX file; returns how far it is off.

    The input `images` is (N, C, S, S) float32 in 0 to 1, N free, C and S the run's own; the output `features`
    is (N, D_p). Normalisation is inside. Before the file is put in place, onnxruntime computes two batches of
    it, and the result is

    .. math:: \max_{ij} |y_{ij} - f_{ij}| / \max_{ij} |f_{ij}|

    with y its features and f PyTorch's. `metadata_props` hold the specs, the place, the sizes and this
    number. Needs the extra `onnx`.

    Raises UsageError for a missing extra, a place the model does not have, another ending, a file that
    exists, or a model beyond ONNX's 2 GiB; DataError if the model cannot be translated or the difference is
    above 1e-4, and then leaves no file.
    """
    target = check_out(path, (".onnx",))
    check_extra("onnx", ("onnx", "onnxruntime", "onnxscript"), "Writing ONNX")
    run = opened(run)
    check_place(run, place)
    weights = [tensor for part in (run.encoder, run.head) for tensor in part.state_dict().values()]
    if (nbytes := sum(tensor.nbytes for tensor in weights)) >= LARGEST_ONNX:
        raise UsageError(
            f"The weights of {run.recipe.encoder} and {run.recipe.head} take {nbytes / 2**30:.1f} GiB, but "
            f"an ONNX file holds less than {LARGEST_ONNX / 2**30:.0f}; write .safetensors instead."
        )
    size, channels = input_shape(run.path)
    model = FeatureReader(copy.deepcopy(run.encoder), copy.deepcopy(run.head), place).cpu().eval()
    proto = to_onnx(model, torch.zeros(2, channels, size, size))
    difference = max_difference(model, proto.SerializeToString(), (channels, size, size))
    if not difference <= TOLERANCE:  # NaN too
        raise DataError(
            f"The ONNX model differs from PyTorch by {difference:.1e} of the largest feature at {place!r}, "
            f"more than {TOLERANCE:.0e}, and is not written; write .safetensors instead."
        )
    notes = describe_encoder(run, place) | {
        "in_chans": str(channels),
        "input": "images in 0 to 1; mean and std are applied inside",
        "max_relative_difference": f"{difference:.2e}",
    }
    for key, value in notes.items():
        proto.metadata_props.add(key=key, value=value)
    write_whole(target, proto.SerializeToString())
    return difference


class FeatureReader(nn.Module):
    """Images (N, C, H, W) in 0 to 1 -> the features (N, D_p) at one place, as a module."""

    def __init__(self, encoder: nn.Module, head: nn.Module, place: str):
        super().__init__()
        self.encoder, self.head, self.place = encoder, head, place

    def forward(self, images: Tensor) -> Tensor:
        """The features of `images`."""
        return read_places(self.encoder, self.head, images, [self.place])[self.place]


def to_onnx(model: nn.Module, example: Tensor) -> "ModelProto":
    """A module of one input and one output as an ONNX model whose first axis is free."""
    try:
        # The exporter prints its progress and whole graphs; what matters is in its exception.
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model,
                (example,),
                input_names=["images"],
                output_names=["features"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = _short(error.__cause__ or error)
        raise DataError(f"ONNX cannot express this model ({reason}); write .safetensors instead.") from None
    proto = cast(torch.onnx.ONNXProgram, program).model_proto
    for node in proto.graph.node:
        node.ClearField("metadata_props")  # stack traces, with the paths of this machine
    return proto


@torch.no_grad()
def max_difference(model: nn.Module, onnx: bytes, shape: tuple[int, int, int]) -> float:
    """The largest difference from `model`'s features, over the largest of these, on batches of 1 and 5."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    # They have no parent of their own, and are defined nowhere else.
    names = ("Fail", "InvalidArgument", "InvalidGraph", "NotImplemented", "RuntimeException")
    refusals = tuple(getattr(state, name) for name in names)
    generator = torch.Generator().manual_seed(0)
    differences = []
    try:
        session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
        for count in CHECKED_BATCHES:
            images = torch.rand(count, *shape, generator=generator)
            expected = model(images)
            features = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
            tiny = torch.finfo(expected.dtype).tiny
            differences.append((features - expected).abs().max() / expected.abs().max().clamp_min(tiny))
    except refusals as error:
        raise DataError(f"The ONNX model cannot run ({_short(error)}); write .safetensors instead.") from None
    return float(torch.stack(differences).max())


def describe_encoder(run: Run, place: str) -> dict[str, str]:
    """What a file of a run's encoder says of it, beside its tensors; `in_chans` is what the net takes."""
    size, channels = input_shape(run.path)
    # An encoder that somebody else wrote may take images as they are.
    mean, std = (
        getattr(run.encoder, name, torch.full((channels,), plain)).flatten().tolist()
        for name, plain in (("mean", 0.0), ("std", 1.0))
    )
    sizes = {"image_size": size, "in_chans": len(mean), "feature_dim": run.encoder.feature_dim}
    notes = {name: str(number) for name, number in sizes.items()}
    return describe(run, place) | notes | {"mean": json.dumps(mean), "std": json.dumps(std)}


def check_place(run: Run, place: str) -> None:
    """Raise UsageError for a place that the run's model does not have."""
    size, channels = input_shape(run.path)
    collect_features(run.encoder, run.head, torch.zeros(1, channels, size, size, dtype=torch.uint8), [place])


def _short(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")[:200]
