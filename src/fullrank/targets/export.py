"""Export a model that ends at a place: as weights with a loader, as a program of torch.export, or as ONNX."""

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor, nn

from fullrank.data import ImageSet
from fullrank.data.decoding import fit_square, to_array
from fullrank.door import import_modules
from fullrank.encoders.programs import PROGRAMS
from fullrank.errors import DataError, UsageError
from fullrank.files import write_whole
from fullrank.heads import head as build_head
from fullrank.places import Place, collect_features
from fullrank.preprocessing import Preprocessing
from fullrank.runs.run import Run, input_shape
from fullrank.targets.embed import check_extra, check_free, check_out
from fullrank.targets.exported import fill, skeleton
from fullrank.targets.graphs import max_difference, program_bytes, run_onnx, run_program, to_onnx, to_program
from fullrank.targets.notes import describe_model
from fullrank.targets.opening import MEASURED, SQUARE, Target, target as open_target
from fullrank.targets.reader import FeatureReader, needed_tensors, private_copy, separate

# The largest difference from PyTorch, over the largest feature.
WEIGHTS_TOLERANCE, PROGRAM_TOLERANCE, ONNX_TOLERANCE = 1e-6, 1e-5, 1e-4
# The largest protobuf message, and so the largest model in one ONNX file.
LARGEST_ONNX = 2**31
Model = str | Path | nn.Module | type[nn.Module] | Run | Target


def export(
    target: Model,
    out: str | Path,
    *,
    place: str = "h",
    imports: Sequence[str | Path | ModuleType] = (),
) -> list[Path]:
    """Write a model that ends at a place. Layers after the place are left out.

    See `export_weights`, `export_program` and `export_onnx` for the content of each file. `load_exported`
    reads all of them. Before a file is written, its features are compared with those of the model.

    Args:
        target: A run, its folder, a module, or any other target that `target` opens.
        out: The file to write: `.safetensors`, `.pt2` (torch.export) or `.onnx` (needs the extra `onnx`).
        place: The place at which the model ends: h, h[:24], z, head.1, or a layer.
        imports: Modules or files that register your own parts, as `--import` does.

    Returns:
        The files that were written.

    Raises:
        UsageError: The ending or the place is unknown, a file exists, or the target does not state the size
            of its images.
        DataError: The format cannot express the model, or its features differ. No file is written then.

    >>> export("runs/digits", "run.pth")
    Traceback (most recent call last):
    fullrank.errors.UsageError: run.pth ends in '.pth', but needs .safetensors or .pt2 or .onnx; rename it so.
    """
    path = check_out(out, tuple(_WRITERS))
    import_modules(imports)
    written = _WRITERS[path.suffix](target, path, place=place)
    return written if isinstance(written, list) else [path]


