"""Predictions of the linear theory for the known factors of images, before any training."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fullrank.data import ImageSet
from fullrank.encoders import encoder as build_encoder, without_download
from fullrank.errors import UsageError
from fullrank.evaluation.factors import (
    MOST_NUMBERS,
    ROUNDS,
    depth_shares,
    drawn_views,
    flat_pixels,
    known_factors,
    linear_rank,
    relative,
    viewed,
)
from fullrank.heads import Head, head as build_head
from fullrank.objectives import needs
from fullrank.runs.build import load_data
from fullrank.runs.recipe import Recipe
from fullrank.spectrum.factors import factor_weights
from fullrank.theory.weighting.factor_weights import (
    IMAGES_PER_COMPONENT,
    ViewMoments,
    labels_needed,
    linear_net,
)
from fullrank.views import view_pipeline

# Number of parts of the images, and how many times they are split into random halves.
_PARTS, _SPLITS = 8, 6
# Number of images for each component of M that is used. The first one predicts a run.
_IMAGES_PER_COMPONENT = (IMAGES_PER_COMPONENT, 2 * IMAGES_PER_COMPONENT, 4 * IMAGES_PER_COMPONENT)
# An interval extends this many standard errors to either side.
_REACH = 2.0
# Place -> the weight of each factor, and the number of labels that it needs.
_Places = dict[str, tuple[dict[str, float], dict[str, float]]]


@dataclass(frozen=True)
class FactorForecast:
    """The prediction of the linear theory for one factor.

    Attributes:
        factor: The name of the factor.
        shares: Place -> its share of the depth.
        weights: Place -> the weight relative to that of the largest factor there.
        labels: Place -> the number S of labels needed, up to a constant; infinite if the factor is lost.
        advantage: log S(z) - log S(h), above 0 if h should need fewer labels. It is None if the theory does
            not cover both places, or the factor is lost at one of them. `low` and `high` are None then too.
        low: The lower end of the advantage's interval, over sampling and the number of components.
        high: Its upper end.
    """

    factor: str
    shares: dict[str, float]
    weights: dict[str, float]
    labels: dict[str, float]
    advantage: float | None
    low: float | None
    high: float | None

    @property
    def better(self) -> str | None:
        """The place that should need fewer labels, h or z, if the whole interval agrees; else None."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return None
        return "h" if self.low > 0 else "z"


