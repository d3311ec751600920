"""Small generated data sets in the official layouts, to try a run before you have the real data."""

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fullrank.data.classes import class_list
from fullrank.data.published.class_folders import regroup
from fullrank.data.published.grouped import OFFICIAL_SPLITS
from fullrank.data.published.imagenet import ImageNet
from fullrank.data.published.imagenet_9 import ImageNet9, class_folders
from fullrank.data.published.imagenet_shifts import SHIFTS, ImageNetShift
from fullrank.data.published.urbancars import CORRELATIONS, group_folder
from fullrank.data.published.waterbirds import COLUMNS, METADATA
from fullrank.data.sets.cifar import CIFAR10, CIFAR100, SIDE as CIFAR_SIDE, CifarCollection
from fullrank.data.sets.stl10 import FOLDER as STL10_FOLDER, NAMES as STL10_NAMES, SIDE as STL10_SIDE
from fullrank.data.sources import SPLITS, Split
from fullrank.errors import UsageError, unknown_name
from fullrank.specs import Spec

_TEST_SHARE = 4  # number of training images for each test image
_FINE_IN_COARSE = 5  # as in CIFAR-100


@dataclass(frozen=True)
class _Plan:
    """The contents of a data set to write, and the `spec` that reads it."""

    labels: dict[Split, np.ndarray]
    names: tuple[str, ...]
    size: int
    channels: int
    random: np.random.Generator
    spec: Spec

    def pictures(self, split: Split, side: int) -> np.ndarray:
        """The images of a split as (n, side, side, 3) uint8."""
        return np.stack([self.picture(label, side, side) for label in self.labels[split]])

    def picture(self, label: int, height: int, width: int) -> np.ndarray:
        """A noisy disc or square on a dark background, (height, width, 3) uint8; the class is its colour."""
        y, x = np.mgrid[:height, :width] / (min(height, width) - 1)
        middle, radius = self.random.uniform(0.4, 0.6, 2), self.random.uniform(0.2, 0.35)
        far = np.stack([y - middle[0], x - middle[1]])
        distance = np.abs(far).max(0) if label % 2 else np.hypot(*far)
        phase = 2 * np.pi * (label / len(self.names) + np.arange(3) / 3)
        colour = np.where((distance < radius)[..., None], 160 + 95 * np.cos(phase), 40)
        noisy = colour + self.random.normal(0, 25, (height, width, 3))
        return np.rint(noisy).clip(0, 255).astype(np.uint8)


