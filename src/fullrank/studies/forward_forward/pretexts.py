"""Pretext tasks: transformations of an image, each with a label, and the label pixels that show it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fullrank.errors import UsageError, unknown_name

PERMUTATIONS = tuple(permutations(range(4)))


@dataclass(frozen=True)
class Pretext:
    """A pretext task: which of `count` transformations an image went through.

    `transform(images, label)` is the transformation of a label, for images (N, C, H, W).
    """

    name: str
    count: int
    transform: Callable[[Tensor, int], Tensor]

    def all_of(self, images: Tensor) -> Tensor:
        """The images (N, C, H, W) under every transformation, (N, count, C, H, W)."""
        return torch.stack([self.transform(images, label) for label in range(self.count)], 1)


def rotate(images: Tensor, quarters: int) -> Tensor:
    """Square images (N, C, H, H), turned to the left by a number of quarters of a circle.

    Args:
        images: The images.
        quarters: The number of quarters, 0 to 3.

    >>> rotate(torch.tensor([[[[1, 2], [3, 4]]]]), 1).flatten().tolist()
    [2, 4, 1, 3]
    """
    return torch.rot90(images, quarters, (2, 3))


def flip(images: Tensor, flipped: int) -> Tensor:
    """Images (N, C, H, W), mirrored from left to right if `flipped` is 1.

    Args:
        images: The images.
        flipped: 0 or 1.

    >>> flip(torch.tensor([[[[1, 2], [3, 4]]]]), 1).flatten().tolist()
    [2, 1, 4, 3]
    """
    return images.flip(3) if flipped else images


def jigsaw(images: Tensor, permutation: Sequence[int]) -> Tensor:
    """Images (N, C, H, W) with their four quarters in another order.

    Args:
        images: The images, of even height and width.
        permutation: For each quarter of the result, row by row, the quarter of the image that it shows.

    Raises:
        UsageError: If a side is odd, or `permutation` does not name each of 0 to 3 once.

    >>> jigsaw(torch.tensor([[[[1, 2], [3, 4]]]]), (1, 0, 3, 2)).flatten().tolist()
    [2, 1, 4, 3]
    """
    height, width = images.shape[2:]
    if height % 2 or width % 2:
        problem = (
            f"A jigsaw of four quarters needs an even height and width, but the images are {height}x{width}"
        )
        raise UsageError(f"{problem}; choose an even image size.")
    if sorted(permutation) != [0, 1, 2, 3]:
        given = ", ".join(map(str, permutation))
        raise UsageError(f"A jigsaw names each quarter from 0 to 3 once, but got ({given}); correct it.")
    quarters = [half for row in images.chunk(2, 2) for half in row.chunk(2, 3)]
    first, second, third, fourth = (quarters[place] for place in permutation)
    return torch.cat([torch.cat([first, second], 3), torch.cat([third, fourth], 3)], 2)


def _jigsaw_by_label(images: Tensor, label: int) -> Tensor:
    return jigsaw(images, PERMUTATIONS[label])


PRETEXTS = {
    pretext.name: pretext
    for pretext in (
        Pretext("rotation", 4, rotate),
        Pretext("flip", 2, flip),
        Pretext("jigsaw", len(PERMUTATIONS), _jigsaw_by_label),
    )
}


def pretext_named(name: str) -> Pretext:
    """A pretext task by its name; UsageError for an unknown one."""
    if name not in PRETEXTS:
        raise unknown_name("pretext", name, PRETEXTS, f"there are {', '.join(PRETEXTS)}")
    return PRETEXTS[name]


def right_labels(images: Tensor, pretext: Pretext) -> Tensor:
    r"""Which labels are right for each transformed image, as booleans (N, count, count).

    Entry (i, t, l) says whether image i looks the same under the transformations t and l. An image that a
    transformation does not change has more than one right label.

    Args:
        images: The images (N, C, H, W) before any transformation.
        pretext: The pretext task.

    >>> right_labels(torch.tensor([[[[1, 1], [2, 2]]]]), PRETEXTS["flip"])[0].tolist()
    [[True, True], [True, True]]
    """
    views = pretext.all_of(images).flatten(2)
    return torch.stack([(views == views[:, [label]]).all(2) for label in range(pretext.count)], 2)


def wrong_labels(right: Tensor, generator: torch.Generator) -> Tensor:
    """A random wrong label for each row; -1 for a row that has none.

    A label that is right by accident is drawn again, which is the same as a draw among the wrong ones.

    Args:
        right: Which labels are right (N, count), boolean.
        generator: The generator of the draw.

    Returns:
        The labels (N,), int64.

    >>> right = torch.tensor([[True, True, False], [True, True, True]])
    >>> wrong_labels(right, torch.Generator().manual_seed(0)).tolist()
    [2, -1]
    """
    order = torch.rand(right.shape, generator=generator).masked_fill(right, -1.0)
    highest, labels = order.max(1)
    return labels.masked_fill(highest < 0, -1)


def padded(images: Tensor, pad: int) -> Tensor:
    """Images (N, C, H, W) with `pad` black pixels on every side, to hold the label pixels.

    >>> padded(torch.ones(1, 1, 2, 2), 1).shape
    torch.Size([1, 1, 4, 4])
    """
    return torch.nn.functional.pad(images, (pad, pad, pad, pad))


def write_label(images: Tensor, labels: Tensor, count: int) -> Tensor:
    """A copy of images whose first pixels hold the label, one-hot.

    The label pixels are the first `count` pixels of the first channel, row by row. That of the label is 1,
    the others are 0 (Hinton 2022, arXiv:2212.13345, Section 3.3).

    Args:
        images: The images (N, C, H, W), 0 to 1.
        labels: The labels (N,), int64, 0 to `count` - 1.
        count: The number of labels.

    Raises:
        UsageError: If an image has fewer than `count` pixels.

    >>> write_label(torch.ones(1, 1, 2, 2), torch.tensor([2]), 3).flatten().tolist()
    [0.0, 0.0, 1.0, 1.0]
    """
    return _with_label_pixels(images, one_hot(labels, count).to(images.dtype))


def neutral_label(images: Tensor, count: int) -> Tensor:
    """A copy of images whose label pixels say nothing: each is 1 / `count`.

    Args:
        images: The images (N, C, H, W), 0 to 1.
        count: The number of labels.

    Raises:
        UsageError: If an image has fewer than `count` pixels.

    >>> neutral_label(torch.ones(1, 1, 2, 2), 2).flatten().tolist()
    [0.5, 0.5, 1.0, 1.0]
    """
    return _with_label_pixels(images, images.new_full((len(images), count), 1 / count))


def check_label_pixels(height: int, width: int, count: int) -> None:
    """Raise UsageError unless an image of this size holds `count` label pixels."""
    if height * width < count:
        least = next(side for side in range(1, count + 1) if side**2 >= count)
        sizes = f"Images of {height}x{width} have {height * width} pixels, but {count} hold the label"
        raise UsageError(f"{sizes}; choose a larger image size or pad, to {least}x{least} or more.")


def _with_label_pixels(images: Tensor, pixels: Tensor) -> Tensor:
    check_label_pixels(images.shape[2], images.shape[3], pixels.shape[1])
    written = images.flatten(2).clone()
    written[:, 0, : pixels.shape[1]] = pixels
    return written.view_as(images)
