"""Exported programs as encoders, forward only: files of `torch.export` (.pt2) and of ONNX (.onnx)."""

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fullrank.encoders.library import preprocessing_of
from fullrank.encoders.reading import REFUSALS
from fullrank.encoders.traced import TracedEncoder, reason
from fullrank.errors import DataError, UsageError
from fullrank.preprocessing import Preprocessing

PROGRAMS = (".pt2", ".onnx")
# The side of images for a program that takes any and states none.
USUAL_SIZE = 224
# What the graph of a harmless program calls.
_CALLS = re.compile(
    r"torch\.ops\.(aten|prims|higher_order|torchvision)\.(?!from_file)[\w.]+|torch\._?sym_\w+|math\.\w+|"
    r"_operator\.(?!call|methodcaller|attrgetter)\w+"
)
# Expressions of sizes, which torch evaluates: no call of a lower-case name, no text but names, no `__`.
_SIZES = re.compile(r"(?!.*__)(?:[A-Z]\w*|[a-z]\w*(?!\w*\s*\()|'\w+'|\d+|[\s()+*/,.<>=!&|~%-]){0,500}")


class ProgramEncoder(TracedEncoder):
    """An exported program as an encoder; `program_encoder` reads one. h is its only place.

    Attributes:
        notes: The metadata of its file.
        preprocessing: The steps that the metadata of a file of ours state; None for any other file.
        size: The side of the images in pixels.
    """

    def __init__(self, program: "Program", name: str, notes: Mapping[str, str]):
        inside = "input" in notes or "mean" not in notes
        mean, std = ([0.0], [1.0]) if inside else (json.loads(notes[key]) for key in ("mean", "std"))
        channels, height, width = program.shape
        if height != width:
            raise UsageError(f"{name} takes images of {height} x {width} pixels, but this needs squares.")
        self.size = height or int(notes.get("image_size", USUAL_SIZE))
        channels = channels or int(notes.get("in_chans", 3))
        super().__init__(program, name=name, image_size=self.size, in_chans=channels, mean=mean, std=std)
        self.notes, self.image_size = dict(notes), height
        self.preprocessing = _stated(notes)


def _stated(notes: Mapping[str, str]) -> Preprocessing | None:
    """The preprocessing in the metadata of a file of ours; the program itself normalises."""
    settings = json.loads(notes.get("preprocessing", "{}"))
    if "timm" not in settings:
        return None
    channels = settings["timm"]["input_size"][0]
    plain = {"mean": (0.0,) * channels, "std": (1.0,) * channels}
    steps = preprocessing_of(settings["timm"] | plain)
    return replace(steps, steps=settings.get("steps", steps.steps), origin="the metadata of the file")


class Program(nn.Module):
    """A program that runs batches of its own fixed size, or of any size.

    Args:
        run: From images (N, C, H, W) on the CPU to what the program returns.
        shape: The shape of its input (N, C, H, W); a free length is None.
    """

    def __init__(self, run: Callable[[Tensor], Any], shape: tuple[int | None, ...]):
        super().__init__()
        self.run, self.batch, self.shape = run, shape[0], (shape[1], shape[2], shape[3])

    def forward(self, x: Tensor) -> Any:
        """What the program returns, tensors joined over its batches."""
        count = len(x)
        # A program with a free number of images may have been exported for two or more.
        batch = self.batch or max(2, count)
        padded = torch.cat([x, x[-1:].expand(-count % batch, -1, -1, -1)]).cpu()
        parts = [self.run(part) for part in torch.split(padded, batch)]
        return _joined(parts, batch, count, x.device)


def program_encoder(path: str | Path) -> ProgramEncoder:
    """A program of `torch.export` (.pt2) or ONNX (.onnx) as an encoder, forward only.

    Its only place is h, pooled from the output as `TracedEncoder` says. It gets images in 0 to 1, unless the
    metadata state a mean and a standard deviation that are not part of the program. A program with a fixed
    number of images gets batches of that number, the last one padded. A .pt2 file is refused if it would
    unpickle objects or call anything but operators. ONNX needs the extra `onnx`.

    Args:
        path: The file.

    Raises:
        UsageError: For another kind of file, a missing extra, or a program that does not take one batch of
            square images.
        DataError: If the file cannot be read, or is not safe to load.
    """
    file = Path(path)
    if file.suffix not in PROGRAMS:
        raise UsageError(f"{file} ends in {file.suffix!r}, but a program ends in {' or '.join(PROGRAMS)}.")
    if not file.is_file():
        raise DataError(f"{file} does not exist; check the path.")
    program, notes = _read_onnx(file) if file.suffix == ".onnx" else _read_export(file)
    return ProgramEncoder(program, file.name, notes)


def _joined(parts: list[Any], batch: int, count: int, device: torch.device) -> Any:
    """The outputs of all batches as one: tensors with a row per image are joined, without the padding."""
    first = parts[0]
    if isinstance(first, Tensor):
        if first.ndim == 0 or len(first) != batch:
            return first
        return torch.cat(parts)[:count].to(device)
    if isinstance(first, Mapping):
        return {key: _joined([part[key] for part in parts], batch, count, device) for key in first}
    if isinstance(first, tuple | list):
        return tuple(_joined([*each], batch, count, device) for each in zip(*parts, strict=True))
    return first


