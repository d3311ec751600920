"""The parts that a recipe names: its images, and its modules sized for them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fullrank.data import SOURCES, BadImages, BatchLoader, ImageSet, class_list, source
from fullrank.data.datasets import image_set_of, is_dataset
from fullrank.data.image_set import count_classes
from fullrank.encoders import Encoder, encoder as build_encoder, load_weights, without_download
from fullrank.errors import DataError, UsageError
from fullrank.heads import Head, head as build_head
from fullrank.objectives import needs, objective as build_objective
from fullrank.objectives.building import try_objective
from fullrank.runs.recipe import Recipe, check_logger, check_optimizer
from fullrank.specs import Spec
from fullrank.views import Views, view_pipeline


@dataclass(frozen=True)
class GivenImages:
    """Images that were given in Python, to train and to test, instead of a source that a recipe can name.

    Without test images the recipe's `held_out` must take them from the training images.
    """

    train: ImageSet
    test: ImageSet | None

    @classmethod
    def of(cls, data: Any) -> "GivenImages":
        """Of a torch Dataset, or of a pair of them: training and test images.

        >>> import numpy as np
        >>> pairs = [(np.zeros((8, 8), np.uint8), n % 2) for n in range(6)]
        >>> given = GivenImages.of((pairs, pairs[:4]))
        >>> len(given.train), len(given.test)
        (6, 4)
        """
        pair = data if isinstance(data, tuple) else (data,)
        if len(pair) > 2 or not all(is_dataset(each) for each in pair):
            raise UsageError(
                f"Expected the spec of a source, a map-style torch Dataset, or a pair of them (train, test) "
                f"as data, but got {' and '.join(type(each).__name__ for each in pair)}."
            )
        train = image_set_of(pair[0], "train")
        return cls(train, image_set_of(pair[1], "test", like=train) if len(pair) == 2 else None)

    @property
    def spec(self) -> Spec:
        """What a recipe calls them."""
        return SOURCES.parse(f"given:{self.train.name}")

    def sized(self, image_size: int | None, *, held_out: bool) -> tuple[ImageSet, ImageSet]:
        """Both sets at a size; the test images may be missing only where they are `held_out`."""
        if self.test is None and not held_out:
            raise UsageError(
                "There are no test images; give data as a pair (train, test), or held_out=0.2 for a share of "
                "the training images."
            )
        train, test = self.train, self.test or self.train
        return (train, test) if image_size is None else (train.resized(image_size), test.resized(image_size))


# The keys of a recipe that decide which images `load_data` gives.
IMAGE_KEYS = ("data", "image_size", "classes", "fraction", "limit", "held_out", "max_bad")


def load_data(recipe: Recipe, given: GivenImages | None = None) -> tuple[ImageSet, ImageSet]:
    """The training and test images of a recipe, or of those `given` in Python what the recipe keeps of them.

    `classes` keeps those classes in both; `fraction` and then `limit` shorten the training images alone, and
    `held_out` then takes the test images from them, by the same draws for every seed of the run. Both sets
    note in one `bad` what cannot be decoded: of images in memory these are left out, of streamed ones the
    next image with the same labels stands for each.
    """
    if given is None:
        images, bad = source(recipe.data), BadImages(recipe.max_bad)
        train_set = images.load("train", recipe.image_size, bad=bad)
        test_set = images.load("test", recipe.image_size, bad=bad)
    else:
        train_set, test_set = given.sized(recipe.image_size, held_out=recipe.held_out is not None)
    if recipe.classes is not None:
        names = class_list(recipe.classes)
        train_set, test_set = train_set.of_classes(names), test_set.of_classes(names)
    if recipe.fraction is not None:
        train_set = train_set.fraction(recipe.fraction, seed=0)
    if recipe.limit is not None:
        train_set = train_set.limited(recipe.limit, seed=0)
    if recipe.held_out is not None:
        train_set, test_set = train_set.held_out(recipe.held_out, seed=0)
    height, width, _ = train_set.image_shape
    if height != width or test_set.image_shape != train_set.image_shape:
        raise DataError(
            f"Training images are {_shape(train_set)} and test images {_shape(test_set)}, but both must be "
            "the same square; give --image-size, and the same kind of images in both."
        )
    return train_set, test_set


@dataclass(frozen=True)
class Parts:
    """The modules of a run, sized for its images: encoder and head, the objective, and the views."""

    encoder: Encoder
    head: Head
    objective: nn.Module
    views: Views


def check_plan(recipe: Recipe, train_set: ImageSet, processes: int = 1) -> Parts:
    """Build the parts of a recipe and try them out on two rows of noise, which draws no number from outside.

    Raises UsageError for a recipe whose parts do not fit each other, the images or the processes.
    """
    if recipe.init is not None and without_download(recipe.encoder) != recipe.encoder:
        raise UsageError(
            f"Both init={recipe.init} and {recipe.encoder} name weights to start from; leave out one of them."
        )
    if recipe.engine.logger is not None:
        check_logger(recipe.engine.logger)
    check_optimizer(recipe.optimizer.name)
    if recipe.batch_size % processes:
        raise UsageError(
            f"The batch size {recipe.batch_size} cannot be shared by {processes} processes; choose a "
            f"multiple of {processes}."
        )
    parts = build(recipe, train_set)
    parts.views.check_layers(train_set.layers)
    BatchLoader(train_set, recipe.batch_size, recipe.seed, label=recipe.label)
    with torch.random.fork_rng(devices=()):
        try_objective(parts.objective, recipe.objective, parts.head.out_dim)
    return parts


def build(recipe: Recipe, train_set: ImageSet) -> Parts:
    """The parts of a recipe, sized for its images; the encoder starts from `init`, if any.

    Raises UsageError where the objective learns labels and the images have fewer than two classes of them.
    """
    check_learnable(recipe, train_set)
    mean, std = train_set.channel_statistics()
    size, channels = train_set.image_size, train_set.channels
    encoder = build_encoder(recipe.encoder, image_size=size, in_chans=channels, mean=mean, std=std)
    if recipe.init is not None:
        load_weights(encoder, recipe.init)
    if recipe.engine.channels_last:
        encoder.to(memory_format=torch.channels_last)
    head = build_head(recipe.head, in_dim=encoder.feature_dim)
    classes = len(train_set.class_names[recipe.label])
    return Parts(
        encoder,
        head,
        build_objective(recipe.objective, in_dim=head.out_dim, num_classes=classes),
        view_pipeline(recipe.views, image_size=size, channels=channels),
    )


def check_learnable(recipe: Recipe, train_set: ImageSet) -> None:
    """Raise UsageError for labels that the images do not have, or that an objective cannot learn."""
    train_set.check_label(recipe.label)
    if "labels" in needs(recipe.objective) and (found := count_classes(train_set, recipe.label)) < 2:
        raise UsageError(
            f"The objective {recipe.objective} learns labels, 2 classes or more, but '{recipe.label}' of "
            f"{train_set} has {found}; label the images, set another label, or train without: infonce:0.1."
        )


def _shape(images: ImageSet) -> str:
    height, width, channels = images.image_shape
    return f"{height}x{width} with {channels} channel{'s' if channels > 1 else ''}"