def write_miniature(
    spec: str,
    folder: Path,
    *,
    images: int,
    classes: int,
    size: int,
    seed: int = 0,
    class_names: Sequence[str] | None = None,
    channels: int = 3,
) -> str:
    """Write a generated data set in the layout of a source, and return the spec that reads it.

    There are a quarter as many test images as training images, but at least one of each class. A shift has
    only test images, of the first classes of its list. urbancars and waterbirds have two classes, which take
    turns.

    Args:
        spec: The source, such as `cifar10`; its options are kept.
        folder: Where the data set is written.
        images: Number of training images; the classes take turns.
        classes: Number of classes.
        size: Shorter side of the image files in pixels. It applies to imagenet, its shifts, urbancars,
            waterbirds and folder; other formats have a fixed size.
        seed: Seed of the images.
        class_names: Names of the classes; they replace `classes`.
        channels: 3 for RGB; with 1 the files of a folder are grey.

    Raises:
        UsageError: If the source has no layout here, or an official list does not have a class. Also for
            fewer than 2 classes, fewer images than classes, or a size below 8.

    >>> import tempfile
    >>> from fullrank.data import source
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     spec = write_miniature("cifar10", Path(folder), images=20, classes=2, size=32)
    ...     source(spec).load("train").images.shape
    (20, 32, 32, 3)
    """
    from fullrank.data import SOURCES, source

    name = SOURCES[re.split("[:,]", spec)[0].strip()].name
    if name not in _WRITERS:
        raise unknown_name("data in miniature", name, _WRITERS, f"use {', '.join(_WRITERS)}")
    read = SOURCES.parse(spec if ":" in spec else spec.replace(name, f"{name}:{name}", 1))
    read = Spec(read.name, str(folder), read.options, read.family)
    source(read)  # its options are checked before anything is written
    names = _class_names(read, classes, class_names)
    for value, least, what in (
        (len(names), 2, "classes"),
        (images, len(names), "images, one of each class,"),
        (size, 8, "pixels a side"),
    ):
        if value < least:
            raise UsageError(f"Data in miniature needs {least} {what} or more, but got {value}; give more.")
    counts = {"train": images, "test": max(images // _TEST_SHARE, len(names))}
    labels = {split: np.arange(counts[split]) % len(names) for split in SPLITS}
    folder.mkdir(parents=True, exist_ok=True)
    _WRITERS[name](_Plan(labels, names, size, channels, np.random.default_rng(seed), read), folder)
    return str(read)


def _write_cifar(collection: CifarCollection) -> Callable[[_Plan, Path], None]:
    def write(plan: _Plan, folder: Path) -> None:
        form = collection.binary
        coarse = max(2, -(-len(plan.names) // _FINE_IN_COARSE))
        target = folder / form.folder
        target.mkdir(exist_ok=True)
        names = {"label": plan.names, "coarse": tuple(f"coarse-{i:03d}" for i in range(coarse))}
        for kind in collection.labels:
            (target / kind.names_file).write_text("\n".join(names[kind.name]) + "\n", "utf-8")
        for split in SPLITS:
            fine = plan.labels[split]
            bytes_of = {"label": fine, "coarse": fine % coarse}
            columns = [bytes_of[kind.name] for kind in sorted(collection.labels, key=lambda kind: kind.byte)]
            pixels = plan.pictures(split, CIFAR_SIDE).transpose(0, 3, 1, 2).reshape(len(fine), -1)
            records = np.column_stack([*columns, pixels]).astype(np.uint8)
            paths = collection.paths(form, target, split)
            for path, part in zip(paths, np.array_split(records, len(paths)), strict=True):
                part.tofile(path)

    return write


def _write_stl10(plan: _Plan, folder: Path) -> None:
    target = folder / STL10_FOLDER
    target.mkdir(exist_ok=True)
    (target / STL10_NAMES).write_text("\n".join(plan.names) + "\n", "utf-8")
    for split in SPLITS:
        plan.pictures(split, STL10_SIDE).transpose(0, 3, 2, 1).tofile(target / f"{split}_X.bin")
        (plan.labels[split] + 1).astype(np.uint8).tofile(target / f"{split}_y.bin")
    plan.pictures("train", STL10_SIDE).transpose(0, 3, 2, 1).tofile(target / "unlabeled_X.bin")


def _save(path: Path, pixels: np.ndarray, grey: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert("L" if grey else "RGB").save(
        path, None if path.suffix == ".png" else "JPEG", quality=90
    )


def _official_folders(spec: Spec) -> dict[str, str]:
    """Name of a class -> the folder of its images, if a layout fixes its classes; else empty."""
    if spec.name == "imagenet-9":
        return {name: folder for folder, name in class_folders().items()}
    classes = dict(spec.options).get("classes")
    if spec.name in SHIFTS:
        folder_of = {wnid: folder for folder, wnid in SHIFTS[spec.name].wnids().items()}
    elif classes is not None:
        folder_of = {wnid: wnid for wnid in class_list("imagenet-1k")}
    else:
        return {}
    grouped = regroup(folder_of, None if classes is None else str(classes), spec.name)
    return {class_name: folder_of[wnid] for wnid, class_name in grouped.items()}


def _class_names(spec: Spec, classes: int, names: Sequence[str] | None) -> tuple[str, ...]:
    """The `names`, or the first `classes` names; from the official list if the source has one."""
    official = _official_folders(spec)
    if names is not None:
        for name in names:
            if official and name not in official:
                raise unknown_name(f"class of {spec.name}", name, official, f"it has {len(official)}")
        return tuple(names)
    if official and classes > len(official):
        raise UsageError(f"{spec.name} has {len(official)} classes, but got {classes}; ask for fewer.")
    return tuple(official)[:classes] or tuple(f"class-{row:03d}" for row in range(classes))


def _write_tree(plan: _Plan, split: Split, folder: Path, files: str = "*.JPEG") -> None:
    """Write a split into class folders below `folder`; every second image is a third wider than high."""
    official = _official_folders(plan.spec)
    for row, label in enumerate(plan.labels[split].tolist()):
        name = plan.names[label]
        width = plan.size * (4 if row % 2 else 3) // 3
        file = folder / official.get(name, name) / files.replace("*", f"{name}_{row}")
        _save(file, plan.picture(label, plan.size, width))


def _write_imagenet(plan: _Plan, folder: Path) -> None:
    from fullrank.data import SOURCES

    built: ImageNet | ImageNet9 = SOURCES.build(plan.spec)
    for split in SPLITS:
        _write_tree(plan, split, folder / built.folder(split))


def _write_shift(plan: _Plan, folder: Path) -> None:
    """Write test images only; for ImageNet-C with the requested kind and severity, in their category."""
    from fullrank.data import SOURCES

    built: ImageNetShift = SOURCES.build(plan.spec)
    _write_tree(plan, "test", folder / built.folders[-1], built.shift.files)


def _write_folder(plan: _Plan, folder: Path) -> None:
    for split in SPLITS:
        pictures = plan.pictures(split, plan.size)
        for row, (label, pixels) in enumerate(zip(plan.labels[split].tolist(), pictures, strict=True)):
            _save(folder / split / plan.names[label] / f"{row}.png", pixels, grey=plan.channels == 1)


def _write_urbancars(plan: _Plan, folder: Path) -> None:
    """Write three splits with balanced backgrounds and objects; every second class is a country car."""
    for official in OFFICIAL_SPLITS:
        tree = folder / CORRELATIONS["train" if official == "train" else "val"] / official
        for row, label in enumerate(plan.labels["train" if official == "train" else "test"].tolist()):
            target = tree / group_folder(label % 2, row // 2 % 2, row // 4 % 2)
            _save(target / f"{row}.jpg", plan.picture(label % 2, plan.size, plan.size))


def _write_waterbirds(plan: _Plan, folder: Path) -> None:
    """Write three splits with balanced places; every second class is a waterbird."""
    rows: list[tuple[str | int, ...]] = []
    for number, official in enumerate(OFFICIAL_SPLITS):
        for row, label in enumerate(plan.labels["train" if official == "train" else "test"].tolist()):
            name = f"{label % 2}.bird/{official}_{row}.jpg"
            _save(folder / name, plan.picture(label % 2, plan.size, plan.size * 4 // 3))
            rows.append((len(rows) + 1, name, label % 2, number, row // 2 % 2, f"/place/{row}.jpg"))
    with (folder / METADATA).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])


_WRITERS: dict[str, Callable[[_Plan, Path], None]] = {
    "cifar10": _write_cifar(CIFAR10),
    "cifar100": _write_cifar(CIFAR100),
    "stl10": _write_stl10,
    "imagenet": _write_imagenet,
    "imagenet-9": _write_imagenet,
    **dict.fromkeys(SHIFTS, _write_shift),
    "urbancars": _write_urbancars,
    "waterbirds": _write_waterbirds,
    "folder": _write_folder,
}
LAYOUTS = tuple(_WRITERS)
"""The sources that `write_miniature` has a layout for."""
