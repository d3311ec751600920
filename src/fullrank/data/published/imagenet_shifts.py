"""Test sets for encoders trained on ImageNet: other photographs, renditions, sketches, corruptions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from fullrank.data.classes import class_list
from fullrank.data.image_files import list_folders
from fullrank.data.published.class_folders import (
    ClassFolders,
    check_members,
    regroup,
    tree_spec,
)
from fullrank.data.sources import Split
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
"""ImageNet-C's kinds by category; the four of `extra` are not in its mean corruption error."""

SEVERITIES = range(1, 6)


@dataclass(frozen=True)
class Shift:
    """A test set: its source and title, the shipped list of its classes, how its files are called.

    Class folders are WordNet numbers, or, if `numbered`, the indices of the classes in that list.
    """

    name: str
    title: str
    classes: str
    files: str
    numbered: bool = False

    def wnids(self) -> dict[str, str]:
        """Class folder -> WordNet number, of every class, in the order of the list.

        >>> SHIFTS["imagenet-v2"].wnids()["3"]
        'n01491361'
        """
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


def imagenet_a(path: str, canvas: int = CANVAS, classes: str | None = None) -> "ImageNetShift":
    """ImageNet-A, photographs that a ResNet-50 gets wrong, as `ImageNetShift`.

    Source: Hendrycks et al. 2021, arXiv:1907.07174.
    """
    return ImageNetShift(SHIFTS["imagenet-a"], path, canvas, classes)


def imagenet_r(path: str, canvas: int = CANVAS, classes: str | None = None) -> "ImageNetShift":
    """ImageNet-R, renditions: paintings, toys, tattoos and the like, as `ImageNetShift`.

    Source: Hendrycks et al. 2021, arXiv:2006.16241.
    """
    return ImageNetShift(SHIFTS["imagenet-r"], path, canvas, classes)


def imagenet_sketch(path: str, canvas: int = CANVAS, classes: str | None = None) -> "ImageNetShift":
    """ImageNet-Sketch, drawings in black and white, as `ImageNetShift`.

    Source: Wang et al. 2019, arXiv:1905.13549.
    """
    return ImageNetShift(SHIFTS["imagenet-sketch"], path, canvas, classes)


def imagenet_v2(path: str, canvas: int = CANVAS, classes: str | None = None) -> "ImageNetShift":
    """ImageNetV2, photographs collected anew, as `ImageNetShift`; its folders are indices of classes.

    Source: Recht et al. 2019, arXiv:1902.10811.
    """
    return ImageNetShift(SHIFTS["imagenet-v2"], path, canvas, classes)


def imagenet_c(
    path: str,
    kind: str | None = None,
    severity: int | None = None,
    canvas: int = CANVAS,
    classes: str | None = None,
) -> "ImageNetShift":
    """ImageNet-C, validation images under a corruption of a `kind` and `severity`, as `ImageNetShift`.

    They are in KIND/SEVERITY/CLASS or CATEGORY/KIND/SEVERITY/CLASS; severities are 1 to 5. Raises UsageError
    where either is missing or unknown.

    >>> imagenet_c("/data", "fog", 3).folders
    ('fog/3', 'weather/fog/3')

    Source: Hendrycks, Dietterich 2019, arXiv:1903.12261.
    """
    category_of = {kind: category for category, kinds in CORRUPTIONS.items() for kind in kinds}
    if kind is None or severity is None:
        missing = "kind" if kind is None else "severity"
        raise UsageError(
            f"imagenet-c needs a kind and a severity, but got no {missing}; write "
            f"imagenet-c:{path},kind={kind or 'gaussian_noise'},severity={severity or 3}."
        )
    if kind not in category_of:
        raise unknown_name("kind of corruption", kind, category_of, f"there are {', '.join(category_of)}")
    if severity not in SEVERITIES:
        raise UsageError(f"The severity must be 1 to 5, but got {severity}; choose one of these.")
    folders = (f"{kind}/{severity}", f"{category_of[kind]}/{kind}/{severity}")
    shift = SHIFTS["imagenet-c"]
    return ImageNetShift(shift, path, canvas, classes, folders, kind=kind, severity=severity)


@final
class ImageNetShift(ClassFolders):
    """The images of a `shift` in CLASS below `path`, streamed; there are none to train on.

    The class folders are in the first of `folders` below `path` that exists. Classes are the WordNet numbers
    of those that are there, as in ImageNet, or, with `classes`, their groups in this shipped grouping; what
    belongs to none is left out. `options` are what the spec says beside these.

    Raises DataError for the training split, for a tree of another shape, and for a folder that is no class of
    the set.

    >>> imagenet_r("no/such/folder").load("train")
    Traceback (most recent call last):
    ...
    fullrank.errors.DataError: imagenet-r:no/such/folder has no training images, it is a shift to test on; \
write `fullrank probe RUN --shift imagenet-r:no/such/folder`.
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
        super().__init__(tree_spec(shift.name, path, canvas, classes=classes, **options), path, canvas)
        self.shift, self.classes, self.folders = shift, classes, tuple(folders)

    def _find(self) -> dict[Split, dict[str, str]]:
        root = next((self.path / folder for folder in self.folders if (self.path / folder).is_dir()), None)
        found = () if root is None else list_folders(root)
        if root is None or not found:
            raise self._wrong("test")
        wnids = self.shift.wnids()
        which = f"the {len(wnids)} of {self.shift.title}"
        check_members(found, wnids, which, self.name)
        folder_of = {wnids[folder]: (root / folder).relative_to(self.path).as_posix() for folder in found}
        class_of = regroup(folder_of, self.classes, self.name)
        return {"test": {folder_of[wnid]: class_name for wnid, class_name in class_of.items()}}

    def _wrong(self, split: Split) -> DataError:
        first = next(iter(self.shift.wnids()))
        trees = [(self.path / folder / first / self.shift.files).as_posix() for folder in self.folders]
        return DataError(
            f"{self.name} holds no image; expected {' or '.join(trees)}, and the other classes beside it."
        )
