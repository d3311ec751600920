"""Write features of any images at one place of any model, as an array and as a file."""

import json
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import nn

from fullrank.batch import as_float
from fullrank.data import SOURCES, ImageSet, source
from fullrank.data.sources import SPLITS, Split
from fullrank.devices import first_device, flushed_denormals, on_accelerator
from fullrank.door import import_modules
from fullrank.embeddings.files import EmbeddingFile, open_embeddings
from fullrank.embeddings.kinds import is_embeddings
from fullrank.embeddings.writing import (
    DTYPES,
    LAYOUTS,
    UNLABELLED,
    Rows,
    Written,
    ids_file,
    labels_file,
    part_files,
    write_rows,
)
from fullrank.errors import UsageError, unknown_name
from fullrank.places import Place, evaluating, read_places
from fullrank.progress import counted, progress_bar
from fullrank.runs.run import Run, input_shape
from fullrank.targets.images import images_in, images_of, own_run
from fullrank.targets.opening import Target, target as open_target
from fullrank.version import __version__

BATCH = 256


@flushed_denormals()
def embed(
    target: "str | Path | nn.Module | type[nn.Module] | Run | Target",
    data: Any = None,
    *,
    split: str | None = None,
    place: str = "h",
    out: str | Path | None = None,
    imports: Sequence[str | Path | ModuleType] = (),
) -> np.ndarray:
    """The features of images at one place of any model, as an array and, with `out`, as a file.

    The features of all images must fit in memory; `write_embeddings` writes any number of them.

    Args:
        target: What `fullrank.target` takes, or what it returns.
        data: The spec of a source, or a torch Dataset or a pair of them. None means a run's own images, as
            selected by its recipe.
        split: "train", "test" or "all". None is the test images, or all images if the data have no splits of
            their own.
        place: Where features are read: h, h[:24], z, or a layer such as stage3.1.
        out: The file to write, see `write_embeddings`; None writes no file.
        imports: Modules or files that register your own parts, as `--import` does.

    Returns:
        The features (N, D_p), float32.

    Raises:
        UsageError: A target, place, split, source or ending is unknown, an extra is missing, or the file
            exists.
        DataError: Images cannot be read, or have another number of channels than a run's.

    >>> import tempfile
    >>> from fullrank import train
    >>> folder = tempfile.mkdtemp() + "/run"
    >>> run = train("digits", out=folder, head="none", epochs=1, classes="3+8")
    >>> embed(run, place="h[:24]", out=folder + "/h24.npy").shape
    (99, 24)
    """
    import_modules(imports)
    _check(split, "float32")
    path = None if out is None else _free_out(out, resume=False)
    parts: list[np.ndarray] = []
    with _opened(target, data, split, place) as reading:
        if path is None:
            return np.concatenate(list(reading.batches(0)))

        def kept(start: int) -> Iterator[np.ndarray]:
            for batch in reading.batches(start):
                parts.append(batch)
                yield batch

        write_rows(path, reading.rows, kept, step=BATCH)
    return np.concatenate(parts)


