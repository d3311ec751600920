"""Probe any model on any images, and under distribution shifts."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from torch import nn

from fullrank.data import ImageSet
from fullrank.devices import flushed_denormals, on_accelerator
from fullrank.door import import_modules
from fullrank.embeddings.kinds import is_embeddings
from fullrank.errors import UsageError
from fullrank.evaluation.evaluate import Evaluation, check_probeable, evaluate
from fullrank.evaluation.factors import factor_scores
from fullrank.evaluation.probe_file import probe_file
from fullrank.evaluation.scores import Request
from fullrank.evaluation.segmentation import Rebuild, initial_net, segmentation
from fullrank.evaluation.shifts import load_shift
from fullrank.probes.few_shots import EPISODES
from fullrank.probes.linear import Treatment
from fullrank.record import Baseline
from fullrank.record.scores import BASELINES, SEGMENTATION, VIEWS
from fullrank.runs.baselines import baselines, run_baselines
from fullrank.runs.build import GivenImages, load_data
from fullrank.runs.run import Run
from fullrank.runs.view_readout import ReadModel, default_views, view_readout
from fullrank.targets.images import Images, images_of
from fullrank.targets.opening import Target, target as open_target
from fullrank.views import view_pipeline


@flushed_denormals()
def probe(
    target: "str | Path | nn.Module | type[nn.Module] | Run | Target",
    places: Sequence[str] | None = None,
    *,
    data: Any = None,
    label: str = "label",
    column: str | None = None,
    measures: Sequence[str] = (),
    shots: Sequence[int] = (),
    episodes: int = EPISODES,
    shifts: Sequence[str] = (),
    features: str = "raw",
    views: str | None = None,
    imports: Sequence[str | Path | ModuleType] = (),
) -> Evaluation:
    """Probe any model at any place: fit on the training images of some data, score on their test images.

    Args:
        target: What `fullrank.target` takes, or what it returns; or a file of embeddings with labels.
        places: Where features are read. None is h, and for a run the inner layers of its head and z too.
        data: The spec of a source, whose classes may be any, or a pair of torch Datasets (train, test). None
            means a run's own images. A run that was trained on a torch Dataset takes the same Dataset again.
        label: The name of the labels, if there are several kinds (`coarse` of CIFAR-100). For embeddings: a
            file, an array or a column.
        column: For embeddings: the array or column of the features.
        measures: Further measures: "reduced", "redundancy", "retrieval", "per-class", "groups",
            "group-balanced", "corrections" (see `evaluate`), "factors" (see `factor_scores`), "views" (see
            `view_readout`), "segmentation" (see `segmentation`; the images need masks) and "baselines". The
            last are the same probes on pixels and on the encoder before training; the default is to return
            the run's own baselines.
        shots: Also probe on these numbers of training images per class: the mean accuracy over random draws
            of the images, with its 95 % t interval.
        episodes: Number of these draws.
        shifts: Specs of sources whose test images the same probes also score. The `split` of their scores is
            the canonical spec.
        features: What the linear probe does to features first: "raw", "l2" or "standardised".
        views: The spec of the views for the measure "views". None means a run's own views, and `simclr` for
            any other model, without the operations that the channels of its images forbid.
        imports: Modules or files that register your own parts, as `--import` does.

    Raises:
        DataError: The images have fewer than two classes, or a shift cannot be read.
        UsageError: A place, label, measure or shift is unknown, or images are missing.

    >>> import tempfile
    >>> from fullrank import train
    >>> run = train("digits", out=tempfile.mkdtemp() + "/run", head="none", epochs=1, classes="3+8")
    >>> list(probe(run, ["h", "h[:24]"]).probes)
    ['h', 'h[:24]']
    """
    import_modules(imports)
    seed = target.recipe.seed if isinstance(target, Run) else 0
    request = Request(label, measures, shots, cast(Treatment, features), seed, episodes)
    if views is not None and VIEWS not in request.measures:
        raise UsageError(f"The views {views} are for the measure views; ask for it, or leave the views out.")
    if is_embeddings(target):
        if data is not None or shifts or places:
            raise UsageError("A file of embeddings takes no data, shifts or places; leave them out.")
        return probe_file(cast("str | Path", target), request, column)
    opened = open_target(target)
    if column is not None:
        raise UsageError(f"The column {column!r} is for a file of embeddings; leave it out.")
    if opened.run is not None:
        request = replace(request, seed=opened.run.recipe.seed)
        views = views or str(opened.run.recipe.views)
    request = replace(request, views=views)
    if opened.run is not None and (data is None or not isinstance(data, str | type)):
        return _probe_run(opened.run, places, request, shifts, data)
    return _probe_model(opened, places, request, shifts, images_of(opened, data))


def _probe_run(
    run: Run, places: Sequence[str] | None, request: Request, shifts: Sequence[str], data: Any
) -> Evaluation:
    """A run on its own images, with factors and baselines."""
    train, test = load_data(run.recipe, None if data is None else GivenImages.of(data))
    _check(train, test, request)
    sets = dict(load_shift(spec, train) for spec in shifts)
    parts = run.encoder, run.head
    with on_accelerator(*parts):
        evaluation = evaluate(*parts, train, test, places, request, sets)
        if "factors" in request.measures:
            evaluation.scores.extend(factor_scores(run.recipe, *parts, train, test, places))
        if VIEWS in request.measures:
            evaluation = _with_views(evaluation, *parts, (train, test), request)
        if SEGMENTATION in request.measures:
            evaluation = _with_segmentation(
                evaluation, run.encoder, test, initial_net(run.recipe, train), request
            )
    beside: list[Baseline] = []
    if BASELINES in request.measures:
        beside = run_baselines(run.recipe, train, test, request.label)
    elif (request.label, request.features) == ("label", "raw"):
        beside = [
            each for entry in run.record.runs if entry.images == evaluation.images for each in entry.baselines
        ]
    return replace(evaluation, baselines=beside)


def _probe_model(
    target: Target, places: Sequence[str] | None, request: Request, shifts: Sequence[str], images: Images
) -> Evaluation:
    """Any model, or a run on images that it was not trained on."""
    if images.train is None:
        raise UsageError("Probes need images to learn from and to be scored on; give data=(train, test).")
    if "factors" in request.measures:
        raise UsageError("The measure factors needs the recipe of a run; leave it out, or name a run.")
    _check(images.train, images.test, request)
    encoder = target.opened(images.train)
    preprocessing = target.preprocessing_of(images.train)
    sets = dict(load_shift(spec, images.train, target.preprocessing) for spec in shifts)
    if places is None and target.head is None:
        places = ["h"]
    head = nn.Identity() if target.head is None else target.head
    rebuild = None
    if target.rebuild is not None and preprocessing is not None:
        rebuild = partial(target.rebuild, images.train, preprocessing)
    untrained = rebuild if target.run is None else initial_net(target.run.recipe, images.train)
    with on_accelerator(encoder, head):
        evaluation = evaluate(encoder, head, images.train, images.test, places, request, sets)
        if SEGMENTATION in request.measures:
            evaluation = _with_segmentation(evaluation, encoder, images.test, untrained, request)
        if VIEWS in request.measures:
            evaluation = _with_views(evaluation, encoder, head, (images.train, images.test), request)
    notes = evaluation.notes if target.trained else [target.about_weights, *evaluation.notes]
    beside: list[Baseline] = []
    if BASELINES in request.measures:
        beside = baselines(images.train, images.test, request.label, rebuild, seed=request.seed)
    return replace(evaluation, notes=notes, baselines=beside)


def _check(train: ImageSet, test: ImageSet, request: Request) -> None:
    """Raise DataError unless there are labels to probe, which views and segmentation alone do not need."""
    if SEGMENTATION in request.measures and not test.has_masks:
        test.object_masks()
    if request.measures and set(request.measures) <= {VIEWS, SEGMENTATION} and not request.shots:
        train.check_label(request.label)
    else:
        check_probeable(train, test, request.label)


def _with_views(
    evaluation: Evaluation,
    encoder: nn.Module,
    head: nn.Module,
    images: tuple[ImageSet, ImageSet],
    request: Request,
) -> Evaluation:
    """What the features know of the views too, at the same places, with a note that says which views."""
    train, test = images
    spec = request.views or default_views(test.channels)
    pipeline = view_pipeline(spec, image_size=test.image_size, channels=test.channels).pair
    model = ReadModel(encoder, head, list(evaluation.spectrum), pipeline, spec, request.seed)
    found = view_readout(model, train, test, label=request.label)
    scores = [*evaluation.scores, *found.scores]
    return replace(evaluation, scores=scores, notes=[*evaluation.notes, *found.about])


def _with_segmentation(
    evaluation: Evaluation, encoder: nn.Module, test: ImageSet, rebuild: Rebuild | None, request: Request
) -> Evaluation:
    """What the attention and the gradient know of the objects in the test images too."""
    found = segmentation(encoder, test, rebuild, label=request.label, seed=request.seed)
    scores = [*evaluation.scores, *found.scores]
    return replace(evaluation, scores=scores, notes=[*evaluation.notes, *found.notes])
