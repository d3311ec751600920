"""Known factors: how strongly features at each place depend on each factor, measured and predicted."""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from fullrank.batch import as_float
from fullrank.data import ImageSet
from fullrank.errors import DataError
from fullrank.evaluation.evaluate import BATCH_SIZE, default_places
from fullrank.heads import Head
from fullrank.objectives import needs
from fullrank.places import collect_features
from fullrank.record import Score
from fullrank.record.scores import IMAGES, LEFT_OUT, PREDICTED, RELATIVE, WEIGHT
from fullrank.runs.recipe import Recipe
from fullrank.spectrum.factors import Entangled, factor_weights, independent_factors
from fullrank.theory.weighting.factor_weights import IMAGES_PER_COMPONENT, LinearNet, ViewMoments, linear_net
from fullrank.views import Views, step_generator, view_pipeline

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Most test images that are used, most training images for views, and pairs of views of each image.
MOST_IMAGES, MOST_VIEWED, ROUNDS = 4096, 2048, 16
# Most numbers in an image for which the theory is computed; its moments have this width.
MOST_NUMBERS = 4096
_score = partial(Score, split="test", features="raw", shots=None, probe="factors")


def factor_scores(
    recipe: Recipe,
    encoder: nn.Module,
    head: Head,
    train: ImageSet,
    test: ImageSet,
    places: Sequence[str] | None = None,
) -> list[Score]:
    """The weight of each factor at each place on the clean `test` images, measured and predicted.

    The linear theory predicts weights relative to the largest at a place. Measured weights are given both in
    absolute and in relative terms, also for the pixels ("images"). A label that is not a factor of its own is
    listed with the strength of its dependence on another.

    Args:
        recipe: The recipe of the run, which gives the views.
        encoder: Maps images to h.
        head: Maps h to z.
        train: The training images, from which views are made.
        test: The images that are measured.
        places: Where features are read; by default h, the head's inner layers, and z.

    Raises:
        DataError: If there are fewer than two factors, or `factor_weights` refuses the features.
    """
    tested, factors, left_out = known_factors(test)
    places = default_places(head) if places is None else list(places)
    features = collect_features(encoder, head, tested.batches(BATCH_SIZE), places)
    predicted: dict[str, Tensor] = {}
    if math.prod(tested.image_shape) <= MOST_NUMBERS:
        features = {IMAGES: flat_pixels(tested), **features}
        if (net := theory_of(recipe, head, train)) is not None:
            predicted = predicted_features(head, net, features[IMAGES])
    scores = [
        _score(place=IMAGES, label=out.factor, statistic=LEFT_OUT, value=out.strength) for out in left_out
    ]
    for place, rows in features.items():
        weights = factor_weights(rows, factors)
        by_statistic = {WEIGHT: weights, RELATIVE: relative(weights)}
        if place in predicted:
            by_statistic[PREDICTED] = relative(factor_weights(predicted[place], factors))
        for name, values in by_statistic.items():
            scores += [_score(place=place, label=f, statistic=name, value=v) for f, v in values.items()]
    return scores


def known_factors(test: ImageSet) -> tuple[ImageSet, dict[str, Tensor], list[Entangled]]:
    """The test images that are used, their factors, and the labels that depend on a factor.

    Args:
        test: The test images.

    Returns:
        At most MOST_IMAGES images, name of a factor -> labels (N,), and the labels that are left out.

    Raises:
        DataError: If there are fewer than two factors.
    """
    tested = test.limited(min(MOST_IMAGES, len(test)), seed=0)
    # From few levels to many: of a label and a finer one, such as a composite's groups, keep the coarser.
    others = sorted(
        set(test.labels) - {"label", *test.several}, key=lambda name: (len(test.class_names[name]), name)
    )
    labels = {name: torch.from_numpy(tested.labels[name]) for name in ("label", *others)}
    names, left_out = independent_factors(labels)
    if len(names) < 2:
        raise DataError(
            f"Weights need 2 factors or more that are independent, but {test} has {len(names)} "
            f"({', '.join(names)}); `composite:PRESET` makes images with several."
        )
    return tested, {name: labels[name] for name in names}, left_out


def relative(weights: dict[str, float]) -> dict[str, float]:
    """Each weight divided by the largest; all 0 if no weight is above 0."""
    largest = max(weights.values())
    return {name: weight / largest if largest > 0 else 0.0 for name, weight in weights.items()}


def depth_shares(head: nn.Module) -> dict[str, float]:
    """The share of a linear net's depth at each place; empty if z is normalised or h loses coordinates."""
    changed = getattr(head, "norm_name", "none") != "none" or getattr(head, "dropout_share", 0.0)
    if changed or not hasattr(head, "depth_shares"):
        return {}
    return dict(head.depth_shares())  # type: ignore[operator]  # a method, if it exists


def linear_rank(head: Head) -> int:
    """The largest rank of a head as a linear net: its own value, or else the one that its widths allow."""
    return int(getattr(head, "linear_rank", min(head.in_dim, head.out_dim)))


def theory_of(recipe: Recipe, head: Head, train: ImageSet) -> LinearNet | None:
    """The linear net that the theory predicts for the views of `recipe`; None if it does not apply."""
    if not depth_shares(head) or "labels" in needs(recipe.objective) or len(train) < 2 * IMAGES_PER_COMPONENT:
        return None
    return linear_net(ViewMoments.of(drawn_views(*viewed(recipe, train))), linear_rank(head))


def predicted_features(head: Head, net: LinearNet, pixels: Tensor) -> dict[str, Tensor]:
    """The features of `pixels` (N, D) at each place of the linear net, up to rotations."""
    images = pixels.numpy()
    features = {place: net.represent(images, share) for place, share in depth_shares(head).items()}
    ratio = getattr(head, "channel_ratio", None)
    if ratio is not None and (below := net.represent_below(images, ratio)) is not None:
        features["h"] = below
    return {place: torch.from_numpy(rows) for place, rows in features.items()}


def viewed(recipe: Recipe, train: ImageSet) -> tuple[ImageSet, Views]:
    """The training images from which views are made, and the recipe's views."""
    views = view_pipeline(recipe.views, image_size=train.image_size, channels=train.channels).pair
    return train.limited(min(MOST_VIEWED, len(train)), seed=0), views


def drawn_views(
    images: ImageSet, views: Views, rounds: int = ROUNDS, seed: int = 0
) -> "Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]":
    """`rounds` pairs of views of every image, flattened to (n, D); round r draws from its own seed."""
    for number in range(rounds):
        pairs = []
        for step, start in enumerate(range(0, len(images), BATCH_SIZE)):
            batch = images.batch(np.arange(start, min(start + BATCH_SIZE, len(images))))
            height, width = batch.images.shape[-2:]
            generator = step_generator(seed, number, step)
            parameters = views.sample(len(batch), generator, (height, width), batch.sizes)
            pairs.append(views.apply(batch, parameters))
        first, second = (torch.cat(side).flatten(1).numpy() for side in zip(*pairs, strict=True))
        yield first, second


def flat_pixels(images: ImageSet) -> Tensor:
    """The clean images in 0 to 1, flattened, (N, D)."""
    return as_float(images.tensor()).flatten(1)
