"""Probing a finished run on its own images and under shifts."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from fullrank.devices import flushed_denormals, on_accelerator
from fullrank.evaluation.evaluate import Evaluation, check_probeable, evaluate
from fullrank.evaluation.factors import factor_scores
from fullrank.evaluation.scores import Request
from fullrank.evaluation.shifts import load_shift
from fullrank.probes.linear import Treatment
from fullrank.record import Baseline
from fullrank.record.scores import BASELINES
from fullrank.runs.baselines import run_baselines
from fullrank.runs.build import GivenImages, load_data
from fullrank.runs.run import Run, load


@flushed_denormals()
def probe(
    run: str | Path | Run,
    places: Sequence[str] | None = None,
    *,
    label: str = "label",
    measures: Sequence[str] = (),
    shots: Sequence[int] = (),
    shifts: Sequence[str] = (),
    features: str = "raw",
    data: Any = None,
    imports: Sequence[str | Path | ModuleType] = (),
) -> Evaluation:
    """Probe a finished run on its own images.

    Args:
        run: a run, or its folder.
        places: where features are read; by default h, the head's inner layers and z.
        label: which of several kinds of labels is predicted, as in `coarse` of CIFAR-100.
        measures: what is added to the linear and nearest-neighbour accuracy (see `evaluate`). "factors" adds
            the weight of every known factor (see `factor_scores`). "baselines" measures the same probes on
            pixels and on the encoder before training; without it, the result has those of the run's record.
        shots: numbers of training images per class; a linear probe is added for each.
        shifts: specs of sources whose test images, at the run's image size, are scored by the same probes.
            The `split` of such a score is the canonical spec.
        features: what linear probes do to features first: raw, l2 or standardised.
        data: the images of a run that was trained on images given in Python.
        imports: modules of your parts.

    Raises:
        DataError: for images with fewer than two classes, and as `load_shift` and `evaluate` do.
        UsageError: for an unknown place, label or measure.
    """
    run = run if isinstance(run, Run) else load(run, imports=imports)
    request = Request(label, measures, shots, cast(Treatment, features), run.recipe.seed)
    train, test = load_data(run.recipe, None if data is None else GivenImages.of(data))
    check_probeable(train, test, label)
    sets = dict(load_shift(spec, train) for spec in shifts)
    parts = run.encoder, run.head
    with on_accelerator(*parts):
        evaluation = evaluate(*parts, train, test, places, request, sets)
        scores = evaluation.scores
        if "factors" in measures:
            scores = [*scores, *factor_scores(run.recipe, *parts, train, test, places)]
    beside: list[Baseline] = []
    if BASELINES in measures:
        beside = run_baselines(run.recipe, train, test, label)
    elif (label, features) == ("label", "raw"):
        beside = [
            each for entry in run.record.runs if entry.images == evaluation.images for each in entry.baselines
        ]
    return replace(evaluation, scores=scores, baselines=beside)
