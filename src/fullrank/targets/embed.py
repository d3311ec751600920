"""Export features of any images at one place of a run, as an array and as a file."""

import io
import json
from collections.abc import Collection, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np
from safetensors.numpy import save

from fullrank.data import SOURCES, ImageSet, source
from fullrank.data.sources import SPLITS, Split
from fullrank.devices import flushed_denormals, on_accelerator
from fullrank.errors import DataError, UsageError, unknown_name
from fullrank.files import write_whole
from fullrank.places import Place, collect_features
from fullrank.runs.build import load_data
from fullrank.runs.run import Run, input_shape, opened
from fullrank.version import __version__

BATCH = 512


@flushed_denormals()
def embed(
    run: str | Path | Run,
    data: str | None = None,
    *,
    split: str = "test",
    place: str = "h",
    out: str | Path | None = None,
    imports: Sequence[str | Path | ModuleType] = (),
) -> np.ndarray:
    """The features of images at one place of a run, as an array and, with `out`, as a file.

    Images are read in batches, and the features of all images must fit in memory. The ending of `out` chooses
    the format. The file is written completely or not at all:

    - `.npy`: the features, and their labels in `NAME.labels.npy` if any image is labelled
    - `.safetensors`: the tensors `features` and `labels` (-1 where unlabelled), with place, data, split,
      encoder, head and class names as metadata
    - `.parquet`: the columns `embedding`, `label` and `class` (empty where unlabelled), with the same
      metadata in the schema; needs the extra `parquet`

    Args:
        run: A run, or its folder.
        data: The spec of a source, of which all images are read at the run's image size. None means the run's
            own images, as selected by its recipe.
        split: "train" or "test".
        place: Where features are read: h, h[:24], z, or a layer such as stage3.1.
        out: The file to write; None writes no file.
        imports: Modules or files that register your own parts, as `--import` does.

    Returns:
        The features (N, D_p), float32.

    Raises:
        UsageError: A place, split, source or ending is unknown, an extra is missing, or the file exists.
        DataError: Images cannot be read, or have another number of channels than the run's.

    >>> import tempfile
    >>> from fullrank import train
    >>> folder = tempfile.mkdtemp() + "/run"
    >>> run = train("digits", out=folder, head="none", epochs=1, classes="3+8")
    >>> embed(run, place="h[:24]", out=folder + "/h24.npy").shape
    (99, 24)
    """
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS, "a source has 'train' and 'test'")
    target = None if out is None else check_out(out, _WRITERS)
    if target is not None and target.suffix == ".npy":
        check_free(target.with_suffix(".labels.npy"))
    if target is not None and target.suffix == ".parquet":
        check_extra("parquet", ("pyarrow",), "Writing .parquet")
    run = opened(run, imports)
    images = _images(run, data, SPLITS[SPLITS.index(split)])
    with on_accelerator(run.encoder, run.head):
        features = collect_features(run.encoder, run.head, images.batches(BATCH), [place])[place].numpy()
    if target is not None:
        name = run.recipe.data if data is None else str(SOURCES.parse(data))
        classes = json.dumps(images.class_names["label"])
        notes = describe(run, place) | {"data": name, "split": split, "classes": classes}
        _WRITERS[target.suffix](target, features, images.labels["label"], notes)
    return features


def _images(run: Run, data: str | None, split: Split) -> ImageSet:
    """The images of `split`, in the form that the run's encoder takes."""
    if data is None:
        return load_data(run.recipe)[SPLITS.index(split)]
    size, channels = input_shape(run.path)
    images = source(data).load(split, size)
    if images.channels != channels:
        raise DataError(
            f"{images} has images of {images.channels} channels, but the encoder in {run.path} takes "
            f"{channels}; give {'grey' if channels == 1 else 'colour'} images, or use another run."
        )
    return images


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


def _write_npy(path: Path, features: np.ndarray, labels: np.ndarray, notes: dict[str, str]) -> None:
    arrays = {path.with_suffix(".labels.npy"): labels} if (labels >= 0).any() else {}
    for target, array in (arrays | {path: features}).items():
        content = io.BytesIO()
        np.save(content, array, allow_pickle=False)
        write_whole(target, content.getvalue())


def _write_safetensors(path: Path, features: np.ndarray, labels: np.ndarray, notes: dict[str, str]) -> None:
    write_whole(path, save({"features": features, "labels": labels}, notes))


def _write_parquet(path: Path, features: np.ndarray, labels: np.ndarray, notes: dict[str, str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    classes = json.loads(notes["classes"])
    names = [None if label < 0 else classes[label] for label in labels]
    columns = {
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(features.reshape(-1)), features.shape[1]),
        "label": pa.array(labels, mask=labels < 0),
        "class": pa.array(names, pa.string()),
    }
    content = io.BytesIO()
    pq.write_table(pa.table(columns).replace_schema_metadata(notes), content)
    write_whole(path, content.getvalue())


# Each takes features (N, D_p) float32, labels (N,) int64 with -1 for no label, and a description.
_WRITERS = {".npy": _write_npy, ".safetensors": _write_safetensors, ".parquet": _write_parquet}
