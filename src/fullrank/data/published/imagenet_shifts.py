"""Test sets for encoders trained on ImageNet: other photographs, renditions, sketches, corruptions."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import final

from fullrank.data.classes import class_list
from fullrank.data.image_files import list_folders
from fullrank.data.published.class_folders import ClassFolders, check_members, regroup
from fullrank.data.sources import Split, canonical
from fullrank.data.streaming import CANVAS
from fullrank.errors import DataError, UsageError, unknown_name
from fullrank.specs import Scalar

CORRUPTIONS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    "extra": ("speckle_noise", "gaussian_blur", "spatter", "saturate"),
}
"""ImageNet-C's kinds by category; its mean corruption error excludes the four of `extra`."""

SEVERITIES = range(1, 6)


@dataclass(frozen=True)
class Shift:
    """A test set: its source and title, the shipped list of its classes, and the names of its files.

    Class folders are WordNet numbers or, if `numbered`, the indices of the classes in that list.
    """

    name: str
    title: str
    classes: str
    files: str
    numbered: bool = False

    def wnids(self) -> dict[str, str]:
        """Class folder -> WordNet number, for every class in the order of the list."""
        listed = class_list(self.classes)
        return {str(row) if self.numbered else wnid: wnid for row, wnid in enumerate(listed)}


SHIFTS = {
    shift.name: shift
    for shift in (
        Shift("imagenet-a", "ImageNet-A", "imagenet-a", "*.jpg"),
        Shift("imagenet-r", "ImageNet-R", "imagenet-r", "*.jpg"),
        Shift("imagenet-sketch", "ImageNet-Sketch", "imagenet-1k", "*.JPEG"),
        Shift("imagenet-v2", "ImageNetV2", "imagenet-1k", "*.jpeg", numbered=True),
        Shift("imagenet-c", "ImageNet-C", "imagenet-1k", "*.JPEG"),
    )
}


@final
class ImageNetShift(ClassFolders):
    """The streamed test images of a shift, in class folders below `path`.

    Classes are the WordNet numbers of the existing folders, as in ImageNet.

    Args:
        shift: The test set.
        path: The folder of the data.
        canvas: Side of the square canvas in pixels.
        classes: A shipped grouping. Then the classes are its groups, and images outside all groups are left
            out.
        folders: Class folders are in the first of these folders below `path` that exists.
        options: Further options of the spec.

    Raises:
        DataError: If the training split is loaded, the folders have another structure, or a folder is not a
            class of the set.

    >>> imagenet_r("data").name
    'imagenet-r:data'
    """

    splits = ("test",)

    def __init__(
        self,
        shift: Shift,
        path: str,
        canvas: int = CANVAS,
        classes: str | None = None,
        folders: Sequence[str] = (".",),
        **options: Scalar,
    ):
        name = canonical(shift.name, path, canvas=canvas, classes=classes, **options)
        super().__init__(name, path, canvas)
        self.shift, self.classes, self.folders = shift, classes, tuple(folders)

    def _find(self) -> dict[Split, dict[str, str]]:
        root = next((self.path / folder for folder in self.folders if (self.path / folder).is_dir()), None)
        folders = [] if root is None else list_folders(root)
        if root is None or not folders:
            raise self._wrong("test")
        wnids = self.shift.wnids()
        check_members(folders, wnids, f"the {len(wnids)} of {self.shift.title}", self.name)
        folder_of = {wnids[folder]: (root / folder).relative_to(self.path).as_posix() for folder in folders}
        class_of = regroup(folder_of, self.classes, self.name)
        return {"test": {folder_of[wnid]: class_name for wnid, class_name in class_of.items()}}

    def _wrong(self, split: Split) -> DataError:
        first = next(iter(self.shift.wnids()))
        trees = [(self.path / folder / first / self.shift.files).as_posix() for folder in self.folders]
        return DataError(f"{self.name} has no image; expected {' or '.join(trees)} and folders like it.")


imagenet_a, imagenet_r, imagenet_sketch, imagenet_v2 = (
    partial(ImageNetShift, SHIFTS[name])
    for name in ("imagenet-a", "imagenet-r", "imagenet-sketch", "imagenet-v2")
)


def imagenet_c(
    path: str,
    kind: str | None = None,
    severity: int | None = None,
    canvas: int = CANVAS,
    classes: str | None = None,
) -> "ImageNetShift":
    """ImageNet-C: validation images with a corruption, as an `ImageNetShift`.

    They are in KIND/SEVERITY/CLASS or CATEGORY/KIND/SEVERITY/CLASS.

    Args:
        path: The folder of the kinds or categories.
        kind: The name of the corruption's folder, such as `fog`.
        severity: 1 to 5.
        canvas: Side of the square canvas in pixels.
        classes: A shipped grouping of the classes.

    Raises:
        UsageError: If the kind or the severity is missing or unknown.

    >>> imagenet_c("/data", "fog", 3).folders
    ('fog/3', 'weather/fog/3')

    Source: Hendrycks, Dietterich 2019, arXiv:1903.12261.
    """
    category_of = {kind: category for category, kinds in CORRUPTIONS.items() for kind in kinds}
    if kind is None or severity is None:
        missing = "kind" if kind is None else "severity"
        example = f"imagenet-c:{path},kind={kind or 'gaussian_noise'},severity={severity or 3}"
        raise UsageError(f"imagenet-c needs a kind and a severity, but got no {missing}; write {example}.")
    if kind not in category_of:
        raise unknown_name("kind of corruption", kind, category_of, f"use {', '.join(category_of)}")
    if severity not in SEVERITIES:
        raise UsageError(f"The severity must be 1 to 5, but got {severity}; choose one of these.")
    folders = (f"{kind}/{severity}", f"{category_of[kind]}/{kind}/{severity}")
    shift = SHIFTS["imagenet-c"]
    return ImageNetShift(shift, path, canvas, classes, folders, kind=kind, severity=severity)