def export_weights(target: Model, path: str | Path, *, place: str = "h") -> list[Path]:
    """Write the tensors that the features at a place need, as `NAME.safetensors`.

    `load_exported` makes them a module again. The encoder's tensors have the names of its own library, those
    of the head begin with `fullrank_head.`. At h all tensors of the encoder are written, so timm loads the
    file strictly, and torchvision too if it has the same net. The metadata are strings:

    - `target`, `weights`: the model, and where its weights come from.
    - `encoder` and `head`: the specs. `encoder` is empty for a module of yours.
    - `view_dims`: JSON, for a head that takes the parameters of the views. Here it takes the neutral ones.
    - `place`, `pooling`, `feature_dim`: the place, how it is pooled, and its width.
    - `image_size`, `image_channels`: the input. `in_chans` are the channels of the net.
    - `mean` and `std`: JSON, for images in 0 to 1. They are not part of timm's net.
    - `preprocessing`: JSON of all steps before; `timm` in it are the options of timm's `create_transform`.
    - `create`: for a model of timm, the line that builds it without fullrank.
    - `stem`, `last`: for a small stem or another width of the last block, the lines that change timm's net
      before it loads the weights.

    The head of a run at h is written beside it as `NAME.head.safetensors`, if it has weights.

    Args:
        target: A run, its folder, a module, or any other target.
        path: The file to write.
        place: The place at which the model ends.

    Returns:
        The files that were written.

    Raises:
        UsageError: If the model does not have the place, the ending is another, or a file exists.
        DataError: If the file gives other features than the model.

    >>> import json, tempfile, timm, torch
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
    file = check_out(path, (".safetensors",))
    beside = check_free(file.with_suffix(".head.safetensors"))
    opened = _opened(target, place)
    reader = separate(private_copy(opened.reader))
    names = reader.names_in_file()
    encoder: Any = reader.encoder
    if Place.parse(place).name == "h":
        kept = {name for name in names if name.startswith("encoder.")}
    else:
        kept = needed_tensors(reader, torch.zeros(1, *reader.image_shape))
    state = reader.state_dict()
    tensors = {names[name]: state[name].contiguous() for name in names if name in kept}
    notes = {"format": "pt"} | opened.notes | {"in_chans": str(_net_channels(encoder, reader.image_shape[0]))}
    if hasattr(encoder, "library_lines"):
        notes |= encoder.library_lines()
    _check_weights(reader, tensors, notes, file.name)
    files = {file: save(tensors, notes)}
    head = {
        name.removeprefix("head."): state[name].contiguous() for name in state if name.startswith("head.")
    }
    if Place.parse(place).name == "h" and head:
        files = {file: files[file], beside: save(head, notes | {"feature_dim": str(encoder.feature_dim)})}
    for each in reversed(files):
        write_whole(each, files[each])
    return list(files)


def export_program(target: Model, path: str | Path, *, place: str = "h") -> float:
    """Write the model from images to the features at `place` as a program of torch.export, and check it.

    The program takes images (N, C, S, S) float32 in 0 to 1, with any N, and returns (N, D_p). Normalisation
    is part of it. `torch.export.load(path).module()` runs it without fullrank. The metadata of
    `export_weights` are extra files in it, one for each key. The check is that of `export_onnx`.

    Args:
        target: A run, its folder, a module, or any other target.
        path: The file to write, `.pt2`.
        place: The place at which the model ends.

    Returns:
        The difference from PyTorch.

    Raises:
        UsageError: If the model does not have the place, the ending is another, or the file exists.
        DataError: If torch.export cannot express the model, or the difference is above 1e-5.
    """
    file = check_out(path, (".pt2",))
    opened = _opened(target, place)
    reader = private_copy(opened.reader)
    program = to_program(reader, torch.zeros(2, *reader.image_shape))
    difference = max_difference(reader, run_program(program_bytes(program, {})), reader.image_shape)
    _check_difference(difference, PROGRAM_TOLERANCE, "The program", place)
    write_whole(file, program_bytes(program, opened.notes_of_graph(difference)))
    return difference


def export_onnx(target: Model, path: str | Path, *, place: str = "h") -> float:
    r"""Write the model from images to the features at `place` as an ONNX file, and check it.

    The input `images` is (N, C, S, S) float32 in 0 to 1, with any N. The output `features` is (N, D_p).
    Normalisation is part of the model. Before the file is written, onnxruntime computes the features y of two
    batches, which are compared with PyTorch's features f:

    .. math:: \max_{ij} |y_{ij} - f_{ij}| / \max_{ij} |f_{ij}|

    `metadata_props` hold the metadata of `export_weights` and this difference. Needs the extra `onnx`.

    Args:
        target: A run, its folder, a module, or any other target.
        path: The file to write.
        place: The place at which the model ends.

    Returns:
        The difference.

    Raises:
        UsageError: If the extra is missing, the model does not have the place, the ending is another, the
            file exists, or the model is beyond ONNX's 2 GiB.
        DataError: If ONNX cannot express the model, or the difference is above 1e-4. No file remains then.
    """
    file = check_out(path, (".onnx",))
    check_extra("onnx", ("onnx", "onnxruntime", "onnxscript"), "Writing ONNX")
    opened = _opened(target, place)
    if (nbytes := sum(tensor.nbytes for tensor in opened.reader.state_dict().values())) >= LARGEST_ONNX:
        raise UsageError(
            f"The weights of {opened.notes['target']} take {nbytes / 2**30:.1f} GiB, but an ONNX file must "
            f"be below {LARGEST_ONNX / 2**30:.0f} GiB; write .safetensors instead."
        )
    reader = private_copy(opened.reader)
    proto = to_onnx(reader, torch.zeros(2, *reader.image_shape))
    difference = max_difference(reader, run_onnx(proto.SerializeToString()), reader.image_shape)
    _check_difference(difference, ONNX_TOLERANCE, "The ONNX model", place)
    for key, value in opened.notes_of_graph(difference).items():
        proto.metadata_props.add(key=key, value=value)
    write_whole(file, proto.SerializeToString())
    return difference


@dataclass(frozen=True)
class _Opened:
    """A target that is ready to be written: its model up to a place, and the metadata."""

    reader: FeatureReader
    notes: dict[str, str]

    def notes_of_graph(self, difference: float) -> dict[str, str]:
        """The metadata of a file that normalises by itself."""
        channels = str(self.reader.image_shape[0])
        return self.notes | {"in_chans": channels, "max_relative_difference": f"{difference:.2e}"}


def _opened(model: Model, place: str) -> _Opened:
    target = open_target(model)
    if target.run is None and Path(target.name).suffix in PROGRAMS:
        raise UsageError(f"{target.name} is an exported program; export the model that it was made of.")
    images = _example(target)
    encoder: Any = target.opened(images)
    head = target.head or build_head("none", in_dim=encoder.feature_dim)
    channels, size = images.channels, images.image_size
    blank = torch.zeros(1, channels, size, size, dtype=torch.uint8)
    width = collect_features(encoder, head, blank, [place])[place].shape[1]
    reader = FeatureReader(encoder, head, place, (channels, size, size))
    preprocessing = target.preprocessing_of(images) or _of_run(encoder, size, channels)
    run = target.run
    specs = {
        "target": target.name if run is None else run.path.name,
        "weights": target.weights,
        "encoder": str(getattr(encoder, "spec", "")) if run is None else run.recipe.encoder,
        "head": "none" if run is None else run.recipe.head,
    }
    if (dims := getattr(head, "view_dims", None)) is not None:
        specs["view_dims"] = json.dumps(dims)
    return _Opened(reader, specs | describe_model(reader, preprocessing, width))


def _example(target: Target) -> ImageSet:
    """A blank image of the kind that a target takes. UsageError if its size or its statistics are unknown."""
    if target.run is not None:
        size, channels = input_shape(target.run.path)
        return _blank(size, channels)
    known = target.preprocessing
    image_size = known.size if known else target.image_size
    if image_size is None:
        raise UsageError(
            f"{target.name} does not state the size of its images; give it with --image-size, or with "
            "target(..., image_size=SIZE) in Python."
        )
    made = 3 if known is None else known.fit(Image.new("RGB", (300, 260))).shape[-1]
    images = _blank(image_size, target.channels or made)
    preprocessing = target.preprocessing_of(images)
    if preprocessing is not None and preprocessing.origin == MEASURED:
        raise UsageError(
            f"{target.name} has {target.weights}, which state no mean and std of their images; give --mean "
            "and --std, or target(..., mean=, std=) in Python."
        )
    return images


def _blank(size: int, channels: int) -> ImageSet:
    return ImageSet(np.zeros((1, size, size, channels), np.uint8), {"label": np.array([-1])}, {"label": ()})


def _of_run(encoder: Any, size: int, channels: int) -> Preprocessing:
    """The preprocessing of a run. A user's own encoder may take images without normalisation."""
    mean, std = (
        tuple(getattr(encoder, name, torch.full((channels,), plain)).flatten().tolist())
        for name, plain in (("mean", 0.0), ("std", 1.0))
    )
    origin = "the run's training images"
    return Preprocessing(lambda image: to_array(fit_square(image, size)), size, mean, std, SQUARE, origin)