@flushed_denormals()
def write_embeddings(
    target: "str | Path | nn.Module | type[nn.Module] | Run | Target",
    data: Any,
    out: str | Path,
    *,
    split: str | None = None,
    place: str = "h",
    dtype: str = "float32",
    resume: bool = False,
) -> Written:
    """Write the features of images at one place of any model to a file, in batches.

    Memory does not grow with the number of images. Until the file is complete, its rows stand in `NAME.part`
    and `NAME.part.json`. Every row has the id of its image: its path in its folder, or what its source calls
    it. The ending of `out` chooses the format:

    - `.npy`: the features, with ids in `NAME.ids.txt`, one in each line, and labels in `NAME.labels.npy` if
      any image is labelled
    - `.safetensors`: the tensors `features` and `labels` (-1 where unlabelled); ids as a JSON list in the
      metadata, or in `NAME.ids.txt` if they take more than 32 MiB
    - `.parquet`: the columns `id`, `embedding`, `label` and `class` (empty where unlabelled), and `split` if
      there are several; needs the extra `parquet`

    The metadata of the last two are the target, its weights and preprocessing, place, data, split, names of
    the classes, and the version of fullrank. In an id, bytes that are not UTF-8 and line breaks are written
    as Python's escapes.

    Args:
        target: What `fullrank.target` takes, or what it returns; or a file of embeddings, or a folder of
            them, which is converted.
        data: The spec of a source, or a torch Dataset or a pair of them. None means a run's own images.
        out: The file to write.
        split: "train", "test" or "all". None is the test images, or all images if the data have no splits of
            their own.
        place: Where features are read: h, h[:24], z, or a layer such as stage3.1.
        dtype: "float32" or "float16".
        resume: Continue an interrupted call with the same arguments. The file has the same bytes as without
            the interruption.

    Returns:
        What was written; its text is a sentence.

    Raises:
        UsageError: A target, place, split, source, ending or dtype is unknown, an extra is missing, the file
            exists, or a part exists that was begun with other settings.
        DataError: Images cannot be read, or a number is beyond float16.

    >>> import tempfile
    >>> from fullrank.data import source
    >>> written = write_embeddings("tiny-resnet,width=4", "digits", tempfile.mkdtemp() + "/x.npy")
    >>> written.rows, written.width, [path.name for path in written.files]
    (1797, 16, ['x.npy', 'x.ids.txt', 'x.labels.npy'])
    """
    _check(split, dtype)
    path = _free_out(out, resume)
    with _opened(target, data, split, place) as reading:
        return write_rows(path, reading.rows, reading.batches, step=BATCH, dtype=dtype, resume=resume)


@contextmanager
def _opened(target: Any, data: Any, split: str | None, place: str) -> "Iterator[_Images | _File]":
    """The features of a target: of images at one place, or those of a file of embeddings."""
    if not is_embeddings(target):
        with _reading(open_target(target), data, split, place) as reading:
            yield reading
        return
    if data is not None or split is not None or place != "h":
        raise UsageError(f"{target} holds embeddings and is only converted; leave out data, split and place.")
    yield _File.open(Path(target))


