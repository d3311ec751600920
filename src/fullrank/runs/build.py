"""Build the parts of a recipe: its images, and its modules with matching sizes."""

import warnings
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fullrank.data import SOURCES, BadImages, BatchLoader, ImageSet, class_list, source
from fullrank.data.classes import check_classes
from fullrank.data.datasets import image_set_of, is_dataset
from fullrank.data.image_set import count_classes
from fullrank.encoders import Encoder, encoder as build_encoder, load_weights, without_download
from fullrank.errors import DataError, FullrankWarning, UsageError, one_line
from fullrank.heads import Head, head as build_head
from fullrank.heads.contract import nested_widths
from fullrank.objectives import Auxiliary, auxiliary, needs, needs_of, objective as build_objective
from fullrank.objectives.terms.contract import TrainingLabels, cues_of, try_auxiliary
from fullrank.objectives.trial import try_objective
from fullrank.places import HasPlaces, check_place, evaluating, place_dims
from fullrank.runs.recipe import Recipe, check_logger, check_optimizer
from fullrank.specs import Spec
from fullrank.step import Step
from fullrank.views import Views, step_generator, view_pipeline


@dataclass(frozen=True)
class GivenImages:
    """Training and test images that were passed in Python, instead of a source that a recipe can name."""

    train: ImageSet
    test: ImageSet | None

    @classmethod
    def of(cls, data: Any) -> "GivenImages":
        """Images from a torch Dataset, or from a pair of them: training and test."""
        pair = data if isinstance(data, tuple) else (data,)
        if len(pair) > 2 or not all(is_dataset(each) for each in pair):
            raise UsageError(
                "Expected data to be the spec of a source, a map-style torch Dataset, or a pair of them "
                f"(train, test), but got {' and '.join(type(each).__name__ for each in pair)}."
            )
        train = image_set_of(pair[0], "train")
        return cls(train, image_set_of(pair[1], "test", like=train) if len(pair) == 2 else None)

    @property
    def spec(self) -> Spec:
        """The spec under which a recipe lists them."""
        return SOURCES.parse(f"given:{self.train.name}")

    def sized(self, image_size: int | None, *, held_out: bool) -> tuple[ImageSet, ImageSet]:
        """Both sets at a size; test images may be missing only if they are `held_out` from training."""
        if self.test is None and not held_out:
            raise UsageError("The data has no test images; give data=(train, test), or held_out=0.2.")
        train, test = self.train, self.test or self.train
        return (train, test) if image_size is None else (train.resized(image_size), test.resized(image_size))


# The keys of a recipe that decide which images `load_data` gives.
IMAGE_KEYS = ("data", "image_size", "classes", "fraction", "limit", "held_out", "max_bad")


def load_data(recipe: Recipe, datasets: GivenImages | None = None) -> tuple[ImageSet, ImageSet]:
    """The training and test images of a recipe.

    Random subsets are the same for every seed of the run. Both sets share one list of undecodable images,
    `bad`. Such images in memory are left out; streamed ones are replaced by the next image with the same
    labels.

    Args:
        recipe: The recipe, which may select some of the images.
        datasets: Images that were passed in Python, in place of the recipe's source.
    """
    if datasets is None:
        images, bad = source(recipe.data), BadImages(recipe.max_bad)
        train = images.load("train", recipe.image_size, bad=bad)
        test = images.load("test", recipe.image_size, bad=bad)
    else:
        train, test = datasets.sized(recipe.image_size, held_out=recipe.held_out is not None)
    if recipe.held_out is None:
        check_classes(train.occurring("label"), test.occurring("label"), train.name)
    if recipe.classes is not None:
        names = class_list(recipe.classes)
        train, test = train.of_classes(names), test.of_classes(names)
    if recipe.fraction is not None:
        train = train.fraction(recipe.fraction, seed=0)
    if recipe.limit is not None:
        train = train.limited(recipe.limit, seed=0)
    if recipe.held_out is not None:
        train, test = train.held_out(recipe.held_out, seed=0)
    height, width, _ = train.image_shape
    if height != width or test.image_shape != train.image_shape:
        shapes = f"Training images are {_shape(train)} and test images {_shape(test)}"
        raise DataError(f"{shapes}, but must be equal squares; give --image-size, and images of one kind.")
    return train, test


@dataclass(frozen=True)
class Parts:
    """The modules of a run, with sizes that match its images: encoder, head, objective, its terms, views."""

    encoder: Encoder
    head: Head
    objective: nn.Module
    views: Views
    terms: tuple[Auxiliary, ...] = ()


