"""What features still say about the views: the parameters of each operation, read out by linear maps."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from fullrank.data import ImageSet
from fullrank.devices import first_device
from fullrank.errors import DataError
from fullrank.places import evaluating, read_places
from fullrank.probes import Ridge, auroc
from fullrank.progress import counted
from fullrank.record import Score, ViewReadout
from fullrank.record.operations import PIXELS
from fullrank.record.scores import AUROC, R2
from fullrank.view_numbers import COLOURS, NEUTRAL, SWITCHES, ViewNumbers
from fullrank.views import Views, step_generator

# The views of a run without others of its own.
DEFAULT = "simclr"
# Pairs of views to learn from, and to score on: as many as this number of pixels, within limits.
_PIXELS_READ, _LEAST, _MOST = 2**21, 1024, 2048
LEAST_IMAGES = 10
_MOST_ROUNDS = 8  # pairs of each image
# The pixels of views are averaged down to this side.
SIDE = 8
_BATCH_SIZE = 256
# Streams of random numbers: views in training and their objective take 0 and 1.
_TRAIN_STREAM, _TEST_STREAM = 2, 3
# One image in so many is held out to choose the penalty.
_HELD_OUT = 5
# What the numbers of an operation are called, if it has several.
_NUMBERS = {"crop": ("row", "column", "height", "width")}


@dataclass(frozen=True)
class ReadModel:
    """Where features of views are read, and which views.

    Attributes:
        encoder: Maps images to h. It must have places.
        head: Maps h to z.
        places: The names of the places.
        views: The views.
        name: The spec of the views, for the record.
        seed: The seed of the images and of the draws.
    """

    encoder: nn.Module
    head: nn.Module
    places: Sequence[str]
    views: Views
    name: str
    seed: int = 0


@dataclass(frozen=True, eq=False)
class ViewRows:
    """Features of pairs of views, and the parameters of the views.

    Attributes:
        features: Place -> features (2N, D_p): the first views, then the second views.
        numbers: The parameters of the N pairs.
        images: The number of each pair's image, (N,).
    """

    features: Mapping[str, Tensor]
    numbers: ViewNumbers
    images: Tensor

    def side(self, side: int, operation: str) -> Tensor:
        """The numbers (N, k) of an operation in the first (0) or second (1) view."""
        return (self.numbers.first, self.numbers.second)[side][operation]


def view_readout(
    model: ReadModel,
    train: ImageSet,
    test: ImageSet,
    *,
    label: str = "label",
    progress: Progress | None = None,
) -> ViewReadout:
    r"""How well linear maps of the features at each place give the parameters of the views.

    - Crop, colour and blur: R^2 of a ridge regression of the difference, first view minus second, on the
      features of both, :math:`[x_a, x_b]`. Flips are switched off, because a flip changes the sign of the
      column's offset. The score of an operation is the mean over its numbers.
    - Flip, grey, solarize and drop: AUROC of a ridge regression that says of one view, from its own features,
      whether the operation was applied. Whether two views have the same flip is an exclusive-or, which no
      linear map reads.

    The regressions learn from views of training images and are scored on views of test images. Every place
    sees the same views. The penalty is chosen on every fifth training image, which is held out for that. The
    place `pixels` is the views themselves, averaged down to 8 x 8.

    Args:
        model: Where features are read, and which views.
        train: The images to learn from.
        test: The images to score.
        label: The name of the labels of the scores, which the scores do not depend on.
        progress: The progress display.

    Returns:
        The scores of all places. Operations that never varied are named and have no score.

    Raises:
        UsageError: The views drop a layer that the images lack.
        DataError: There are too few images, or features are not finite.

    What it cannot see: what only a nonlinear map reads. R^2 depends on how strong the draws are, so only
    numbers of the same views are comparable.

    Source: the targets of AugSelf (Lee et al. 2021, 2111.09613), as a measure.
    """
    on = {name for view in model.views.operations for name in view}
    if not on:
        return ViewReadout(views=model.name, train=0, test=0, scores=[], left_out=list(NEUTRAL))
    sets = [_read_twice(model, *each, progress) for each in ((train, _TRAIN_STREAM), (test, _TEST_STREAM))]
    (still, moving), (still_test, moving_test) = sets
    colours = [name for name in COLOURS if name in on]
    found = _of_differences(still, still_test, colours) | _of_switches(moving, moving_test)
    scores = [
        Score(
            place=place,
            label=label,
            split="test",
            features="raw",
            shots=None,
            probe="views",
            statistic=AUROC if name in SWITCHES else R2,
            subject=name,
            value=value,
        )
        for name, by_place in found.items()
        for place, value in by_place.items()
    ]
    left_out = [name for name in NEUTRAL if name not in found]
    pairs = {"train": len(still.images), "test": len(still_test.images)}
    return ViewReadout(views=model.name, **pairs, scores=scores, left_out=left_out)


def default_views(channels: int) -> str:
    """The views of a model that has none: SimCLR's, without the operations that the channels forbid.

    >>> default_views(3), default_views(4)
    ('simclr', 'simclr,contrast=0,saturation=0,hue=0,grey=0')
    """
    return DEFAULT if channels in (1, 3) else f"{DEFAULT},contrast=0,saturation=0,hue=0,grey=0"


@torch.no_grad()
def read_views(
    model: ReadModel,
    images: ImageSet,
    rounds: int,
    stream: int,
    progress: Progress | None = None,
    without: Sequence[str] = (),
) -> ViewRows:
    """Features of `rounds` pairs of views of each image, at the places of the model and of their pixels.

    Args:
        model: Where features are read, and which views.
        images: The images.
        rounds: How many pairs each image has.
        stream: The stream of random numbers.
        progress: The progress display.
        without: Operations that are switched off; the others keep what was drawn for them.
    """
    device, total = first_device(model.encoder), rounds * len(images)
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {place: [] for place in (PIXELS, *model.places)}
    numbers, rows = [], []
    batches = counted(_batches(images, rounds), progress, "views", total, lambda each: len(each[2]))
    with evaluating(model.encoder, model.head):
        for number, step, chosen in batches:
            batch = images.batch(chosen)
            generator = step_generator(model.seed, number, step, stream)
            height, width = batch.images.shape[-2:]
            drawn = model.views.sample(len(chosen), generator, (height, width), batch.sizes)
            drawn = drawn.without(*without)
            both = torch.cat(model.views.apply(batch.to(device), drawn))
            small = adaptive_avg_pool2d(both, min(SIDE, both.shape[-1])).flatten(1)
            features = {PIXELS: small, **read_places(model.encoder, model.head, both, model.places)}
            for place, values in features.items():
                first, second = values.float().cpu().chunk(2)
                parts[place].append((first, second))
            numbers.append(drawn.numbers())
            rows.append(torch.from_numpy(chosen))
    joined = {
        place: torch.cat([each[side] for side in (0, 1) for each in pairs]) for place, pairs in parts.items()
    }
    return ViewRows(joined, _joined(numbers), torch.cat(rows))


def _read_twice(
    model: ReadModel, images: ImageSet, stream: int, progress: Progress | None
) -> tuple[ViewRows, ViewRows]:
    """Pairs of views with flips off, and half as many with flips on, whose two views are a row each."""
    if len(images) < LEAST_IMAGES:
        least = f"{LEAST_IMAGES} images to learn from and {LEAST_IMAGES} to be scored on"
        raise DataError(f"The read-out of views needs {least}, but {images} has {len(images)}; give more.")
    most = min(_MOST, max(_LEAST, _PIXELS_READ // model.views.image_size**2))
    count = min(most if stream == _TRAIN_STREAM else most // 2, _MOST_ROUNDS * len(images))
    sample = images.limited(min(count, len(images)), model.seed)
    rounds = round(count / len(sample))
    flips = any("flip" in view for view in model.views.operations)
    still = read_views(model, sample, rounds, stream, progress, without=("flip",) if flips else ())
    if not flips:
        return still, still
    fewer = sample.limited(max(1, len(sample) // 2), model.seed) if rounds == 1 else sample
    return still, read_views(model, fewer, max(1, rounds // 2), stream, progress)


def _batches(images: ImageSet, rounds: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """The number of the round and of the batch in it, and the rows of the batch."""
    for number in range(rounds):
        for step, start in enumerate(range(0, len(images), _BATCH_SIZE)):
            yield number, step, np.arange(start, min(start + _BATCH_SIZE, len(images)))


def _joined(numbers: Sequence[ViewNumbers]) -> ViewNumbers:
    """The numbers of several batches as one."""
    first, second = (
        {name: torch.cat([view[name] for view in views]) for name in views[0]}
        for views in ([each.first for each in numbers], [each.second for each in numbers])
    )
    return ViewNumbers(first, second)


def _of_differences(train: ViewRows, test: ViewRows, colours: Sequence[str]) -> dict[str, dict[str, float]]:
    """Operation, or operation and number -> place -> R^2 of the difference of two views."""
    numbers = _NUMBERS | {"colour": tuple(colours)}
    targets, test_targets = train.numbers.differences(), test.numbers.differences()
    varied = {
        name: (_varies(targets[name]) & _varies(test_targets[name])).nonzero()[:, 0]
        for name in targets
        if name not in SWITCHES
    }
    varied = {name: columns for name, columns in varied.items() if len(columns)}
    found: dict[str, dict[str, float]] = {}
    for place in train.features if varied else ():
        x, test_x = (torch.cat(rows.features[place].chunk(2), 1) for rows in (train, test))
        fit = _Fit.of(x, train.images)
        for name, columns in varied.items():
            shares = fit.explained(targets[name][:, columns], test_x, test_targets[name][:, columns])
            found.setdefault(name, {})[place] = float(shares.mean())
            for column, share in zip(columns.tolist(), shares.tolist(), strict=True):
                if len(columns) > 1:
                    found.setdefault(f"{name} {numbers[name][column]}", {})[place] = share
    return found


def _of_switches(train: ViewRows, test: ViewRows) -> dict[str, dict[str, float]]:
    """Operation -> place -> AUROC of whether it was applied to a view.

    If an operation varies in one of the two views alone, only that view is asked.
    """
    found: dict[str, dict[str, float]] = {}
    by_sides: dict[tuple[int, ...], list[str]] = {}
    for name in (each for each in train.numbers.dims if each in SWITCHES):
        varied = [all(_varies(rows.side(side, name)).any() for rows in (train, test)) for side in (0, 1)]
        if any(varied):
            by_sides.setdefault(tuple(side for side in (0, 1) if varied[side]), []).append(name)
    for sides, names in by_sides.items():
        for place in train.features:
            x, test_x = (
                torch.cat([rows.features[place].chunk(2)[side] for side in sides]) for rows in (train, test)
            )
            fit = _Fit.of(x, train.images.repeat(len(sides)))
            for name in names:
                hit, test_hit = (
                    torch.cat([rows.side(side, name) for side in sides]) != NEUTRAL[name][0]
                    for rows in (train, test)
                )
                scores = fit.predicted(hit.float(), test_x)
                found.setdefault(name, {})[place] = auroc(scores[:, 0], test_hit[:, 0])
    return found


@dataclass(frozen=True, eq=False)
class _Fit:
    """Ridge regressions on training features, with the rows that choose the penalty."""

    whole: Ridge
    part: Ridge
    held_out: Tensor
    features: Tensor

    @classmethod
    def of(cls, features: Tensor, images: Tensor) -> "_Fit":
        """Hold out all rows of every fifth image: other views of it must not be learnt from."""
        held_out = images % _HELD_OUT == 0
        return cls(Ridge.of(features), Ridge.of(features[~held_out]), held_out, features[held_out])

    def explained(self, targets: Tensor, features: Tensor, test_targets: Tensor) -> Tensor:
        return self.whole.explained(targets, self._penalty(targets), features, test_targets)

    def predicted(self, targets: Tensor, features: Tensor) -> Tensor:
        return self.whole.predict(targets, self._penalty(targets), features)

    def _penalty(self, targets: Tensor) -> float:
        return self.part.best_penalty(targets[~self.held_out], self.features, targets[self.held_out])


def _varies(values: Tensor) -> Tensor:
    """Whether each column of values (N, k) has more than one value, (k,)."""
    return (values != values[:1]).any(0)
