"""Pipelines of operations, the parameters drawn for them, and the views that they make of a batch."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from fullrank.batch import Batch, as_float
from fullrank.errors import UsageError, unknown_name
from fullrank.preprocessing import NO_FLOATS
from fullrank.view_numbers import ViewNumbers, view_numbers
from fullrank.views.colour_map import ColourMap
from fullrank.views.operations import Crop, Drop, Layers, Operation, Source, Values

# How many values are processed at a time, because a CPU's cache is far faster than its memory.
_VALUES_AT_ONCE = 2**20
_NOTHING_DROPPED = Drop(0.0)


@dataclass(frozen=True)
class Pipeline:
    """The operations of one view: drop a layer, crop or only resize, then other operations in order.

    Args:
        crop: The crop.
        then: The operations after it.
        drop: What is dropped before it.
        composed: Combine affine colour changes and apply them at once (`ColourMap`). The result differs only
            in the clamping to 0 to 1 between them.

    >>> from fullrank.views.operations import Grey
    >>> Pipeline(Crop(size=8), (Grey(0.2),)).names
    ('crop', 'flip', 'grey')
    """

    crop: Crop
    then: tuple[Operation, ...] = ()
    drop: Drop = _NOTHING_DROPPED
    composed: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The names that can be switched off, in order."""
        then = (name for operation in (self.crop, *self.then) for name in operation.names)
        return (*self.drop.names, *then)

    @property
    def spans(self) -> dict[str, float]:
        """Name -> the width of the range that its factors are drawn from, where they have one."""
        return {name: span for operation in self.then for name, span in operation.spans.items()}

    def sample(self, count: int, generator: torch.Generator, source: Source) -> dict[str, Tensor]:
        """The values of every operation for `count` images of height and width `source`."""
        values = self.drop.sample(count, generator, source)
        for operation in (self.crop, *self.then):
            values |= operation.sample(count, generator, source)
        return values

    def apply(self, images: Tensor, values: Values, layers: Layers | None = None) -> Tensor:
        """images (N, C, H, W) in 0 to 1 -> the view (N, C, size, size) in 0 to 1.

        For composites, `layers` holds the same images in uint8 without each layer.
        """
        images = self.drop.apply(images, values, layers or {})
        if self.composed:
            due = ColourMap(self.crop.apply(images, values))
            for operation in self.then:
                due = operation.compose(due, values)
            return due.applied()
        for operation in (self.crop, *self.then):
            images = operation.apply(images, values)
        return images