def check_plan(recipe: Recipe, train: ImageSet, processes: int = 1) -> Parts:
    """Build the parts of a recipe and test them on two rows of noise.

    Args:
        recipe: The recipe.
        train: The training images.
        processes: Number of processes that will train together.

    Raises:
        UsageError: If the parts do not fit each other, or the processes cannot share the batch.
    """
    if recipe.init is not None and without_download(recipe.encoder) != recipe.encoder:
        raise UsageError(f"Both init={recipe.init} and {recipe.encoder} give weights; leave out one of them.")
    if recipe.init is None and recipe.init_prefix is not None:
        raise UsageError(f"init_prefix={recipe.init_prefix} is of no file; give its file with init.")
    if recipe.engine.logger is not None:
        check_logger(recipe.engine.logger)
    check_optimizer(recipe.optimizer.name)
    if recipe.batch_size % processes:
        remedy = f"choose a multiple of {processes}"
        raise UsageError(f"{processes} processes cannot share batch size {recipe.batch_size}; {remedy}.")
    parts = build(recipe, train)
    check_rows(parts, recipe)
    if recipe.engine.chunk is not None:
        compiled, statistics = recipe.engine.compile, recipe.engine.chunk_statistics
        check_chunks(parts.encoder, recipe.engine.chunk, compiled=compiled, statistics=statistics)
    parts.views.check_layers(train.layers)
    BatchLoader(train, recipe.batch_size, recipe.seed, label=recipe.label, cues=cues_of(parts.terms))
    for term in parts.terms:
        if (check := getattr(term, "check_labels", None)) is not None:  # a term need not be an Auxiliary
            named = str(train), recipe.label, train.labels, train.class_names
            check(TrainingLabels(*named, recipe.batch_size))
    with torch.random.fork_rng(devices=()):
        views = parts.views.global_count, parts.views.local
        try_objective(parts.objective, recipe.objective.alone, parts.head.out_dim, *views)
        if parts.terms:
            step = _noise(parts)
            for term, name in zip(parts.terms, recipe.objective.terms, strict=True):
                try_auxiliary(term, name, step)
    return parts


def check_rows(parts: Parts, recipe: Recipe) -> None:
    """Raise UsageError where one call of the head has fewer rows of a batch than it needs."""
    least = getattr(parts.head, "least_rows", 1)
    # A teacher's head is called on the global views alone.
    together = parts.views.global_count if "teacher" in needs_of(parts.objective) else parts.views.count
    views = 1 if recipe.encoder_passes > 1 else together
    if (rows := views * recipe.batch_size) < least:
        raise UsageError(
            f"The head {recipe.head} needs {least} rows or more in one call, but batch size "
            f"{recipe.batch_size} gives {rows}; choose {-(-least // views)} or more, or a smaller group "
            "if the head whitens."
        )


def check_chunks(encoder: nn.Module, size: int, *, compiled: bool, statistics: bool) -> None:
    """Raise UsageError if chunks of the batch would change what an encoder computes, or if it is compiled.

    Args:
        encoder: The encoder.
        size: The most images of a chunk.
        compiled: Whether it is compiled.
        statistics: Whether batch norms may have the statistics of a chunk instead of those of the batch.
    """
    if size < 1:
        raise UsageError(f"A chunk must have 1 image or more, but got {size}; 64 is usual.")
    if compiled:
        raise UsageError(
            "engine.chunk and engine.compile exclude each other, since torch may repeat other compiled code "
            "than it ran (pytorch issue 166926); set one of them."
        )
    norms = [
        name
        for name, part in encoder.named_modules()
        if isinstance(part, _BatchNorm) and (part.training or part.running_mean is None)
    ]
    if norms and not statistics:
        raise UsageError(
            f"The encoder has {len(norms)} batch norms, from {norms[0]} on, which would have the statistics "
            "of a chunk; leave engine.chunk out, set engine.chunk_statistics=true to have that, or use an "
            "encoder without batch norms."
        )