@dataclass(frozen=True, eq=False)
class _File:
    """A file of embeddings, or a folder of them, on the way to another format."""

    file: EmbeddingFile
    rows: Rows

    @classmethod
    def open(cls, path: Path) -> "_File":
        file = open_embeddings(path)
        ids = map(str, range(file.rows)) if file.ids is None else file.ids.tolist()
        labels = np.full(file.rows, UNLABELLED) if file.labels is None else file.labels
        notes = {"fullrank": __version__, "target": str(path), "classes": json.dumps(file.classes)}
        return cls(file, Rows(tuple(ids), labels, file.classes, file.all_splits, notes))

    def batches(self, start: int) -> Iterator[np.ndarray]:
        """The features (n, D) float32 from the row `start` on."""
        return (chunk.numpy() for chunk in islice(self.file.chunks(BATCH), start // BATCH, None))


@dataclass(frozen=True, eq=False)
class _Images:
    """Images on their way through an encoder and a head to one place."""

    encoder: nn.Module
    head: nn.Module
    images: ImageSet
    place: str
    rows: Rows

    @torch.no_grad()
    def batches(self, start: int) -> Iterator[np.ndarray]:
        """The features (n, D_p) float32 from the image `start` on, counted on a progress line."""
        rest = self.images.subset(np.arange(start, len(self.images))) if start else self.images
        device = first_device(self.encoder)
        with progress_bar() as progress:
            for batch in counted(rest.batches(BATCH), progress, "Embedding images", len(rest)):
                pixels = as_float(batch.to(device))
                features = read_places(self.encoder, self.head, pixels, [self.place])[self.place]
                yield features.float().cpu().numpy()


@contextmanager
def _reading(target: Target, data: Any, split: str | None, place: str) -> Iterator[_Images]:
    """A target with its images, in eval mode on the device that does the work."""
    name = Place.parse(place).name
    if target.head is None and (name == "z" or name.startswith("head.")):
        raise UsageError(f"{target.name} has no head and so no place {name}; read h, or a layer.")
    images, splits = _images(target, data, split)
    encoder = target.opened(images)
    head = nn.Identity() if target.head is None else target.head
    described = describe(target.run, place) if target.run is not None else {}
    notes = described | {
        "fullrank": __version__,
        "target": target.name,
        "weights": target.weights,
        "preprocessing": json.dumps(_preprocessing(target, images)),
        "place": str(Place.parse(place)),
        "data": _data_name(target, data),
        "split": images.split,
        "classes": json.dumps(images.class_names["label"]),
        "weights_crc32": f"{_checksum(encoder, head):08x}",
    }
    rows = Rows(images.ids, images.labels["label"], images.class_names["label"], splits, notes)
    with on_accelerator(encoder, head), evaluating(encoder, head):
        yield _Images(encoder, head, images, place, rows)


def _images(target: Target, data: Any, split: str | None) -> tuple[ImageSet, np.ndarray | None]:
    """The images of a split; of "all", also the split of each image if the data state it."""
    if split != "all" or (isinstance(data, str | type) and not _has_both(data)):
        return images_in(target, data, _checked_split(split)), None
    images = images_of(target, data)
    if images.train is None:
        return images.test, None
    splits = np.repeat(SPLITS, [len(images.train), len(images.test)])
    return images.train.joined(images.test), splits


def _has_both(data: "str | type") -> bool:
    """Whether a source has the images of both splits, and did not draw them itself."""
    images = source(data)
    return images.official and set(images.splits) == set(SPLITS)


def _preprocessing(target: Target, images: ImageSet) -> dict[str, Any]:
    if target.run is None:
        preprocessing = target.preprocessing_of(images)
        return {} if preprocessing is None else preprocessing.settings
    mean, std = (getattr(target.run.encoder, name, None) for name in ("mean", "std"))
    statistics = {"mean": mean, "std": std}
    size = {"image_size": input_shape(target.run.path)[0]}
    return size | {name: each.flatten().tolist() for name, each in statistics.items() if each is not None}


def _data_name(target: Target, data: Any) -> str:
    if data is None:
        return own_run(target).recipe.data
    return str(SOURCES.parse(data)) if isinstance(data, str | type) else "images passed in Python"


def _checksum(*modules: nn.Module) -> int:
    """CRC-32 of all weights."""
    checksum = 0
    for module in modules:
        for tensor in module.state_dict().values():
            if isinstance(tensor, torch.Tensor):
                plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
                checksum = zlib.crc32(plain.numpy().data, checksum)
    return checksum


def _checked_split(split: str | None) -> Split | Literal["all"] | None:
    if split is None or split in (*SPLITS, "all"):
        return cast('Split | Literal["all"] | None', split)
    raise unknown_name("split", split, (*SPLITS, "all"), "a source has 'train', 'test' and 'all'")


def _check(split: str | None, dtype: str) -> None:
    _checked_split(split)
    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES, f"features are written as {' or '.join(DTYPES)}")


def _free_out(out: str | Path, resume: bool) -> Path:
    """`out` as a path if it and the files beside it can be created; otherwise UsageError."""
    path = check_out(out, LAYOUTS)
    # A part was begun when the files beside it did not exist: those that do are its own.
    if path.suffix == ".npy" and not (resume and part_files(path)[0].exists()):
        for beside in (ids_file(path), labels_file(path)):
            check_free(beside)
    if path.suffix == ".parquet":
        check_extra("parquet", ("pyarrow",), "Writing .parquet")
    return path


def describe(run: Run, place: str) -> dict[str, str]:
    """The description of its run that every exported file has."""
    return {
        "fullrank": __version__,
        "encoder": run.recipe.encoder,
        "head": run.recipe.head,
        "place": str(Place.parse(place)),
    }


def check_out(out: str | Path, endings: Collection[str]) -> Path:
    """`out` as a path if a file can be created there; otherwise UsageError."""
    path = Path(out)
    if path.suffix not in endings:
        needed = " or ".join(endings)
        raise UsageError(f"{path} ends in {path.suffix or 'nothing'!r}, but needs {needed}; rename it so.")
    if not path.parent.is_dir():
        raise UsageError(f"The folder {path.parent} of {path.name} does not exist; create it first.")
    return check_free(path)


def check_free(path: Path) -> Path:
    """`path` if it does not exist yet; otherwise UsageError."""
    if path.exists():
        raise UsageError(f"{path} exists and is not overwritten; remove it, or give another name.")
    return path


def check_extra(extra: str, libraries: Collection[str], purpose: str) -> None:
    """Raise UsageError unless the libraries of an extra are installed."""
    if missing := [library for library in libraries if find_spec(library) is None]:
        remedy = f"run `pip install 'fullrank[{extra}]'`"
        raise UsageError(f"{purpose} needs {', '.join(missing)}, which is not installed; {remedy}.")
