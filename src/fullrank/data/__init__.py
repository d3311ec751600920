"""Data: sources of images with their labels, and batches of them."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from fullrank.bibliography import P2
from fullrank.lazy import attach
from fullrank.registry import Entry, Registry
from fullrank.specs import Parameter, Spec, write

if TYPE_CHECKING:
    from fullrank.data.classes import class_groups as class_groups, class_list as class_list
    from fullrank.data.image_set import ImageSet as ImageSet
    from fullrank.data.loader import BatchLoader as BatchLoader
    from fullrank.data.made.composite import (
        Cue as Cue,
        compose as compose,
        image_cue as image_cue,
        object_cue as object_cue,
        texture_cue as texture_cue,
    )
    from fullrank.data.made.composite_presets import Composite as Composite
    from fullrank.data.made.corrupted import Corrupted as Corrupted
    from fullrank.data.made.corruptions import corrupt as corrupt
    from fullrank.data.made.miniature import write_miniature as write_miniature
    from fullrank.data.published.imagenet import ImageNet as ImageNet
    from fullrank.data.published.imagenet_9 import ImageNet9 as ImageNet9
    from fullrank.data.published.imagenet_shifts import ImageNetShift as ImageNetShift
    from fullrank.data.published.urbancars import UrbanCars as UrbanCars
    from fullrank.data.published.waterbirds import Waterbirds as Waterbirds
    from fullrank.data.sets.cifar import Cifar as Cifar
    from fullrank.data.sets.digits import Digits as Digits
    from fullrank.data.sets.folder import ImageFolder as ImageFolder
    from fullrank.data.sets.huggingface import HuggingFace as HuggingFace
    from fullrank.data.sets.idx import IdxFiles as IdxFiles
    from fullrank.data.sets.npz import NpzArchive as NpzArchive
    from fullrank.data.sets.stl10 import Stl10 as Stl10
    from fullrank.data.sets.table import ImageTable as ImageTable
    from fullrank.data.sources import Source as Source
    from fullrank.data.streaming import StreamedImages as StreamedImages
    from fullrank.data.undecodable import BadImages as BadImages

__getattr__, __dir__, __all__ = attach(__name__)
__all__ += ["SOURCES", "register_source", "source"]

_IDX_FOLDER = Parameter("path", str, "folder of the four IDX files, plain or gzipped")
_OFFICIAL_FOLDER = Parameter("path", str, "the unpacked folder or its parent", required=True)
_COMPOSITES = ("mnist-on-cifar10", "digits-on-textures", "two-cues", "any")
_CORRUPTIONS = (
    *("gaussian-noise", "shot-noise", "impulse-noise", "gaussian-blur", "motion-blur"),
    *("brightness", "contrast", "saturation", "pixelate", "jpeg"),
    *("posterize", "solarize", "rotate", "elastic"),
)
_TEST = Parameter("test", str, "the official split to test on: val or test", "test", choices=("val", "test"))
_CANVAS = Parameter("canvas", int, "side of the square canvas that images are resized to in training", 320)
_GROUPED = (
    _CANVAS,
    Parameter("classes", str, "merge classes: imagenet-9 makes nine of 370", choices=("imagenet-9",)),
)
_DEPTH = (
    Parameter("bits", int, "the bits of pixels of more than 8; files and arrays find them"),
    Parameter("low", float, "the value that becomes black, for negative, floating-point or 32-bit pixels"),
    Parameter("high", float, "the value that becomes white, with low"),
)
_CLASS_FOLDERS = Parameter("path", str, "the folder of the class folders", required=True)
_IMAGENET_SHIFTS = {
    "imagenet-a": (
        "ImageNet-A, test only: photographs that mislead classifiers, of 200 ImageNet classes",
        "Hendrycks et al. 2021, arXiv:1907.07174",
        "hendrycks2021natural",
    ),
    "imagenet-r": (
        "ImageNet-R, test only: 30,000 paintings, toys and other renditions of 200 ImageNet classes",
        "Hendrycks et al. 2021, arXiv:2006.16241",
        "hendrycks2021many",
    ),
    "imagenet-sketch": (
        "ImageNet-Sketch, test only: drawings of the 1000 ImageNet classes",
        "Wang et al. 2019, arXiv:1905.13549",
        "wang2019learning",
    ),
    "imagenet-v2": (
        "ImageNetV2, test only: 10,000 newly collected photographs of the 1000 ImageNet classes",
        "Recht et al. 2019, arXiv:1902.10811",
        "recht2019imagenet",
    ),
}


def _suggest(text: str) -> str:
    """Suggest the spec of a source for a path or a name on the Hugging Face hub."""
    try:
        return _suggest_for(text, Path(text).expanduser())
    except (
        OSError,
        RuntimeError,
    ):  # too long for a path, an unreadable folder, or the home of an unknown user
        return ""


def _suggest_for(text: str, path: Path) -> str:
    suffix = path.suffix.lower()
    if path.is_dir():
        names = {each.name for each in path.iterdir()}
        if any("idx3-ubyte" in name for name in names):
            return (
                f"a folder of IDX files is written {_typed('mnist', text)} or {_typed('fashion-mnist', text)}"
            )
        if names & {"dataset_dict.json", "dataset_info.json"}:
            return f"a saved data set is written {_typed('huggingface', text)}"
        return f"a folder of images is written {_typed('folder', text)}"
    if suffix == ".npy":
        return "an array alone has no labels; save images and labels in one file and write npz:FILE"
    if suffix in (".npz", ".csv", ".tsv"):
        return f"a {suffix} file is written {_typed('npz' if suffix == '.npz' else 'table', text)}"
    if suffix == ".parquet":
        lists = f"or {_typed('table', text)} if it lists image files"
        return f"a {suffix} file is written {_typed('huggingface', text)}, {lists}"
    if "ubyte" in path.name or suffix == ".idx":
        return f"IDX files are named by their folder, {_typed('mnist', str(path.parent))}"
    if path.is_file():
        return f"images are named by their folder, {_typed('folder', str(path.parent))}"
    if text.count("/") == 1 and text[0] not in "./~":
        return f"no such folder; a data set of the Hugging Face hub is written {_typed('huggingface', text)}"
    return ""


def _typed(name: str, path: str) -> str:
    """The spec of a source as one types it in a shell."""
    return shlex.quote(f"{name}:{write(path)}")


SOURCES = Registry("data", "data", context=("name",), group="fullrank.sources", suggest=_suggest)
register_source = SOURCES.add
for _entry in [
    Entry(
        "digits",
        "fullrank.data.sets.digits:Digits",
        "1797 handwritten digits, 8 x 8 grey, included in scikit-learn: 1297 to train, 500 to test",
        "scikit-learn, load_digits (UCI Optical Recognition of Handwritten Digits)",
        citations=("pedregosa2011scikit", "alpaydin1998cascading"),
    ),
    Entry(
        "fashion-mnist",
        "fullrank.data.sets.idx:fashion_mnist",
        "70,000 pieces of clothing, 28 x 28 grey, ten classes",
        "Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747",
        value=_IDX_FOLDER,
        citations=("xiao2017fashion",),
    ),
    Entry(
        "mnist",
        "fullrank.data.sets.idx:mnist",
        "70,000 handwritten digits, 28 x 28 grey, ten classes",
        "LeCun, Bottou, Bengio, Haffner 1998",
        value=_IDX_FOLDER,
        citations=("lecun1998gradient",),
    ),
    Entry(
        "folder",
        "fullrank.data.sets.folder:ImageFolder",
        "a folder of image files; its subfolders are the classes",
        "your own",
        value=Parameter("path", str, "the folder", required=True),
        options=(
            Parameter("canvas", int, "decode images on demand, and resize them to this square in training"),
            *_DEPTH,
            Parameter("masks", str, "folder of PNG masks of objects, one for each test image"),
        ),
    ),
    Entry(
        "table",
        "fullrank.data.sets.table:ImageTable",
        "image files that a CSV or Parquet file lists, with labels, splits and groups",
        "your own",
        value=Parameter("file", str, "the CSV or Parquet file", required=True),
        options=(
            Parameter("path", str, "the column of paths; default: such as path or filename"),
            Parameter("label", str, "the column of labels, A+B for several; default: such as label or class"),
            Parameter("split", str, "the column of splits; default: such as split or subset"),
            Parameter("group", str, "the column of groups, kept in one split; default: such as patient_id"),
            Parameter("root", str, "the folder of the paths; default: that of the table"),
            Parameter("canvas", int, "decode images on demand, and resize them to this square in training"),
            *_DEPTH,
        ),
    ),
    Entry(
        "npz",
        "fullrank.data.sets.npz:NpzArchive",
        "a NumPy .npz file of images and labels, with the array names of MedMNIST or Keras",
        "your own",
        value=Parameter("path", str, "the file", required=True),
        options=_DEPTH,
    ),
    Entry(
        "cifar10",
        "fullrank.data.sets.cifar:cifar10",
        "60,000 photographs, 32 x 32 RGB, ten classes; the python or the binary version, unpacked",
        "Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
        value=_OFFICIAL_FOLDER,
        citations=("krizhevsky2009learning",),
    ),
    Entry(
        "cifar100",
        "fullrank.data.sets.cifar:cifar100",
        "60,000 photographs, 32 x 32 RGB, 100 classes and 20 coarse ones",
        "Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
        value=_OFFICIAL_FOLDER,
        citations=("krizhevsky2009learning",),
    ),
    Entry(
        "stl10",
        "fullrank.data.sets.stl10:Stl10",
        "13,000 photographs, 96 x 96 RGB, ten classes, and 100,000 unlabelled training images",
        "Coates, Ng, Lee 2011, An Analysis of Single-Layer Networks in Unsupervised Feature Learning",
        value=_OFFICIAL_FOLDER,
        options=(Parameter("unlabelled", bool, "train on the unlabelled images too", True),),
        citations=("coates2011analysis",),
    ),
    Entry(
        "imagenet",
        "fullrank.data.published.imagenet:ImageNet",
        "ILSVRC2012, 1.28 million photographs, 1000 classes, in train/WNID and val/WNID; decoded on demand",
        "Russakovsky et al. 2015, arXiv:1409.0575",
        value=Parameter("path", str, "the folder of train and val", required=True),
        options=_GROUPED,
        citations=("russakovsky2015imagenet",),
    ),
    Entry(
        "imagenet-9",
        "fullrank.data.published.imagenet_9:ImageNet9",
        "nine super-classes of ImageNet, foreground and background varied; VARIANT/train and VARIANT/val",
        "Xiao et al. 2021, arXiv:2006.09994 (the Backgrounds Challenge)",
        value=Parameter("path", str, "the folder of the variants", required=True),
        options=(
            Parameter("variant", str, "original, only-fg, mixed-rand, mixed-same, ... or in9l", "original"),
            _CANVAS,
        ),
        citations=("xiao2021noise",),
    ),
    *(
        Entry(
            name,
            f"fullrank.data.published.imagenet_shifts:{name.replace('-', '_')}",
            summary,
            paper,
            value=_CLASS_FOLDERS,
            options=_GROUPED,
            citations=(key,),
        )
        for name, (summary, paper, key) in _IMAGENET_SHIFTS.items()
    ),
    Entry(
        "imagenet-c",
        "fullrank.data.published.imagenet_shifts:imagenet_c",
        "ImageNet-C, test only: the ImageNet validation images with 19 corruptions at severities 1 to 5",
        "Hendrycks, Dietterich 2019, arXiv:1903.12261",
        value=Parameter("path", str, "the folder of the kinds, or of their categories", required=True),
        options=(
            Parameter("kind", str, "gaussian_noise, fog, ...: the name of its folder"),
            Parameter("severity", int, "1 to 5"),
            *_GROUPED,
        ),
        citations=("hendrycks2019benchmarking",),
    ),
    Entry(
        "huggingface",
        "fullrank.data.sets.huggingface:HuggingFace",
        "a data set of the datasets library: saved, local or from the hub; decoded on demand",
        "Lhoest et al. 2021, arXiv:2109.02846",
        value=Parameter("path", str, "its folder (also of tar shards), Parquet file or name", required=True),
        options=(
            Parameter("image", str, "the column of images; default: the first one with images"),
            Parameter(
                "label",
                str,
                "the column of labels, or several joined by +; default: the first one of classes",
            ),
            _CANVAS,
            *_DEPTH,
        ),
        aliases=("hf",),
        citations=("lhoest2021datasets",),
    ),
    Entry(
        "composite",
        "fullrank.data.made.composite_presets:Composite",
        "foregrounds on backgrounds, with cues correlated with the label; every factor has its own label",
        "P2, controlled data (authors' code); UrbanCars, Li et al. 2023, arXiv:2212.04825",
        value=Parameter("preset", str, "which composition", choices=_COMPOSITES, required=True),
        options=(
            Parameter("mnist", str, "folder of MNIST, for mnist-on-cifar10"),
            Parameter("cifar10", str, "folder of CIFAR-10, for mnist-on-cifar10"),
            Parameter("foreground", Spec, "the data of the foreground, for any"),
            Parameter(
                "background", Spec, "the data of the background or textures, for any", choices=("textures",)
            ),
            Parameter("strength", float, "opacity of the foreground, 0 to 1"),
            Parameter("scale", float, "side of the foreground as a share of the side of the canvas"),
            Parameter("place", str, "position of the foreground: centre, top-left, ..., or drawn (random)"),
            Parameter("size", int, "side of the canvas in pixels"),
            Parameter("n", int, "number of training images; foregrounds are reused if there are fewer"),
            Parameter(
                "correlation",
                float,
                "of each cue with the label in training; test images are balanced",
            ),
            Parameter("seed", int, "seed of the pairing of parts", 0),
            Parameter("without", str, "the part to leave out: foreground, background or object"),
        ),
        citations=(P2,),
        families=(
            ("composite:mnist-on-cifar10", "lecun1998gradient"),
            ("composite:mnist-on-cifar10", "krizhevsky2009learning"),
            ("composite:digits-on-textures", "pedregosa2011scikit"),
            ("composite:digits-on-textures", "alpaydin1998cascading"),
            ("composite:two-cues", "pedregosa2011scikit"),
            ("composite:two-cues", "alpaydin1998cascading"),
            ("composite:two-cues", "li2023whac"),
        ),
    ),
    Entry(
        "given",
        "fullrank.data.sources:Given",
        "images passed in Python as a torch Dataset; they cannot be loaded again from a file",
        "your own",
        value=Parameter("name", str, "name of the dataset", required=True),
    ),
    Entry(
        "urbancars",
        "fullrank.data.published.urbancars:UrbanCars",
        "urban or country cars; background and object agree with it at 0.95 in training; decoded on demand",
        "Li et al. 2023, arXiv:2212.04825",
        value=_OFFICIAL_FOLDER,
        options=(_TEST, _CANVAS),
        citations=("li2023whac",),
    ),
    Entry(
        "waterbirds",
        "fullrank.data.published.waterbirds:Waterbirds",
        "landbirds and waterbirds, 95 % on their own background in training; decoded on demand",
        "Sagawa, Koh, Hashimoto, Liang 2020, arXiv:1911.08731",
        value=_OFFICIAL_FOLDER,
        options=(_TEST, _CANVAS),
        citations=("sagawa2020distributionally",),
    ),
    Entry(
        "corrupted",
        "fullrank.data.made.corrupted:Corrupted",
        "any data with a common corruption at severities 1 to 5; not ImageNet-C itself",
        "in the spirit of Hendrycks, Dietterich 2019, arXiv:1903.12261",
        value=Parameter("kind", str, ", ".join(_CORRUPTIONS), choices=_CORRUPTIONS, required=True),
        options=(
            Parameter("data", Spec, "the data, in quotes if it contains a comma or ="),
            Parameter("severity", int, "1 to 5", 3),
            Parameter("seed", int, "seed of the corruption", 0),
        ),
        citations=("hendrycks2019benchmarking",),
    ),
]:
    SOURCES.register(_entry)


def source(spec: "str | Spec | type[Source]") -> "Source":
    """Build a source of images from its spec, or from a class of your own; `load` reads the images.

    Args:
        spec: A spec such as `folder:PATH` (`fullrank list data`), or a class derived from
            `fullrank.data.Source`.

    Returns:
        The source; `load("train")` and `load("test")` give an `ImageSet` each.

    Raises:
        UsageError: The name is unknown, the spec lacks a path, or the class is not a source.

    >>> source("digits").load("test", image_size=16).images.shape
    (500, 16, 16, 1)
    """
    from fullrank.data.sources import checked_source

    parsed = SOURCES.parse(spec)
    return checked_source(SOURCES.build(parsed), parsed)