@dataclass(frozen=True, eq=False)
class ViewParameters:
    """Everything drawn for the views of a batch, on the CPU: name -> (N, ...), in order of application.

    A missing name is switched off. A slice along N belongs to the same slice of the batch, so each process
    takes its own rows of one global draw.

    Attributes:
        first: The values of the first view.
        second: The values of the second view.
        count: The number of images.
        source: Height and width of the images.
        spans: For each view, name -> the width of the range that its factors are drawn from.
        more: The values of the views after the second.

    >>> from fullrank.views import view_pipeline
    >>> drawn = view_pipeline("weak", image_size=8).sample(4, step_generator(seed=0, epoch=0, step=0))
    >>> len(drawn), len(drawn[1:3]), drawn.names, drawn.without("flip").names
    (4, 2, ('crop', 'flip'), ('crop',))
    """

    first: dict[str, Tensor]
    second: dict[str, Tensor]
    count: int
    source: tuple[int, int]
    spans: tuple[Mapping[str, float], ...] = field(default=({}, {}))
    more: tuple[dict[str, Tensor], ...] = ()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, rows: slice) -> "ViewParameters":
        taken = self._each(lambda view: {name: values[rows] for name, values in view.items()})
        return replace(taken, count=len(range(*rows.indices(self.count))))

    @property
    def views(self) -> tuple[dict[str, Tensor], ...]:
        """The values of every view, in order."""
        return self.first, self.second, *self.more

    @property
    def names(self) -> tuple[str, ...]:
        """The names that are switched on in any view."""
        return tuple(dict.fromkeys(name for view in self.views for name in view))

    def without(self, *names: str) -> "ViewParameters":
        """The same draw with these operations switched off. UsageError for one that is not on."""
        for name in names:
            if name not in self.names:
                on = ", ".join(self.names) or "nothing"
                raise unknown_name("operation", name, self.names, f"switched on here: {on}")
        return self._each(lambda view: {name: values for name, values in view.items() if name not in names})

    def numbers(self, names: tuple[str, ...] | None = None) -> ViewNumbers:
        """The parameters of all views as numbers, float32, for the operations that are on in any.

        Args:
            names: The names to have numbers of instead; those that are off have the neutral ones.

        >>> from fullrank.views import view_pipeline
        >>> views = view_pipeline("simclr,blur=0", image_size=8, channels=1)
        >>> views.sample(4, step_generator(seed=0, epoch=0, step=0)).numbers().dims
        {'crop': 4, 'flip': 1, 'colour': 2}
        """
        first, second, *more = (
            view_numbers(values, names or self.names, spans, self.source, self.count)
            for values, spans in zip(self.views, self.spans, strict=True)
        )
        return ViewNumbers(first, second, tuple(more))

    def _each(self, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> "ViewParameters":
        """Change the values of every view."""
        first, second, *more = map(change, self.views)
        return replace(self, first=first, second=second, more=tuple(more))


@dataclass(frozen=True)
class Views:
    """Two pipelines or more, and how they turn a batch into as many views.

    Global views come first, and all have the size of the first. Local crops come last; they have a size of
    their own, which is not larger.

    Args:
        first: The pipeline of the first view.
        second: The pipeline of the second view.
        channels: Channels of the images.
        more: The pipelines of further views.
        local: How many of `more`, counted from the end, are local crops.

    Raises:
        UsageError: The sizes differ among the global views or among the local crops, or a local crop is
            larger than a global view.

    >>> from fullrank.views import view_pipeline
    >>> views = view_pipeline("simclr", image_size=8, channels=1)
    >>> images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    >>> batch = Batch(images, labels=torch.tensor([-1, -1]), index=torch.arange(2))
    >>> view_a, view_b = views.apply(batch, views.sample(2, step_generator(seed=0, epoch=0, step=0)))
    >>> view_a.shape, view_a.dtype
    (torch.Size([2, 1, 8, 8]), torch.float32)
    """

    first: Pipeline
    second: Pipeline
    channels: int = 3
    more: tuple[Pipeline, ...] = ()
    local: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.local <= len(self.more):
            problem = f"local={self.local} of {len(self.more)} further views cannot be local crops"
            raise UsageError(f"{problem}; the first two views are always global.")
        whole, crops = self.sizes[: self.global_count], self.sizes[self.global_count :]
        if len(set(whole)) > 1 or len(set(crops)) > 1:
            listed = ", ".join(map(str, self.sizes))
            raise UsageError(
                f"The views have the sizes {listed}; give all global views one size, and all local crops one."
            )
        if crops and crops[0] > whole[0]:
            raise UsageError(
                f"The local crops have {crops[0]} pixels, more than the {whole[0]} of the global views; make "
                "them smaller."
            )

    @property
    def pipelines(self) -> tuple[Pipeline, ...]:
        """The pipelines of all views, in order."""
        return self.first, self.second, *self.more

    @property
    def count(self) -> int:
        """The number of views, V."""
        return len(self.pipelines)

    @property
    def global_count(self) -> int:
        """The number of global views, which come first."""
        return self.count - self.local

    @property
    def pair(self) -> "Views":
        """The first two views alone."""
        return Views(self.first, self.second, self.channels)

    @property
    def operations(self) -> tuple[tuple[str, ...], ...]:
        """The names of the operations of each view, in order."""
        return tuple(pipeline.names for pipeline in self.pipelines)

    @property
    def image_size(self) -> int:
        """Height and width of a global view."""
        return self.first.crop.size

    @property
    def sizes(self) -> tuple[int, ...]:
        """Height and width of each view."""
        return tuple(pipeline.crop.size for pipeline in self.pipelines)

    @property
    def number_dims(self) -> dict[str, int]:
        """Operation -> how many numbers `ViewParameters.numbers` has of it."""
        return self.sample(1, step_generator(seed=0, epoch=0, step=0)).numbers().dims

    def sample(
        self,
        count: int,
        generator: torch.Generator,
        source: tuple[int, int] | None = None,
        sizes: Tensor | None = None,
    ) -> ViewParameters:
        """Draw the parameters of all views. With many processes, draw for the global batch and take a slice.

        Args:
            count: The number of images.
            generator: The source of randomness.
            source: Height and width of the images, by default those of a view.
            sizes: For canvases onto which larger images were resized, the heights and widths (N, 2) of the
                originals. Boxes are drawn in the originals and placed on the canvas, so proportions are
                right.
        """
        source = source or (self.image_size, self.image_size)
        originals = source if sizes is None else sizes
        drawn = [pipeline.sample(count, generator, originals) for pipeline in self.pipelines]
        if sizes is not None:
            for values in drawn:
                if "crop" in values:
                    values["crop"] = laid_on_canvas(values["crop"], sizes, source)
        first, second, *more = drawn
        spans = tuple(pipeline.spans for pipeline in self.pipelines)
        return ViewParameters(first, second, count, source, spans, tuple(more))

    def apply(self, batch: Batch, parameters: ViewParameters) -> tuple[Tensor, ...]:
        """The views, float32 (N, C, size, size) in 0 to 1 each, on the batch's device.

        They are not standardised: the encoder does that.

        Args:
            batch: The images.
            parameters: What `sample` drew for them.

        Raises:
            UsageError: Unless the images are uint8 and their number, size and channels match the parameters,
                or for a layer to drop that the batch lacks.
        """
        return self._make(batch, parameters, self.pipelines)

    def apply_first(self, batch: Batch, parameters: ViewParameters) -> Tensor:
        """The first view alone, as `apply` makes it."""
        return self._make(batch, parameters, (self.first,))[0]

    def check_layers(self, layers: Collection[str]) -> None:
        """Raise UsageError if a layer is to be dropped that images with these `layers` lack.

        >>> from fullrank.views import view_pipeline
        >>> view_pipeline("weak,drop=0.5", image_size=8).check_layers([])  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        fullrank.errors.UsageError: drop=0.5 removes the layer 'foreground' of composites, but these ...
        """
        for pipeline in self.pipelines:
            pipeline.drop.check(layers)

    @torch.no_grad()
    def _make(
        self, batch: Batch, parameters: ViewParameters, pipelines: tuple[Pipeline, ...]
    ) -> tuple[Tensor, ...]:
        images = batch.images
        if images.is_floating_point():
            raise UsageError(f"These images are {images.dtype}: {NO_FLOATS}.")
        expected = (len(parameters), self.channels, *parameters.source)
        if tuple(images.shape) != expected:
            problem = f"The images have shape {tuple(images.shape)}, but the views expect {expected}"
            raise UsageError(f"{problem}; build views for the channels and draw for the number and size.")
        sides = [pipeline.crop.size for pipeline in pipelines]
        views = tuple(
            torch.empty(len(images), self.channels, side, side, device=images.device) for side in sides
        )
        # In mixed precision the products of crop and blur would have 16 bits.
        with torch.autocast(images.device.type, enabled=False):
            for rows in _chunks(images):
                part, drawn = as_float(images[rows]), parameters[rows]
                layers = {name: layer[rows] for name, layer in (batch.layers or {}).items()}
                for view, pipeline, mine in zip(views, pipelines, drawn.views, strict=False):
                    view[rows] = pipeline.apply(part, mine, layers)
        return views


def laid_on_canvas(boxes: Tensor, sizes: Tensor, canvas: tuple[int, int]) -> Tensor:
    """Boxes (N, 4) of images of `sizes` (N, 2), as float64 boxes of the canvas of each image."""
    limit = torch.tensor(canvas, dtype=torch.float64)
    scale = limit / sizes.cpu()
    extent = torch.minimum((boxes[:, 2:] * scale).clamp_min(1.0), limit)  # at least one pixel of the canvas
    corner = torch.minimum(boxes[:, :2] * scale, limit - extent)
    return torch.cat([corner, extent], dim=1)


def step_generator(seed: int, epoch: int, step: int, stream: int = 0) -> torch.Generator:
    """The generator of one step's draws. A resumed run therefore draws the same as an uninterrupted one.

    Args:
        seed: The seed of the run.
        epoch: The number of the epoch.
        step: The number of the step in its epoch.
        stream: Streams of a step are independent: 0 is for the views, 1 for the objective.

    Raises:
        UsageError: For a negative number.

    >>> first, second = (torch.rand((), generator=step_generator(0, 1, step)) for step in (0, 1))
    >>> bool(first == second)
    False
    """
    if min(seed, epoch, step) < 0:
        raise UsageError(f"seed, epoch and step must be 0 or more, but got {seed}, {epoch} and {step}.")
    state = np.random.SeedSequence(
        seed, spawn_key=(epoch, step, stream) if stream else (epoch, step)
    ).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def _chunks(images: Tensor) -> Iterator[slice]:
    """Rows that fit into a CPU's cache together. On other devices, all rows."""
    count = len(images)
    size = max(1, _VALUES_AT_ONCE // images[0].numel()) if count and images.device.type == "cpu" else count
    return (slice(start, min(start + size, count)) for start in range(0, count, max(size, 1)))
