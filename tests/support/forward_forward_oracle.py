"""Forward-Forward's goodness, losses, labels and pretexts in plain NumPy.

Everything is float64, one row at a time. It was written from a digest of the paper, before its author saw the
implementation. One thing was changed after that: the length in `normalised_row`, which the digest leaves
open, is the implementation's, with its guard. Each function quotes the sentence that it computes. Images are
(N, C, H, W).

What the digest leaves open, and what is done here:

1. The layer loss: softplus for the right label plus softplus for the wrong one, mean over pairs. A mean over
   all 2N rows would be half of it.
2. "a normalisation": each row brought to one length, as Hinton does; no mean is subtracted. Which length is
   not said: 1, or the root of the width (a root mean square of 1). Both hide the goodness of the layer below.
3. "the last 3 layers" is said of four: with fewer the caller says how many.
4. Label pixels: in row-major order over the first n pixels of channel 0, ones and zeros. Neutral are zeros,
   or 1/n each.
5. "accidentally right": a drawn label that is the right one, and also a wrong label whose pretext would have
   given the very same pixels, such as the rotation of a blank image.
6. Jigsaw: place i shows patch p_i. The other reading, patch i goes to place p_i, gives the same 24 images in
   another order. The direction of the rotation is not said: quarter turns, either way.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

Rows = np.ndarray


def normalised_row(row: Rows, guard: float = 0.0) -> Rows:
    """A row divided by its root mean square; `guard` is added to that, so that a row of zeros stays one."""
    return row / (math.sqrt(sum(float(number) ** 2 for number in row) / len(row)) + guard)


def goodness(activations: Rows, kind: str) -> Rows:
    """Goodness: "the L2 norm (Hinton's original uses the sum of squares)", of each row (N, W) -> (N,)."""
    squares = np.array([sum(float(number) ** 2 for number in row) for row in activations])
    return {"norm": np.sqrt(squares), "squares": squares}[kind]


def softplus(number: float) -> float:
    """log(1 + e^x)."""
    return math.log1p(math.exp(-abs(number))) + max(number, 0.0)


def layer_loss(right: Rows, wrong: Rows, theta: float) -> float:
    """The loss of a layer, from goodnesses (N,): a mean over pairs.

    "softplus(theta - ||y_pos||) + softplus(||y_neg|| - theta)".
    """
    total = 0.0
    for good, bad in zip(right, wrong, strict=True):
        total += softplus(theta - float(good)) + softplus(float(bad) - theta)
    return total / len(right)


def hidden_layers(weights: Sequence[tuple[Rows, Rows]], rows: Rows, guard: float = 0.0) -> list[Rows]:
    """The activations of each layer: "ReLU, a normalisation before each hidden layer", and so of the pixels.

    Args:
        weights: Weight (out, in) and bias (out,) of each layer.
        rows: The pixels (N, P).
        guard: As in `normalised_row`.
    """
    layers = []
    for weight, bias in weights:
        rows = np.array([normalised_row(row, guard) for row in rows])
        rows = np.maximum(np.array([weight @ row + bias for row in rows]), 0.0)
        layers.append(rows)
    return layers


def classify(goodness_of: Callable[[int], Sequence[Rows]], labels: int, last: int) -> Rows:
    """The label of each image, (N,).

    "FF classifies by the mean goodness of the last 3 layers over all candidate labels".

    Args:
        goodness_of: A label -> the goodness (N,) of each layer for images on which that label is written.
        labels: How many labels there are.
        last: How many of the last layers count.
    """
    means = []
    for label in range(labels):
        kept = list(goodness_of(label))[-last:]
        means.append(sum(kept) / len(kept))
    return np.array(means).argmax(0)


def with_label(images: Rows, label: int | None, labels: int, neutral: float = 0.0) -> Rows:
    """Images with their label "one-hot over the first n pixels (first channel for colour)".

    None writes `neutral`: "label pixels must be neutral (zeros or uniform) when extracting features".
    """
    images = images.copy()
    width = images.shape[-1]
    for image in images:
        for number in range(labels):
            value = neutral if label is None else float(number == label)
            image[0, number // width, number % width] = value
    return images


def rotations(image: Rows) -> list[Rows]:
    """The pretext "rotation (4)": an image (C, H, W) by 0, 1, 2 and 3 quarter turns."""
    return [np.rot90(image, turns, axes=(1, 2)) for turns in range(4)]


def flips(image: Rows, both: bool) -> list[Rows]:
    """The pretext "flip h / h+v (2/4)": as it is, left to right; with `both` also upside down, and both."""
    sideways = [image, image[:, :, ::-1]]
    return sideways + [each[:, ::-1] for each in sideways] if both else sideways


def jigsaws(image: Rows) -> list[Rows]:
    """The pretext "jigsaw of 2x2 patches (24 permutations)" of an image (C, H, W) with even sides."""
    half_h, half_w = image.shape[1] // 2, image.shape[2] // 2
    corners = [(0, 0), (0, half_w), (half_h, 0), (half_h, half_w)]
    shuffled = []
    for order in itertools.permutations(range(4)):
        made = np.empty_like(image)
        for (top, left), patch in zip(corners, order, strict=True):
            from_top, from_left = corners[patch]
            made[:, top : top + half_h, left : left + half_w] = image[
                :, from_top : from_top + half_h, from_left : from_left + half_w
            ]
        shuffled.append(made)
    return shuffled


def wrong_labels(versions: Sequence[Rows], right: int) -> list[int]:
    """The labels that are wrong of this very image: "accidentally right must be redrawn"."""
    return [label for label, version in enumerate(versions) if not np.array_equal(version, versions[right])]
