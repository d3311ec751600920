"""ImageNet-9 and the variants of its images in the Backgrounds Challenge."""

from typing import final

from fullrank.data.classes import class_groups
from fullrank.data.published.class_folders import FOLDERS, ClassFolders, check_members
from fullrank.data.sources import SPLITS, Split, canonical
from fullrank.data.streaming import CANVAS
from fullrank.errors import DataError, unknown_name

VARIANTS = (
    *("original", "only-fg", "mixed-same", "mixed-rand", "mixed-next"),
    *("no-fg", "only-bg-b", "only-bg-t", "in9l"),
)


def class_folders() -> dict[str, str]:
    """The nine folders and the names of their classes, such as 02_wheeled vehicle."""
    names = dict.fromkeys(class_groups("imagenet-9").values())
    return {f"{row:02d}_{name}": name for row, name in enumerate(names)}


@final
class ImageNet9(ClassFolders):
    """The streamed images in VARIANT/train/CLASS and VARIANT/val/CLASS below `path`, in nine classes.

    The split that is not loaded may be missing. Classes are the existing folders, in the official order.

    Args:
        path: The folder of the variants.
        variant: The change of foreground and background; in the folder's name `-` becomes `_`. `in9l` is the
            larger unchanged set (IN-9L), in in9l below `path` or in `path` itself.
        canvas: Side of the square canvas for training images in pixels.

    Raises:
        UsageError: If the variant is unknown.
        DataError: If the folders have another structure.

    >>> ImageNet9("data", "only-fg").name
    'imagenet-9:data,variant=only-fg'

    Source: Xiao, Engstrom, Ilyas, Madry 2021, arXiv:2006.09994.
    """

    def __init__(self, path: str, variant: str = "original", canvas: int = CANVAS):
        if variant not in VARIANTS:
            raise unknown_name("variant of ImageNet-9", variant, VARIANTS, f"use {', '.join(VARIANTS)}")
        super().__init__(canonical("imagenet-9", path, canvas=canvas, variant=variant), path, canvas)
        self.variant = variant

    def _find(self) -> dict[Split, dict[str, str]]:
        names = class_folders()
        folders = self._list_splits()
        for listed in folders.values():
            check_members(listed, names, "the nine of ImageNet-9", self.name)
        return {
            split: {f"{self.folder(split)}/{folder}": names[folder] for folder in folders[split]}
            for split in SPLITS
        }

    def folder(self, split: Split) -> str:
        """The folder of a split, relative to `path`."""
        above = self.variant.replace("-", "_")
        bare = self.variant == "in9l" and not (self.path / above).is_dir()
        return FOLDERS[split] if bare else f"{above}/{FOLDERS[split]}"

    def _wrong(self, split: Split) -> DataError:
        expected = self.path / self.folder(split) / "00_dog" / "*.JPEG"
        remedy = (
            "the release has only test images, so add the training images, or train on "
            "imagenet:PATH,classes=imagenet-9"
            if split == "train"
            else "unpack the release of the Backgrounds Challenge there"
        )
        return DataError(f"{self.name} ({split}) has no image: expected {expected.as_posix()}; {remedy}.")
