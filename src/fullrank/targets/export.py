"""Export an encoder as plain weights that timm and torchvision load, or as an ONNX file."""

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
from fullrank.runs.run import Run, input_shape, opened
from fullrank.targets.embed import check_extra, check_free, check_out, describe

if TYPE_CHECKING:
    from onnx import ModelProto

TOLERANCE = 1e-4
CHECKED_BATCHES = (1, 5)
# The largest protobuf message, and so the largest model in one ONNX file.
LARGEST_ONNX = 2**31


def export(
    run: str | Path | Run,
    out: str | Path,
    *,
    place: str = "h",
    imports: Sequence[str | Path | ModuleType] = (),
) -> list[Path]:
    """Write the encoder of a run as plain weights or as an ONNX file.

    See `export_weights` and `export_onnx` for the content of each file.

    Args:
        run: A run, or its folder.
        out: The file to write. `.safetensors` are weights that timm loads; `.onnx` needs the extra `onnx`.
        place: The place to keep. Weights only record it; an ONNX file ends there.
        imports: Modules or files that register your own parts, as `--import` does.

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
    """Write a run's encoder as plain weights, `NAME.safetensors`.

    The tensors have the names of the encoder's own library. So timm can load them strictly, and torchvision
    too if it has the same net. The metadata are strings:

    - `encoder` and `head`: the specs.
    - `place`: the place to keep.
    - `mean` and `std`: JSON, for images in 0 to 1. They are not part of the net.
    - `image_size`, `in_chans`, `feature_dim`.
    - `stem`: for the small stem, the lines that change timm's net before it loads the weights.

    A head with weights is written beside it as `NAME.head.safetensors`.

    Args:
        run: A run, or its folder.
        path: The file to write.
        place: The place to keep.

    Returns:
        The files that were written.

    Raises:
        UsageError: If the model does not have the place, the ending is another, or a file exists.

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
    r"""Write the model from images to the features at `place` as an ONNX file, and check it.

    The input `images` is (N, C, S, S) float32 in 0 to 1, with any N and the run's own C and S. The output
    `features` is (N, D_p). Normalisation is part of the model. Before the file is written, onnxruntime
    computes the features y of two batches, which are compared with PyTorch's features f:

    .. math:: \max_{ij} |y_{ij} - f_{ij}| / \max_{ij} |f_{ij}|

    `metadata_props` have the specs, the place, the sizes and this difference. Needs the extra `onnx`.

    Args:
        run: A run, or its folder.
        path: The file to write.
        place: The place at which the model ends.

    Returns:
        The difference.

    Raises:
        UsageError: If the extra is missing, the model does not have the place, the ending is another, the
            file exists, or the model is beyond ONNX's 2 GiB.
        DataError: If ONNX cannot express the model, or the difference is above 1e-4. No file remains then.
    """
    target = check_out(path, (".onnx",))
    check_extra("onnx", ("onnx", "onnxruntime", "onnxscript"), "Writing ONNX")
    run = opened(run)
    check_place(run, place)
    weights = [tensor for part in (run.encoder, run.head) for tensor in part.state_dict().values()]
    if (nbytes := sum(tensor.nbytes for tensor in weights)) >= LARGEST_ONNX:
        raise UsageError(
            f"The weights of {run.recipe.encoder} and {run.recipe.head} take {nbytes / 2**30:.1f} GiB, but "
            f"an ONNX file must be below {LARGEST_ONNX / 2**30:.0f} GiB; write .safetensors instead."
        )
    size, channels = input_shape(run.path)
    model = FeatureReader(copy.deepcopy(run.encoder), copy.deepcopy(run.head), place).cpu().eval()
    proto = to_onnx(model, torch.zeros(2, channels, size, size))
    difference = max_difference(model, proto.SerializeToString(), (channels, size, size))
    if not difference <= TOLERANCE:  # also refuses NaN
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
    """Convert a module with one input and one output to an ONNX model with a free first axis."""
    try:
        # The exporter prints its progress and whole graphs; its exception has what matters.
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
        node.ClearField("metadata_props")  # removes stack traces, which have paths of this machine
    return proto


@torch.no_grad()
def max_difference(model: nn.Module, onnx: bytes, shape: tuple[int, int, int]) -> float:
    """The largest difference from `model`'s features, over the largest of these, on batches of 1 and 5."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    # onnxruntime's errors have no common base class and are defined only here.
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
    """The metadata in a file of a run's encoder; `in_chans` is the number of channels of the net's input."""
    size, channels = input_shape(run.path)
    # A user's own encoder may take images without normalisation.
    mean, std = (
        getattr(run.encoder, name, torch.full((channels,), plain)).flatten().tolist()
        for name, plain in (("mean", 0.0), ("std", 1.0))
    )
    sizes = {"image_size": size, "in_chans": len(mean), "feature_dim": run.encoder.feature_dim}
    notes = {name: str(number) for name, number in sizes.items()}
    return describe(run, place) | notes | {"mean": json.dumps(mean), "std": json.dumps(std)}


def check_place(run: Run, place: str) -> None:
    """Raise UsageError if the run's model does not have a place."""
    size, channels = input_shape(run.path)
    collect_features(run.encoder, run.head, torch.zeros(1, channels, size, size, dtype=torch.uint8), [place])


def _short(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")[:200]
