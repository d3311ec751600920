"""Data sets of the `datasets` library: saved, local, or from the hub."""

from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING, Any, final

from PIL import Image

from fullrank.data.decoding import reason
from fullrank.data.depth import EIGHT, Window, window_option
from fullrank.data.image_set import UNLABELLED, ImageSet
from fullrank.data.labelling import Labels
from fullrank.data.selection import fixed_split
from fullrank.data.sets.label_columns import labels_of
from fullrank.data.sources import Source, Split, canonical
from fullrank.data.streaming import CANVAS, IMAGE_SIZE, StreamedImages
from fullrank.data.undecodable import BadImages
from fullrank.errors import DataError, UsageError, unknown_name
from fullrank.files import expanded

if TYPE_CHECKING:
    from datasets import Dataset

_SAVED = ("dataset_dict.json", "state.json")  # files that save_to_disk writes
_TRAIN_SPLITS = ("train", "training")
_TEST_SPLITS = ("test", "testing", "validation", "val", "valid", "dev", "eval", "evaluation")


@final
class HuggingFace(Source):
    """Images of a data set of the `datasets` library, streamed as RGB.

    No code of a data set is executed. The library copies all data but a saved folder into its own cache, as
    tables, so that images can be read in any order. Splits are `train` and the first of `test`, `validation`,
    `val`, `valid`, `dev` and `eval` that has labels. A single split is divided into 80 % and 20 %.

    Labels may be whole numbers or words, with the classes that occur; None, NaN and -1 mean no label. Lists
    of labels, or several columns of 0 and 1, are several labels an image, named "label:NAME". Classes of
    two splits are matched by their names.

    Args:
        path: A folder that `save_to_disk` wrote; a folder of images, Parquet files or tar shards
            (WebDataset); one Parquet file; or a name on the hub.
        image: The column of images; the default is the first one with images.
        label: The column of labels; `json.label` is an entry of a column of mappings, and `smile+beard` are
            two columns. The default is the first column of classes, or else one named label, labels, cls,
            class, category, target, species or breed; without one, images are unlabelled.
        canvas: Side of the square canvas for training images in pixels.
        bits: The bits of pixels of more than eight bits, which are refused without it.
        low: The value that becomes black, as in `ImageFolder`.
        high: The value that becomes white.

    Raises:
        UsageError: If the library is not installed, or a column does not exist.
        DataError: If the data set cannot be loaded or has no images.

    >>> HuggingFace("somebody/pets", label="breed").name
    'huggingface:somebody/pets,label=breed'
    """

    def __init__(
        self,
        path: str,
        image: str | None = None,
        label: str | None = None,
        canvas: int = CANVAS,
        bits: int | None = None,
        low: float | None = None,
        high: float | None = None,
    ):
        options = {"image": image, "label": label, "bits": bits, "low": low, "high": high}
        super().__init__(canonical("huggingface", path, canvas=canvas, **options))
        self._given = window_option(bits, low, high)
        self.path, self.image, self.label, self.canvas = path, image, label, canvas

    @property
    def window(self) -> Window | None:
        """How pixels of more than eight bits become eight bits; None if that was not given."""
        return self._given

    @property
    def official(self) -> bool:
        """Whether the data set has splits of its own."""
        return len(self._load()) > 1

    def read(self, split: Split, image_size: int | None) -> ImageSet:
        """Read the images of `split`."""
        tables = self._load()
        images = self._images(tables, split, image_size)
        if len(tables) > 1:
            return images
        return images.subset(fixed_split(images.labels["label"], split, self.name))

    def read_all(self, image_size: int | None, bad: BadImages) -> ImageSet:
        """Read the images of both splits, in the order of the table if there is only one."""
        if self.official:
            return super().read_all(image_size, bad)
        return replace(self._images(self._load(), "train", image_size), split="all")

    def _images(self, tables: "dict[str, Dataset]", split: Split, image_size: int | None) -> ImageSet:
        """The images of the table of `split`; both splits share it if there is only one."""
        image = self._image_column(next(iter(tables.values())))
        labels = labels_of(tables, self.label, self.name)
        part = _part(labels, split)
        if image not in tables[part].features:
            raise DataError(
                f"{self.name}: {part} lacks the column {image!r}; add it, or name another image=."
            )
        undecoded = tables[part].select_columns([image]).cast_column(image, _feature("Image")(decode=False))
        images = StreamedImages(
            lambda row: _open(undecoded[row][image]),
            [f"image {row} of {part}" for row in range(len(undecoded))],
            self.canvas,
            image_size or IMAGE_SIZE,
            name=self.name,
            window=self._given or EIGHT,
        )
        ids = tuple(map(str, range(len(undecoded))))
        return ImageSet(images, labels.of[part], labels.class_names, self.name, split, ids=ids)

    def _load(self) -> "dict[str, Dataset]":
        """The splits of the data set under their own names; the training split is the first."""
        try:
            from datasets import DatasetDict, load_dataset, load_from_disk
            from datasets.exceptions import DatasetsError
        except ImportError as error:
            install = "pip install 'fullrank[huggingface]'"
            raise UsageError(f"{self.name} needs the library datasets; {install}.") from error
        path = expanded(self.path)
        try:
            if any((path / file).is_file() for file in _SAVED):
                loaded = load_from_disk(str(path))
            elif path.is_file():
                loaded = load_dataset("parquet", data_files=str(path))
            else:
                loaded = load_dataset(str(path) if path.is_dir() else self.path)
        except (OSError, ValueError, DatasetsError) as error:
            remedy = "check the path, or the name and the connection to the hub"
            raise DataError(f"{self.name} cannot be loaded ({reason(error)}); {remedy}.") from error
        tables = dict(loaded) if isinstance(loaded, DatasetDict) else {"train": loaded}
        if len(tables) == 1:
            return tables
        by_name = {name.lower(): name for name in reversed(tables)}
        train, *test = (
            [by_name[name] for name in names if name in by_name] for names in (_TRAIN_SPLITS, _TEST_SPLITS)
        )
        ours = [*train[:1], *test[0]]
        if not train or not test[0]:
            needed = f"needs {' or '.join(_TRAIN_SPLITS)}, and one of {', '.join(_TEST_SPLITS)}"
            raise DataError(f"{self.name} has the splits {', '.join(tables)}, but {needed}; rename them.")
        return {name: tables[name] for name in ours}

    def _image_column(self, table: "Dataset") -> str:
        """The column of the images: the first one of `datasets.Image`, or else of the bytes of files."""
        features = table.features
        if self.image is not None and self.image not in features:
            raise unknown_name("column", self.image, features, f"{self.name} has {', '.join(features)}")
        images = [name for name, each in features.items() if isinstance(each, _feature("Image"))]
        images += [name for name, each in features.items() if _holds_bytes(each)]
        image = self.image or next(iter(images), None)
        if image is None or image not in images:
            what = "has no column of images" if image is None else f"has no images in the column {image!r}"
            remedy = "cast the right one to datasets.Image and save the data set"
            raise DataError(f"{self.name} {what}, but the columns {', '.join(features)}; {remedy}.")
        return image


def _feature(name: str) -> Any:
    """A kind of column, under its name in `datasets`."""
    import datasets

    return getattr(datasets, name)


def _holds_bytes(feature: Any) -> bool:
    """Whether a column holds the bytes of files: binary, or {bytes, path} as `datasets` writes images."""
    if isinstance(feature, Mapping):
        return set(feature) == {"bytes", "path"}
    return getattr(feature, "dtype", "") in ("binary", "large_binary")


def _part(labels: Labels, split: Split) -> str:
    """The data set's own name of `split`; a test split without labels is the last choice."""
    first, *others = labels.of
    if split == "train" or not others:
        return first
    labelled = (n for n in others if any((own != UNLABELLED).any() for own in labels.of[n].values()))
    return next(labelled, others[0])


def _open(cell: Mapping[str, Any] | None) -> Image.Image:
    if cell is None:
        raise ValueError("this row has no image")
    return Image.open(cell["path"] if cell["bytes"] is None else BytesIO(cell["bytes"]))
