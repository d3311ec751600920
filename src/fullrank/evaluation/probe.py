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
    """Probe a finished run at `places` (by default h, the head's inner layers and z), on its own data.

    A run on images that were given in Python needs them again as `data`. `imports` are modules of yours.

    `label` chooses among several kinds of labels (`coarse` of CIFAR-100); the measure "factors" adds the
    weight of every known factor (see `factor_scores`), the other `measures`, `shots` and `features`
    add to the linear and nearest-neighbour accuracy or change it (see `evaluate`). `shifts` are specs of
    sources whose test images, brought to the run's image size, are scored by the same probes; their scores'
    `split` is the canonical spec. Raises DataError for images with fewer than two classes, UsageError for a
    place, label or measure that there is not, and what `load_shift` and `evaluate` raise.
    """
    run = run if isinstance(run, Run) else load(run, imports=imports)
    request = Request(label, measures, shots, cast(Treatment, features), run.recipe.seed)
    train, test = load_data(run.recipe, None if data is None else GivenImages.of(data))
    check_probeable(train, test, label)
    sets = dict(load_shift(spec, train) for spec in shifts)
    parts = run.encoder, run.head
    with on_accelerator(*parts):
        evaluation = evaluate(*parts, train, test, places, request, sets)
        if "factors" not in measures:
            return evaluation
        weights = factor_scores(run.recipe, *parts, train, test, places)
    return replace(evaluation, scores=[*evaluation.scores, *weights])
