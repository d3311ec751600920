"""Masks of the objects in images, brought to the squares that encoders see. Torch-free."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from fullrank.data.decoding import UNREADABLE, centre_of, fit_square, reason
from fullrank.data.image_files import image_tree
from fullrank.data.opening import closing, open_image
from fullrank.data.streaming import StreamedImages
from fullrank.errors import DataError, few_of
from fullrank.preprocessing import Fit

FOREGROUND = "foreground"
"""The layer of a composite that is object 1 of its masks."""

IGNORED = 255
"""The value of pixels that belong neither to an object nor to the background."""

_MODES = ("1", "L", "P", "I", "I;16")


@dataclass(frozen=True, eq=False)
class Masks:
    """Masks of the objects in N images, read on demand: 0 is the background, 255 is ignored.

    Every other value is an object.

    Args:
        read: `read(i)` gives the mask of image i, (Y, X) uint8, at the size of the upright image.
        rows: The rows of the N images, (N,), as `read` counts them.

    >>> masks = Masks.of(np.array([[[0, 1]], [[2, 255]]], np.uint8))
    >>> len(masks), masks[np.array([1])].read(1)
    (2, array([[  2, 255]], dtype=uint8))
    """

    read: Callable[[int], np.ndarray]
    rows: np.ndarray

    @classmethod
    def of(cls, masks: np.ndarray) -> "Masks":
        """Masks in memory, (N, Y, X) uint8."""
        return cls(masks.__getitem__, np.arange(len(masks)))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: np.ndarray) -> "Masks":
        """The masks of the images at `rows` (n,), in that order."""
        return replace(self, rows=self.rows[rows])


def checked_masks(masks: Masks | np.ndarray, images: Any, name: str) -> Masks:
    """The masks of a set of images; DataError if their number, size or type is another.

    Args:
        masks: The masks, in memory or read on demand.
        images: The images (N, H, W, C), or streamed ones.
        name: The name of the set, for messages.
    """
    if len(masks) != len(images):
        raise DataError(f"{name} has {len(masks)} masks for {len(images)} images; give one for each.")
    if isinstance(masks, Masks):
        return masks
    if masks.dtype != np.uint8 or masks.ndim != 3:
        problem = f"masks must be uint8 (N, H, W), but got {masks.dtype} {masks.shape}"
        raise DataError(f"{name}: {problem}; give the number of the object at each pixel.")
    if not isinstance(images, StreamedImages) and masks.shape[1:] != images.shape[1:3]:
        high, wide = masks.shape[1:]
        problem = (
            f"the masks have {wide} x {high} pixels, but the images {images.shape[2]} x {images.shape[1]}"
        )
        raise DataError(f"{name}: {problem}; give masks of the size of their images.")
    return Masks.of(masks)


def layer_masks(images: np.ndarray, layers: Mapping[str, np.ndarray]) -> np.ndarray:
    """Masks (N, H, W) uint8 of composites: an object is where the image differs without its layer.

    The layer `foreground` is object 1. The other layers are objects 2, 3, ..., but not the first of them,
    which is the background. Where two objects overlap, the foreground is in front.

    Args:
        images: The images (N, H, W, C).
        layers: Name -> the same images without that layer, from the background up.

    >>> images = np.array([[[[9], [5], [0]]]], np.uint8)
    >>> layer_masks(images, {"background": images * 0, "foreground": np.array([[[[3], [5], [0]]]], np.uint8)})
    array([[[1, 0, 0]]], dtype=uint8)
    """
    objects = [name for name in layers if name != FOREGROUND][1:]
    masks = np.zeros(images.shape[:3], np.uint8)
    for number, name in [*enumerate(objects, start=2), (1, FOREGROUND)]:
        masks[(images != layers[name]).any(-1)] = number
    return masks


def square_mask(mask: np.ndarray, images: Any, size: int) -> np.ndarray:
    """A mask (Y, X) as encoders see it, (size, size), cut and resized as its image is, by nearest neighbour.

    If the images go through the transform of a net, each object is where the transform of a white shape on
    black is brighter than the middle.

    Args:
        mask: The mask at the size of the upright image.
        images: The images, which say how they are fitted.
        size: The side of the square.
    """
    fit = images.fit if isinstance(images, StreamedImages) else None
    if fit is not None:
        return _through(fit, mask, size)
    square = centre_of if isinstance(images, StreamedImages) else fit_square
    return np.asarray(square(Image.fromarray(mask), size, Image.Resampling.NEAREST))


def _through(fit: Fit, mask: np.ndarray, size: int) -> np.ndarray:
    """The objects of a mask after a transform that resizes and crops."""

    def shown(pixels: np.ndarray) -> np.ndarray:
        shares: np.ndarray = fit(Image.fromarray(pixels).convert("RGB")).astype(np.float64).mean(2)
        return shares

    black, white = shown(np.zeros_like(mask)), shown(np.full_like(mask, 255))
    fitted = np.zeros((size, size), np.uint8)
    for value in np.unique(mask[mask > 0]).tolist():
        level = shown(np.where(mask == value, np.uint8(255), np.uint8(0)))
        fitted[level - black > (white - black) / 2] = value
    return fitted


def folder_masks(folder: Path, root: Path, names: Sequence[str], source: str, *, needed: bool) -> Masks:
    """The masks of image files: PNG files in `folder` with the path or the stem of each image.

    Args:
        folder: The folder of the masks.
        root: The folder of the images.
        names: The images, relative to `root`.
        source: The name of the source, for messages.
        needed: Whether every image must have a mask.

    Raises:
        DataError: If an image has no mask and needs one, or, when it is read, a mask is not grey or palette,
            or has another size than its image.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder} of masks; check masks= in {source}.")
    files = [name for name in image_tree(folder)[0] if name.lower().endswith(".png")]
    by_path = {_without_ending(name): name for name in files}
    by_stem = {PurePosixPath(name).stem: name for name in files}
    mask_of = [by_path.get(_without_ending(name)) or by_stem.get(PurePosixPath(name).stem) for name in names]
    missing = [name for name, mask in zip(names, mask_of, strict=True) if mask is None]
    if missing and needed:
        problem = f"{len(missing)} of {len(names)} images have no mask in {folder}: {few_of(missing)}"
        raise DataError(f"{source}: {problem}; add a PNG file with the stem of each image.")

    def read(row: int) -> np.ndarray:
        mask = mask_of[row]
        if mask is None:
            raise DataError(f"{source}: {names[row]} has no mask in {folder}; add a PNG file with its stem.")
        return _read(folder / mask, root / names[row], source)

    return Masks(read, np.arange(len(names)))


def _without_ending(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _read(path: Path, image: Path, source: str) -> np.ndarray:
    """The mask in a PNG file, (Y, X) uint8, whose size must be that of the image."""
    try:
        with Image.open(path) as opened:
            mode, mask = opened.mode, np.asarray(opened)
    except UNREADABLE as error:
        raise DataError(f"{source}: {path} cannot be decoded ({reason(error)}); replace it.") from error
    if mode not in _MODES or mask.max(initial=0) > IGNORED:
        problem = f"{path} is {mode}" if mode not in _MODES else f"{path} has the value {mask.max()}"
        remedy = "a mask is a palette or grey PNG whose values, 0 to 255, are the numbers of its objects"
        raise DataError(f"{source}: {problem}; {remedy}.")
    with closing(open_image(image)) as opened:
        if isinstance(opened, Image.Image):
            ImageOps.exif_transpose(opened, in_place=True)
            wide, high = opened.size
        else:
            high, wide = opened.shape[:2]
    if mask.shape != (high, wide):
        sizes = (
            f"{path} has {mask.shape[1]} x {mask.shape[0]} pixels, but its image {image} has {wide} x {high}"
        )
        raise DataError(f"{source}: {sizes}; give the mask the size of its image.")
    return mask.astype(np.uint8)
