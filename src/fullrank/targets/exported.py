"""Read an exported model back: a module from images in 0 to 1 to features."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from fullrank.door import import_modules
from fullrank.encoders import ENCODERS, Encoder, encoder as build_encoder, read_weights, without_download
from fullrank.encoders.foreign import module_encoder
from fullrank.encoders.programs import PROGRAMS, program_encoder
from fullrank.errors import DataError, UsageError, count_of
from fullrank.heads import HEADS, head as build_head
from fullrank.specs import Spec
from fullrank.targets.reader import FeatureReader, needed_tensors, private_copy, separate

_NEEDED = ("encoder", "head", "place", "image_size", "in_chans", "mean", "std")


def load_exported(
    path: str | Path,
    *,
    module: nn.Module | None = None,
    imports: Sequence[str | Path | ModuleType] = (),
) -> nn.Module:
    """Read what `export` wrote: a module from images (N, C, S, S) in 0 to 1 to features (N, D_p).

    Normalisation is part of the module. The file's metadata say which size and preprocessing it needs.
    Nothing is unpickled, and nothing is imported because the file asks for it.

    Args:
        path: The file: `.safetensors`, `.pt2` or `.onnx`.
        module: Your own module, if the file was exported from one. Its tensors become those of the file.
        imports: Modules or files that register your own parts, as `--import` does.

    Returns:
        The module, in eval mode on the CPU.

    Raises:
        DataError: The file was not written by `export`, is damaged, or lacks tensors.
        UsageError: The file needs a module of yours that was not given.

    >>> import tempfile
    >>> from fullrank import export, train
    >>> folder = tempfile.mkdtemp()
    >>> run = train("digits", out=folder + "/run", head="none", epochs=1, classes="3+8")
    >>> [file] = export(run, folder + "/stage2.safetensors", place="stage2.1")
    >>> load_exported(file)(torch.rand(2, 1, 8, 8)).shape
    torch.Size([2, 48])
    """
    path = Path(path)
    if path.suffix in PROGRAMS:
        return program_encoder(path).eval()
    import_modules(imports)
    weights = read_weights(path)
    if missing := [key for key in _NEEDED if key not in weights.metadata]:
        raise DataError(
            f"{path.name} says nothing about its {missing[0]}, so `export` did not write it; give it as the "
            "weights of a model that you name."
        )
    reader = skeleton(weights.metadata, module, path.name)
    fill(reader, weights.tensors, path.name)
    return reader


def skeleton(notes: Mapping[str, str], module: nn.Module | None, file: str) -> FeatureReader:
    """The model that the metadata of a file describe, before it has the tensors of the file.

    Args:
        notes: The metadata.
        module: The module of a file that was exported from one.
        file: The name of the file, for messages.
    """
    try:
        size, channels = int(notes["image_size"]), int(notes.get("image_channels", notes["in_chans"]))
        context: dict[str, Any] = {"image_size": size, "in_chans": channels}
        context |= {key: tuple(json.loads(notes[key])) for key in ("mean", "std")}
    except (ValueError, TypeError) as error:
        raise DataError(f"The metadata of {file} are damaged ({error}); export it again.") from None
    with torch.random.fork_rng(devices=()):
        if notes["encoder"]:
            if module is not None:
                raise UsageError(f"{file} holds {notes['encoder']}, which needs no module; leave it out.")
            encoder = _encoder(notes, context)
        elif module is None:
            name = notes.get("target", "a module")
            raise UsageError(f"{file} was exported from a module of yours, {name}; give it as module=.")
        else:
            encoder = module_encoder(module, **context)
        spec, dims = HEADS.parse(notes["head"], from_file=True), notes.get("view_dims")
        view_dims = None if dims is None else json.loads(dims)
        head = build_head(spec, in_dim=encoder.feature_dim, view_dims=view_dims)
    reader = FeatureReader(encoder, head, notes["place"], (channels, size, size))
    return reader.eval()


def _encoder(notes: Mapping[str, str], context: Mapping[str, Any]) -> Encoder:
    """The encoder of a spec, without the weights of its library."""
    spec = without_download(ENCODERS.parse(notes["encoder"], from_file=True))
    with tempfile.TemporaryDirectory() as folder:
        if "config" in notes:  # of Hugging Face; its own folder may be on another machine
            (Path(folder) / "config.json").write_text(notes["config"], "utf-8")
            spec = Spec(spec.name, folder, spec.options, spec.family)
        return build_encoder(spec, **context)


def fill(reader: FeatureReader, tensors: Mapping[str, Tensor], file: str) -> None:
    """Put the tensors of a file into its model.

    Args:
        reader: The model.
        tensors: The tensors by their names in the file. Those that the features do not need may be missing.
        file: The name of the file, for messages.

    Raises:
        DataError: A tensor is missing, has another shape, or belongs to another model.
    """
    names, state = reader.names_in_file(), reader.state_dict()
    given = {name: tensors[inside] for name, inside in names.items() if inside in tensors}
    for name, tensor in given.items():
        if tensor.shape != state[name].shape:
            shapes = f"{tuple(tensor.shape)} in {file}, but {tuple(state[name].shape)} in the model"
            raise DataError(f"{names[name]} is {shapes}; give the module that it was exported from.")
    reader.load_state_dict(given, strict=False)
    names = reader.names_in_file()  # again, since a model may lose an optional part that the file lacks
    missing = {name for name, inside in names.items() if inside not in tensors}
    if missing:
        missing &= needed_tensors(separate(private_copy(reader)), torch.zeros(1, *reader.image_shape))
    alien = [inside for inside in tensors if inside not in names.values()]
    for fault, faulty in (("lacks", [names[name] for name in sorted(missing)]), ("also has", alien)):
        if faulty:
            raise DataError(
                f"{file} {fault} {count_of(len(faulty), 'tensor')} ({faulty[0]}), so it belongs to another "
                "model; export it again."
            )