def predict_factors(
    recipe: str | Path | Recipe, *, rounds: int = ROUNDS, seed: int = 0, **overrides: Any
) -> list[FactorForecast]:
    r"""Predict the weight of each known factor at each place, and the labels that it needs, without training.

    The moments come from pairs of views of the recipe's training images, the weights of the factors from its
    clean test images. The interval of an advantage extends two standard errors to either side. The standard
    error is :math:`\sqrt{E (a - b)^2} / 2` over 6 splits of both sets into halves. The interval also covers
    4, 8 and 16 images for each component of M that is used. The reason is that the minimiser of the loss
    learns directions in which images hardly vary, but training may not.

    Args:
        recipe: The name of a recipe, a YAML file, or a recipe.
        rounds: Number of pairs of views of each image.
        seed: Seed of views and splits.
        **overrides: Keys of the recipe to replace.

    Raises:
        UsageError: If the theory does not cover the head, the objective learns labels, or the images are too
            large for moments of pixels.
        DataError: If the images have fewer than two factors.

    >>> data = "composite:digits-on-textures,n=400"
    >>> forecasts = predict_factors("digits", data=data, head="linear:24", rounds=1)
    >>> [one.factor for one in forecasts], forecasts[0].shares
    (['label', 'background'], {'h': 0.5, 'head.1': 1.0, 'z': 1.0})

    Source: our own derivation; see `fullrank.theory.weighting.factor_weights`.
    """
    plan = Recipe.resolve(recipe, overrides)
    train, test = load_data(plan)
    head = _checked_head(plan, train)
    tested, factors, _ = known_factors(test)
    rng = np.random.default_rng(seed)
    pixels = flat_pixels(tested)
    images, views = viewed(plan, train)
    rows = np.array_split(rng.permutation(len(images)), _PARTS)
    parts = ViewMoments.of_parts(drawn_views(images, views, rounds, seed), rows)
    splits = [(np.arange(_PARTS), np.arange(len(pixels)))]
    for _ in range(_SPLITS):
        halves = (np.array_split(rng.permutation(count), 2) for count in (_PARTS, len(pixels)))
        splits += zip(*halves, strict=True)

    def measured(components: int, of_train: np.ndarray, of_test: np.ndarray) -> _Places:
        net = linear_net(ViewMoments.merged([parts[i] for i in of_train]), linear_rank(head), components)
        rows, levels = pixels[of_test].numpy(), {name: of[of_test] for name, of in factors.items()}
        places = {}
        for place, share in depth_shares(head).items():
            features = torch.from_numpy(net.represent(rows, share))
            variance, weights = float(features.var(0, correction=0).sum()), factor_weights(features, levels)
            places[place] = weights, {name: labels_needed(variance, weights[name]) for name in weights}
        return places

    counts = [max(1, len(images) // per_component) for per_component in _IMAGES_PER_COMPONENT]
    tables = [[measured(count, *split) for split in splits] for count in counts]
    return [_forecast(name, head, tables) for name in factors]


def _forecast(factor: str, head: Head, tables: list[list[_Places]]) -> FactorForecast:
    """One factor, from tables of all images and of pairs of halves, for each number of components."""
    advantages = np.array([[_advantage(places, factor) for places in table] for table in tables], np.float64)
    advantage, halves = advantages[:, 0], advantages[:, 1:].reshape(len(tables), -1, 2)
    error = np.sqrt(np.square(halves[..., 0] - halves[..., 1]).mean(1)) / 2
    low, high = float((advantage - _REACH * error).min()), float((advantage + _REACH * error).max())
    finite = bool(np.isfinite([low, high]).all())
    return FactorForecast(
        factor,
        depth_shares(head),
        {place: relative(weights)[factor] for place, (weights, _) in tables[0][0].items()},
        {place: labels[factor] for place, (_, labels) in tables[0][0].items()},
        float(advantage[0]) if np.isfinite(advantage[0]) else None,
        low if finite else None,
        high if finite else None,
    )


def _advantage(places: _Places, factor: str) -> float:
    """log S(z) - log S(h); NaN if one of them is missing or not finite."""
    if not {"h", "z"} <= set(places):
        return math.nan
    below, above = (places[place][1][factor] for place in ("h", "z"))
    return math.log(above / below) if math.isfinite(below + above) else math.nan


def _checked_head(plan: Recipe, train: ImageSet) -> Head:
    """The head of a recipe; UsageError if the theory does not cover it under this recipe."""
    if "labels" in needs(plan.objective):
        raise UsageError(
            f"The objective {plan.objective} learns labels, but the theory is for pairs of views; use one "
            "that learns from views, such as infonce:0.1."
        )
    if (numbers := math.prod(train.image_shape)) > MOST_NUMBERS:
        raise UsageError(
            f"Images of {numbers} numbers are too large for moments of pixels; the limit is "
            f"{MOST_NUMBERS}; give a smaller image_size."
        )
    with torch.random.fork_rng(devices=()):
        architecture = without_download(plan.encoder)
        width = build_encoder(architecture, image_size=train.image_size, in_chans=train.channels).feature_dim
        views = view_pipeline(plan.views, image_size=train.image_size, channels=train.channels).pair
        head = build_head(plan.head, in_dim=width, view_dims=views.number_dims)
    if not depth_shares(head):
        raise UsageError(
            f"The linear theory does not cover the head {plan.head}; use one that it covers, such as "
            "linear:48, without norm=batch or conditioned=views."
        )
    return head
