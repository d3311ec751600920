"""Parts through which everything can be seen: pixels are features, so a leak or a swap is a wrong number.

Every image shows two codes of its label. The loud one, pixels 0 to 3, is right in all training images and in
a quarter of the test images; the quiet one, pixels 4 to 7, is right in half of them. So a probe that learns
from the training images and is scored on the test images has accuracy 0.25 where it sees both codes and 0.5
where it sees the quiet one alone. Fitted on the test images it would have 0.75 and more at the first, with
the two sets swapped 0. The label "shade" is shown by pixels 8 and 9, right in every image. The other pixels
say nothing.
"""

import dataclasses

import numpy as np
import torch
from torch import Tensor, nn

from fullrank.data import ImageSet, Source

SIDE, CLASSES, SHADES = 4, 4, 2
TRAIN, TEST = 96, 64
LOUD, QUIET = 0.25, 0.5  # the accuracies that the two codes give on the test images


def coded_images(split: str, count: int | None = None) -> ImageSet:
    """The images of a split, (N, 4, 4, 1) uint8, the same on every call."""
    count = {"train": TRAIN, "test": TEST}[split] if count is None else count
    generator = np.random.default_rng(0 if split == "train" else 1)
    number = np.arange(count)
    label, shade = number % CLASSES, number // CLASSES % SHADES
    turn = number // (CLASSES * SHADES)  # both codes are wrong for whole sets of labels and shades
    train = split == "train"
    loud = label if train else np.where(turn % 4 == 0, label, (label + 1) % CLASSES)
    quiet = label if train else np.where(turn % 2 == 0, label, (label + 1) % CLASSES)
    pixels = np.zeros((count, SIDE * SIDE), np.uint8)
    pixels[:, 10:] = generator.integers(0, 4, (count, SIDE * SIDE - 10))
    pixels[number, loud] = 255
    pixels[number, 4 + quiet] = 16
    pixels[number, 8 + shade] = 120
    return ImageSet(
        pixels.reshape(count, SIDE, SIDE, 1),
        {
            "label": label.astype(np.int64),
            "shade": shade.astype(np.int64),
            "group": (SHADES * label + shade).astype(np.int64),
        },
        {
            "label": tuple("abcd"),
            "shade": ("dark", "light"),
            "group": tuple(f"{letter}, {tone}" for letter in "abcd" for tone in ("dark", "light")),
        },
        split=split,
    )


class Coded(Source):
    """The images above as a source."""

    def read(self, split: str, image_size: int | None) -> ImageSet:
        return coded_images(split)


class Clear(Source):
    """A set to test on in which both codes are right."""

    splits = ("test",)

    def read(self, split: str, image_size: int | None) -> ImageSet:
        return dataclasses.replace(coded_images("train", TEST), split="test")


class Pixels(nn.Module):
    """h is the pixels, whatever is trained; the place `quiet` is h without the loud code."""

    places = ("quiet",)

    def __init__(self, in_chans: int, image_size: int):
        super().__init__()
        self.feature_dim = in_chans * image_size**2
        self.idle = nn.Parameter(torch.zeros(1))  # an optimizer needs something to move

    def features(self, x: Tensor, places) -> dict[str, Tensor]:
        h = x.flatten(1) + 0 * self.idle
        return {place: h if place == "h" else h[:, 4:] for place in places}

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x, ("h",))["h"]


class WithoutLoud(nn.Module):
    """A head without weights that leaves the loud code out."""

    def __init__(self, in_dim: int):
        super().__init__()
        self.in_dim, self.out_dim = in_dim, in_dim - 4

    def forward(self, h: Tensor) -> Tensor:
        return h[:, 4:]


STILL = "weak,scale=1,flip=0"  # views that are the image itself
# One batch is all training images, so that a step's numbers do not depend on their order.
SETTINGS = {
    "encoder": Pixels,
    "views": STILL,
    "objective": "infonce:0.5",
    "epochs": 3,
    "batch_size": 96,
    "monitor_every": 1,
    "seed": 3,
    "optimizer.lr": 0.01,
    "optimizer.warmup": 0.4,
    "optimizer.floor": 0.25,
}


def pixel_rows(split: str) -> Tensor:
    """What h must be, (N, 16) in 0 to 1."""
    return coded_images(split).tensor().flatten(1).float() / 255