def _read_export(file: Path) -> tuple[Program, dict[str, str]]:
    _check_export(file)
    try:
        notes = dict.fromkeys(_extra_names(file), "")
        exported = torch.export.load(file, extra_files=notes)
        module = exported.module()
        inputs = [node for node in exported.graph.nodes if node.name in exported.graph_signature.user_inputs]
        shapes = [tuple(node.meta["val"].shape) for node in inputs]
    except (OSError, KeyError, zipfile.BadZipFile, *REFUSALS) as error:
        raise DataError(f"{file} cannot be read as a program ({reason(error)}); export it again.") from error
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise UsageError(f"{file} takes inputs of shapes {shapes}, but this needs one batch (N, C, H, W).")
    kind = inputs[0].meta["val"].dtype
    free = tuple(length if isinstance(length, int) else None for length in shapes[0])
    return Program(_Call(module, kind), free), notes


class _Call:
    """A call of an exported module, which must not be switched between training and evaluation."""

    def __init__(self, module: nn.Module, kind: torch.dtype):
        self.module, self.kind = module, kind

    def __call__(self, x: Tensor) -> Any:
        return self.module(x.to(self.kind))


def _extra_names(file: Path) -> list[str]:
    with zipfile.ZipFile(file) as archive:
        return [name.partition("/extra/")[2] for name in archive.namelist() if "/extra/" in name]


def _check_export(file: Path) -> None:
    """Raise DataError for a .pt2 file that could run code when torch loads it."""
    try:
        with zipfile.ZipFile(file) as archive:
            unsafe = next(_unsafe_parts(archive), None)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{file} cannot be read as a program ({reason(error)}); export it again.") from None
    if unsafe is not None:
        raise DataError(
            f"{file} is not loaded, since {unsafe}; export it with torch.export.save from weights that are "
            "plain tensors, or as ONNX."
        )


def _unsafe_parts(archive: zipfile.ZipFile) -> Iterator[str]:
    """What in an archive could run code: pickled objects, calls of other functions, sizes that are code."""
    names = archive.namelist()
    if not any("/models/" in name for name in names):
        yield "it has an older format that holds pickled objects"
    for name in names:
        inner = name.partition("/")[2]
        if inner.endswith(".pt") and "sample_inputs" in inner:
            try:
                torch.load(io.BytesIO(archive.read(name)), weights_only=True)
            except Exception:  # noqa: BLE001  whatever a safe reader refuses, torch would unpickle
                yield f"{inner} holds pickled objects"
        elif inner.endswith((".pt", ".so", ".pkl")) or "/aotinductor/" in name:
            yield f"{inner} holds pickled objects or compiled code"
        elif inner.endswith(".json") and "/extra/" not in name:
            for key, text in _texts(json.loads(archive.read(name))):
                pickled = key == "path_name" and not text.startswith(("weight_", "tensor_"))
                if key == "use_pickle" or pickled:
                    yield f"{inner} names the pickled object {text}"
                elif key == "target" and not _CALLS.fullmatch(text):
                    yield f"it calls {text[:100]}"
                elif key == "expr_str" and not _SIZES.fullmatch(text):
                    yield f"the size {text[:100]!r} is no expression of sizes"


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """The texts in JSON with the nearest key above each, and `use_pickle` where it is true."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, key)
    elif isinstance(value, str):
        yield key, value
    elif value is True and key == "use_pickle":
        yield key, "of a weight"


def _read_onnx(file: Path) -> tuple[Program, dict[str, str]]:
    if find_spec("onnxruntime") is None:
        raise UsageError(f"{file} needs onnxruntime; pip install 'fullrank[onnx]'.")
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    except onnx_refusals() as error:
        raise DataError(f"{file} cannot be read as ONNX ({reason(error)}); export it again.") from None
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in _KINDS:
        takes = ", ".join(f"{each.name} {each.type} {each.shape}" for each in inputs)
        raise UsageError(f"{file} takes {takes}, but this needs one batch of float images (N, C, H, W).")
    name, kind = inputs[0].name, _KINDS[inputs[0].type]
    outputs = [each.name for each in session.get_outputs()]

    def run(x: Tensor) -> Any:
        try:
            made = session.run(None, {name: x.detach().numpy().astype(kind)})
        except onnx_refusals() as error:
            raise RuntimeError(str(error)) from error
        tensors = [torch.from_numpy(np.asarray(each)) for each in made]
        return tensors[0] if len(tensors) == 1 else dict(zip(outputs, tensors, strict=True))

    free = tuple(length if isinstance(length, int) else None for length in inputs[0].shape)
    return Program(run, free), dict(session.get_modelmeta().custom_metadata_map)


_KINDS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


def onnx_refusals() -> tuple[type[Exception], ...]:
    """The errors of onnxruntime, which have no common base class and are defined only in its binding."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented")
    return tuple(getattr(state, name) for name in (*names, "RuntimeException"))