def _noise(parts: Parts) -> Step:
    """A step of two images whose features are noise, with everything that a term may ask for."""
    views = parts.views
    # Any place of the encoder, not only those that it lists.
    places = list(dict.fromkeys(place for term in parts.terms for place in getattr(term, "places", ())))
    for place in places:
        check_place(cast(HasPlaces, parts.encoder), place)
    widths = place_dims(parts.encoder, views.image_size, parts.encoder.in_chans, places)
    rows = 2 * views.count
    return Step(
        h=torch.randn(rows, parts.encoder.feature_dim, requires_grad=True),
        z=torch.randn(rows, parts.head.out_dim, requires_grad=True),
        features={place: torch.randn(rows, width, requires_grad=True) for place, width in widths.items()},
        views=views.sample(2, step_generator(0, 0, 0)).numbers(),
        labels=torch.zeros(2, dtype=torch.int64),
        generator=torch.Generator().manual_seed(0),
        cues=dict.fromkeys(cues_of(parts.terms), torch.zeros(2, dtype=torch.int64)),
        view_count=views.count,
        global_count=views.global_count,
    )


def build(recipe: Recipe, train: ImageSet) -> Parts:
    """Build the parts of a recipe with sizes that match its images; the encoder starts from `init`, if any.

    Args:
        recipe: The recipe.
        train: The training images.

    Raises:
        UsageError: If the images do not have the labels, or the objective cannot learn them.
    """
    train.check_label(recipe.label)
    if "labels" in needs(recipe.objective) and (classes := count_classes(train, recipe.label)) < 2:
        others = [name for name in train.labels if name != recipe.label]
        named = f" ({', '.join(others[:3])}{', ...' if len(others) > 3 else ''})" if others else ""
        raise UsageError(
            f"The objective {recipe.objective} needs labels of 2 or more classes, but '{recipe.label}' of "
            f"{train} has {classes}; label the images, set another label{named}, or use infonce:0.1."
        )
    encoder = encoder_of(recipe, train)
    views = view_pipeline(recipe.views, image_size=train.image_size, channels=train.channels)
    if views.local:
        check_sizes(encoder, views)
    head = build_head(recipe.head, in_dim=encoder.feature_dim, view_dims=views.number_dims)
    num_classes = len(train.class_names[recipe.label])
    sizes: dict[str, Any] = {"in_dim": head.out_dim, "num_classes": num_classes}
    loss = build_objective(recipe.objective.alone, **sizes, nested=nested_widths(head))
    # Built last: the weights of the other parts do not depend on the terms.
    terms = terms_of(recipe, encoder, head, views, num_classes)
    return Parts(encoder, head, loss, views, terms)


def check_sizes(encoder: Encoder, views: Views) -> None:
    """Raise UsageError for an encoder that does not take the local crops."""
    local, whole = views.sizes[-1], views.image_size
    crops = torch.zeros(2, encoder.in_chans, local, local)
    with torch.no_grad(), torch.random.fork_rng(devices=()), evaluating(encoder):
        try:
            encoder(crops)
        except (RuntimeError, ValueError, AssertionError) as error:
            raise UsageError(
                f"The encoder takes views of {whole} pixels, but not local crops of {local} "
                f"({one_line(str(error)).rstrip('.')}); set another multicrop,size=, choose an encoder with "
                "any_size=true, or set multicrop,local=0."
            ) from None


def terms_of(
    recipe: Recipe, encoder: Encoder, head: Head, views: Views, num_classes: int
) -> tuple[Auxiliary, ...]:
    """The auxiliary terms of the objective, with sizes that match the other parts."""
    if not recipe.objective.terms:
        return ()
    sizes: dict[str, Any] = {"in_dim": encoder.feature_dim, "out_dim": head.out_dim}
    sizes |= {"view_dims": views.number_dims, "num_classes": num_classes}
    sizes["place_dims"] = place_dims(encoder, views.image_size, encoder.in_chans)
    return tuple(auxiliary(term, **sizes) for term in recipe.objective.terms)


def encoder_of(recipe: Recipe, train: ImageSet) -> Encoder:
    """The encoder of a recipe for its images, before any training; it starts from `init`, if any."""
    mean, std = train.channel_statistics()
    size, channels = train.image_size, train.channels
    encoder = build_encoder(recipe.encoder, image_size=size, in_chans=channels, mean=mean, std=std)
    if recipe.init is not None:
        loaded = load_weights(encoder, recipe.init, recipe.init_prefix)
        if loaded.remarkable:
            warnings.warn(str(loaded), FullrankWarning, stacklevel=2)
    if recipe.engine.channels_last:
        encoder.to(memory_format=torch.channels_last)
    return encoder


def _shape(images: ImageSet) -> str:
    height, width, channels = images.image_shape
    return f"{height}x{width} with {channels} channel{'s' if channels > 1 else ''}"