def _net_channels(encoder: Any, channels: int) -> int:
    """The channels of the net's input, which may repeat a grey image."""
    return encoder.mean.shape[1] if hasattr(encoder, "mean") else channels


def _check_weights(
    reader: FeatureReader, tensors: dict[str, Tensor], notes: dict[str, str], file: str
) -> None:
    """Load the tensors into a model whose own are random, and compare the features."""
    encoder: Any = reader.encoder
    module = None if notes["encoder"] else copy.deepcopy(encoder.model)
    again = skeleton(notes, module, file)
    generator = torch.Generator().manual_seed(0)
    state = again.state_dict()
    for tensor in (state[name] for name in again.names_in_file()):
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
    fill(again, tensors, file)
    difference = max_difference(reader, again.eval(), reader.image_shape)
    _check_difference(difference, WEIGHTS_TOLERANCE, "The model that is read back", reader.place)


def _check_difference(difference: float, limit: float, what: str, place: str) -> None:
    """Raise DataError if a file would give other features."""
    if not difference <= limit:  # also refuses NaN
        other = ".onnx or .pt2" if limit == WEIGHTS_TOLERANCE else ".safetensors"
        raise DataError(
            f"{what} differs from PyTorch by {difference:.1e} of the largest feature at {place!r}, more than "
            f"{limit:.0e}, and is not written; write {other} instead."
        )


_WRITERS: dict[str, Callable[..., list[Path] | float]] = {
    ".safetensors": export_weights,
    ".pt2": export_program,
    ".onnx": export_onnx,
}
